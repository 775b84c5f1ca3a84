//! Reads the variables of `.env` files, as the tools of the hosts write them (`vercel env pull`
//! writes `.env.local`).

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use antifreeze::internal;
use antifreeze_doctor::printable;

use crate::outcome::Failure;
use crate::output;

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

/// A variable's value and the file that it is from.
pub type Variables = BTreeMap<String, (String, String)>;

/// Reads the named file, or those of the current directory unless `only_named`, and adds their
/// variables to the environment. Returns the file of each variable that the command may read.
pub fn load(named: Option<&Path>, only_named: bool) -> Result<BTreeMap<String, String>, Failure> {
    let of_process = |name: &&str| std::env::var(name).is_ok_and(|value| !value.trim().is_empty());
    let preceding = DATABASES.into_iter().find(of_process);
    let files: Vec<PathBuf> = match named {
        Some(path) => vec![path.to_owned()],
        None if only_named => Vec::new(),
        None => DEFAULT.map(PathBuf::from).to_vec(),
    };
    let mut variables = Variables::new();
    for path in files {
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if named.is_none() && error.kind() == ErrorKind::NotFound => continue,
            Err(error) => {
                let name = path.display();
                let failure = Failure::new(format!("cannot read the variables of {name}"));
                return Err(failure.caused_by(error));
            }
        };
        if let Some(preceding) = preceding.filter(|_| !only_named) {
            if named.is_some() {
                output::eprint(&format!(
                    "{} is not used: the environment has {preceding}, which precedes it",
                    printable(&path.display().to_string())
                ));
            }
            continue;
        }
        add(&mut variables, &text, &path.display().to_string());
    }
    let values = variables.iter();
    let values = values.map(|(name, (value, _))| (name.clone(), value.clone()));
    internal::add_variables(values.collect());
    let ours = variables.into_iter().filter(|(name, _)| {
        let is_ours = OURS.iter().any(|prefix| name.starts_with(prefix));
        is_ours || DATABASES.contains(&name.as_str())
    });
    Ok(ours.map(|(name, (_, file))| (name, file)).collect())
}

/// Adds the variables of a file, except those that an earlier file has.
fn add(variables: &mut Variables, text: &str, file: &str) {
    for (name, value, is_literal) in parse(text) {
        if !is_literal && value.contains("${") {
            let is_ours = OURS.iter().any(|prefix| name.starts_with(prefix));
            if is_ours || DATABASES.contains(&name) {
                output::eprint(&format!(
                    "{name} of {} is not used: it contains ${{..}}, which is not replaced here; \
                     export the variable instead",
                    printable(file)
                ));
            }
            continue;
        }
        let entry = variables.entry(name.to_owned());
        entry.or_insert_with(|| (value, file.to_owned()));
    }
}

/// Parses the text of a file: names, values, and whether a value was in single quotes. The
/// grammar is that of npm's dotenv, which Vercel's tools use, but a `#` begins a comment after a
/// blank only, as in dotenvy: URLs contain it.
fn parse(text: &str) -> Vec<(&str, String, bool)> {
    let mut variables = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let line = rest.lines().next().unwrap_or_default();
        let (entry, after) = match entry(line) {
            // A quoted value may have several lines.
            Some((name, begin)) => {
                let (value, is_literal, length) = value(&rest[begin..]);
                (Some((name, value, is_literal)), begin + length)
            }
            None => (None, line.len()),
        };
        variables.extend(entry);
        let end = rest[after..].find('\n').map(|end| after + end + 1);
        rest = end.map_or("", |end| &rest[end..]);
    }
    variables
}

/// Returns the name in a line, and where its value begins.
fn entry(line: &str) -> Option<(&str, usize)> {
    let equals = line.find('=')?;
    let name = line[..equals].trim();
    let name = name.strip_prefix("export ").unwrap_or(name).trim();
    let mut chars = name.chars();
    let begins = chars
        .next()
        .is_some_and(|c| c.is_ascii_alphabetic() || c == '_');
    let is_name = begins && chars.all(|c| c.is_ascii_alphanumeric() || "_.-".contains(c));
    let blanks = line[equals + 1..].len() - line[equals + 1..].trim_start().len();
    is_name.then_some((name, equals + 1 + blanks))
}

/// Parses the value at the beginning of `text`: the value, whether it was in single quotes, and
/// its length in the file.
fn value(text: &str) -> (String, bool, usize) {
    let quote = text
        .chars()
        .next()
        .filter(|c| matches!(c, '"' | '\'' | '`'));
    if let Some(quote) = quote {
        let is_end = |at: usize| quote != '"' || !text[..at].ends_with('\\');
        let ends = text.match_indices(quote).skip(1);
        if let Some((end, _)) = ends.into_iter().find(|(at, _)| is_end(*at)) {
            let inner = &text[1..end];
            let inner = match quote {
                '"' => inner.replace("\\n", "\n").replace("\\r", "\r"),
                _ => inner.to_owned(),
            };
            return (inner, quote == '\'', end + 1);
        }
    }
    let line = text.lines().next().unwrap_or_default();
    let comment = line
        .match_indices('#')
        .find(|(at, _)| line[..*at].ends_with([' ', '\t']));
    let value = comment.map_or(line, |(at, _)| &line[..at]);
    (value.trim().to_owned(), false, line.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_parsed_as_their_tools_write_them() {
        let text = "# Created by Vercel CLI\n\
            A=\"postgres://u:p#$x@h/d\" # comment\n\
            export B = plain # comment\n\
            C='it is ${literal}'\n\
            D=a#b\r\n\
            E=\"two\\nlines\"\n\
            F=\"-----BEGIN\nKEY-----\"\n\
            G=\n\
            not a variable\n\
            1H=x\n\
            I=\"open\n\
            J=\"with \\\" inside\"\n";
        let parsed = parse(text);
        let values: Vec<_> = parsed
            .iter()
            .map(|(name, value, _)| (*name, value.as_str()))
            .collect();
        let expected = [
            ("A", "postgres://u:p#$x@h/d"),
            ("B", "plain"),
            ("C", "it is ${literal}"),
            ("D", "a#b"),
            ("E", "two\nlines"),
            ("F", "-----BEGIN\nKEY-----"),
            ("G", ""),
        ];
        assert_eq!(values[..7], expected);
        let literal = parsed.iter().find(|(name, ..)| *name == "C");
        assert!(literal.is_some_and(|(_, _, is_literal)| *is_literal));
        let last = parse("J=\"with \\\" inside\"\nK=1");
        assert_eq!(last[1].0, "K");
        assert_eq!(parse("I=\"open\nK=1")[1].1, "1");
    }

    #[test]
    fn first_file_takes_precedence() {
        let mut variables = Variables::new();
        add(&mut variables, "A=1\nB=${A}", ".env.local");
        add(&mut variables, "A=2\nC=3", ".env");
        let value = |name: &str| {
            variables
                .get(name)
                .map(|(value, file)| (value.as_str(), file.as_str()))
        };
        assert_eq!(value("A"), Some(("1", ".env.local")));
        assert_eq!(value("B"), None);
        assert_eq!(value("C"), Some(("3", ".env")));
    }
}
