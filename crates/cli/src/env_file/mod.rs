//! Reads the variables of `.env` files, as the tools of the hosts write them (`vercel env pull`
//! writes `.env.local`).

mod parse;

use std::collections::{BTreeMap, BTreeSet};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use antifreeze::internal;
use antifreeze_doctor::printable;

use crate::outcome::Failure;
use crate::output;
use parse::parse;

/// The files that are read if none is named; the first takes precedence.
const DEFAULT: [&str; 2] = [".env.local", ".env"];

/// Variables that name a database. If the environment has one of them, it is used as it is: a
/// mixture of both could send the password of one server to another, or migrate the wrong one.
const DATABASES: [&str; 10] = [
    "DATABASE_URL",
    "POSTGRES_URL",
    "DB_HOST",
    "PGHOST",
    "PGHOSTADDR",
    "DATABASE_URL_UNPOOLED",
    "POSTGRES_URL_NON_POOLING",
    "DIRECT_URL",
    "MIGRATION_DATABASE_URL",
    "ADMIN_DATABASE_URL",
];

/// The beginnings of the variables that the command reads.
const OURS: [&str; 5] = ["ANTIFREEZE_", "PG", "DB_", "POSTGRES_", "DATABASE_URL"];

/// Reads the named file, or those of the current directory unless `only_named`, and adds their
/// variables to the environment. Returns the file of each variable that the command may read.
pub fn load(named: Option<&Path>, only_named: bool) -> Result<BTreeMap<String, String>, Failure> {
    let process = of_process();
    let preceding = DATABASES.into_iter().find(|name| process.contains(*name));
    let preceding = preceding.filter(|_| !only_named);
    let paths: Vec<PathBuf> = match named {
        Some(path) => vec![path.to_owned()],
        None if only_named || preceding.is_some() => Vec::new(),
        None => DEFAULT.map(PathBuf::from).to_vec(),
    };
    let mut files = Files::default();
    for path in paths {
        let name = path.display().to_string();
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if named.is_some() => {
                let failure = Failure::new(format!("cannot read the variables of {name}"));
                return Err(failure.caused_by(error));
            }
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            Err(error) => {
                let shown = printable(&name);
                output::eprint(&format!("{shown} is not used: it cannot be read: {error}"));
                continue;
            }
        };
        match preceding {
            Some(preceding) => output::eprint(&format!(
                "{} is not used: the environment has {preceding}, which precedes it",
                printable(&name)
            )),
            None => files.add(&text, &name),
        }
    }
    let mut hidden = BTreeSet::new();
    if !only_named {
        hidden = files.hidden(&process);
    }
    for note in &files.notes {
        output::eprint(note);
    }
    let mut variables = files.variables;
    variables.retain(|name, _| hidden.contains(name) || !process.contains(name));
    let hidden = hidden.into_iter().map(|name| (name, None));
    let values = variables.iter();
    let values = values.map(|(name, (value, _))| (name.clone(), Some(value.clone())));
    internal::replace_variables(hidden.chain(values).collect());
    let ours = variables.into_iter().filter(|(name, _)| is_ours(name));
    Ok(ours.map(|(name, (_, file))| (name, file)).collect())
}

/// Returns the names of the process's variables that are not blank.
fn of_process() -> BTreeSet<String> {
    let variables = std::env::vars_os().filter_map(|(name, value)| {
        let value = internal::given(value.into_string().ok()?);
        value.and(name.into_string().ok())
    });
    variables.collect()
}

fn is_ours(name: &str) -> bool {
    OURS.iter().any(|prefix| name.starts_with(prefix)) || DATABASES.contains(&name)
}

/// Returns whether a variable belongs to a database: its address, its password or a setting of
/// its sessions.
fn is_of_database(name: &str) -> bool {
    is_ours(name) && !name.starts_with("ANTIFREEZE_") || name.ends_with("_DATABASE_URL")
}

/// The variables of the files that were read so far.
#[derive(Default)]
struct Files {
    /// The value of each variable, and the file that it is from.
    variables: BTreeMap<String, (String, String)>,
    /// The first file that names a database. The others say nothing about a database: their
    /// password or URL for migrations may be another server's.
    source: Option<String>,
    /// Which variables are not used, and why.
    notes: Vec<String>,
}

impl Files {
    /// Adds the variables of a file, except those that an earlier file has. As in dotenv and in
    /// a shell, the last of several values counts; a blank one counts as not set.
    fn add(&mut self, text: &str, file: &str) {
        let parsed = parse(text).into_iter();
        let parsed = parsed.map(|(name, value, is_literal)| (name, (value, is_literal)));
        let last: BTreeMap<&str, (String, bool)> = parsed.collect();
        let given = last.into_iter();
        let given: BTreeMap<_, _> = given
            .filter(|(_, (value, _))| !value.trim().is_empty())
            .collect();
        let precedes = self.source.is_some();
        // Even if it cannot be used: what it stands for is another database than that of the
        // other files.
        if !precedes && given.keys().any(|name| DATABASES.contains(name)) {
            self.source = Some(file.to_owned());
            self.drop_parts(file);
        }
        let mut of_other = Vec::new();
        for (name, (value, is_literal)) in given {
            if precedes && is_of_database(name) {
                of_other.extend((!self.variables.contains_key(name)).then_some(name));
                continue;
            }
            if !is_literal && value.contains("${") {
                if is_ours(name) {
                    self.notes.push(format!(
                        "{name} of {} is not used: it contains ${{..}}, which is not replaced \
                         here; export the variable instead",
                        printable(file)
                    ));
                }
                continue;
            }
            let entry = self.variables.entry(name.to_owned());
            entry.or_insert_with(|| (value, file.to_owned()));
        }
        if let Some(source) = &self.source {
            self.notes.extend(not_used(file, source, &of_other));
        }
    }

    /// Drops what the files before the source say about a database without naming one.
    fn drop_parts(&mut self, source: &str) {
        let mut parts: BTreeMap<String, Vec<String>> = BTreeMap::new();
        self.variables.retain(|name, (_, file)| {
            let is_part = is_of_database(name);
            if is_part {
                parts.entry(file.clone()).or_default().push(name.clone());
            }
            !is_part
        });
        for (file, names) in parts {
            let names: Vec<&str> = names.iter().map(String::as_str).collect();
            self.notes.extend(not_used(&file, source, &names));
        }
    }

    /// Returns the variables of the process that would complete the address in a file: its
    /// `PGPASSWORD` may be for another server. A URL is complete.
    fn hidden(&mut self, process: &BTreeSet<String>) -> BTreeSet<String> {
        let has = |name: &str| self.variables.contains_key(name);
        let prefixes: &[&str] = if has("DATABASE_URL") || has("POSTGRES_URL") {
            &[]
        } else if has("DB_HOST") {
            &["DB_", "POSTGRES_"]
        } else if has("PGHOST") || has("PGHOSTADDR") {
            &["PG"]
        } else {
            &[]
        };
        let is_part = |name: &&String| prefixes.iter().any(|prefix| name.starts_with(prefix));
        let hidden: BTreeSet<String> = process.iter().filter(is_part).cloned().collect();
        if let Some(source) = &self.source {
            let names: Vec<&str> = hidden.iter().map(String::as_str).collect();
            self.notes
                .extend(not_used("the environment", source, &names));
        }
        hidden
    }
}

/// Says which variables are not used, if there are any.
fn not_used(of: &str, source: &str, names: &[&str]) -> Option<String> {
    let (of, source, all) = (printable(of), printable(source), names.join(", "));
    let note = format!(
        "not used of {of}, since {source} names the database: {all}; put them into {source}, or \
         name one file with --env-file"
    );
    (!names.is_empty()).then_some(note)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns what is read from files with these texts.
    fn read(texts: &[(&str, &str)]) -> Files {
        let mut files = Files::default();
        for (file, text) in texts {
            files.add(text, file);
        }
        files
    }

    fn values(files: &Files) -> Vec<(&str, &str)> {
        let values = files.variables.iter();
        values
            .map(|(name, (value, _))| (name.as_str(), value.as_str()))
            .collect()
    }

    #[test]
    fn first_file_takes_precedence() {
        let files = read(&[(".env.local", "A=1\nB=${A}\nD="), (".env", "A=2\nC=3\nD=4")]);
        assert_eq!(values(&files), [("A", "1"), ("C", "3"), ("D", "4")]);
        assert_eq!(files.variables["A"].1, ".env.local");
        assert_eq!(files.variables["C"].1, ".env");
        assert!(files.notes.is_empty(), "{:?}", files.notes);
    }

    #[test]
    fn last_value_in_a_file_counts() {
        let files = read(&[(".env", "A=1\nB=1\nA=2\nB=\nC=${A}\nC=3\nD=1\nD=${A}")]);
        assert_eq!(values(&files), [("A", "2"), ("C", "3")]);
    }

    #[test]
    fn one_file_alone_names_the_database() {
        let second = "PGPASSWORD=b\nDB_PORT=1\nPOSTGRES_USER=u\nDATABASE_URL=b\nDIRECT_URL=b\n\
                      MIGRATION_DATABASE_URL=b\nSTORAGE_DATABASE_URL=b\nANTIFREEZE_POOLER=none";
        for first in [
            "DATABASE_URL=a",
            "PGHOST=a",
            "MIGRATION_DATABASE_URL=a",
            "DATABASE_URL=postgres://app:${SECRET}@a",
        ] {
            let files = read(&[(".env.local", first), (".env", second)]);
            let left = values(&files);
            assert!(!left.iter().any(|(_, value)| *value == "b"), "{left:?}");
            assert!(left.contains(&("ANTIFREEZE_POOLER", "none")), "{left:?}");
            let note = files.notes.last().expect("a note");
            let begin = "not used of .env, since .env.local names the database: ";
            assert!(note.starts_with(begin), "{note}");
            assert!(note.contains("PGPASSWORD"), "{note}");
        }
    }

    #[test]
    fn password_completes_no_other_file() {
        let files = read(&[
            (".env.local", "A=1\nPGPASSWORD=a\nANTIFREEZE_POOLER=none"),
            (".env", "PGHOST=b\nPGPASSWORD=b"),
        ]);
        let expected = [
            ("A", "1"),
            ("ANTIFREEZE_POOLER", "none"),
            ("PGHOST", "b"),
            ("PGPASSWORD", "b"),
        ];
        assert_eq!(values(&files), expected);
        let note = "not used of .env.local, since .env names the database: PGPASSWORD; put them \
                    into .env, or name one file with --env-file";
        assert_eq!(files.notes, [note]);
    }

    #[test]
    fn environment_does_not_complete_an_address() {
        let process = ["PATH", "PGPASSWORD", "POSTGRES_PASSWORD", "PGPORT"];
        let process: BTreeSet<String> = process.map(str::to_owned).into();
        for (text, expected) in [
            ("PGHOST=a", &["PGPASSWORD", "PGPORT"][..]),
            ("PGHOSTADDR=10.0.0.1", &["PGPASSWORD", "PGPORT"]),
            ("DB_HOST=a\nPGHOST=b", &["POSTGRES_PASSWORD"]),
            ("DATABASE_URL=a\nPGHOST=b", &[]),
            ("A=1", &[]),
        ] {
            let mut files = read(&[(".env", text)]);
            let hidden: Vec<String> = files.hidden(&process).into_iter().collect();
            assert_eq!(hidden, expected, "{text}");
            assert_eq!(
                files.notes.len(),
                usize::from(!expected.is_empty()),
                "{text}"
            );
        }
    }
}
