//! Reads migrations from a directory. A misnamed file is an error, never skipped silently.

use std::fs;
use std::path::{Path, PathBuf};

use refinery_core::{Migration, SchemaVersion};

use super::error::{Error, ErrorKind, Result};

/// Reads the migrations of `directory` and its subdirectories.
pub(super) fn read(directory: &Path) -> Result<Vec<Migration>> {
    let mut found = Found::default();
    found.search(directory)?;
    found.files.sort();
    let mut migrations = Vec::new();
    for path in &found.files {
        match named(&stem(path), "") {
            Err(why) => found.wrong.push((path.clone(), why)),
            Ok(_) if path.extension().is_some_and(|end| end == "rs") => {
                let why = "is a Rust migration: compile it in and use `from_runner`".to_owned();
                found.wrong.push((path.clone(), why));
            }
            Ok(_) => {
                let sql = fs::read_to_string(path).map_err(|error| unreadable(path, error))?;
                migrations.extend(named(&stem(path), &sql).ok());
            }
        }
    }
    if found.wrong.is_empty() {
        Ok(migrations)
    } else {
        Err(found.refused(directory))
    }
}

/// Returns the migration of this name.
///
/// # Errors
///
/// Returns what is wrong with the name, as a clause without a subject.
pub(super) fn named(name: &str, sql: &str) -> Result<Migration, String> {
    let misnamed = || "does not have the form `V1__name.sql`".to_owned();
    if !name.starts_with(['V', 'U']) {
        return Err(misnamed());
    }
    let migration = Migration::unapplied(name, sql).map_err(|error| match error.kind() {
        refinery_core::error::Kind::InvalidVersion => format!(
            "has an invalid version: expected an integer up to {}",
            SchemaVersion::MAX
        ),
        _ => misnamed(),
    })?;
    // Refinery ignores invalid characters after the name.
    match name.split_once("__") {
        Some((_, rest)) if rest == migration.name() => Ok(migration),
        _ => Err("has invalid characters in its name: expected letters, digits and `_`".to_owned()),
    }
}

#[derive(Default)]
struct Found {
    /// Files that are migrations, or look like migrations.
    files: Vec<PathBuf>,
    /// Files that are not migrations, each with the reason.
    wrong: Vec<(PathBuf, String)>,
}

impl Found {
    fn search(&mut self, directory: &Path) -> Result<()> {
        let entries = fs::read_dir(directory).map_err(|error| unreadable(directory, error))?;
        for entry in entries {
            let path = entry.map_err(|error| unreadable(directory, error))?.path();
            let is_candidate = is_candidate(&path);
            let metadata = match fs::metadata(&path) {
                Ok(metadata) => metadata,
                Err(error) if is_candidate => return Err(unreadable(&path, error)),
                Err(_) => continue,
            };
            if !metadata.is_dir() {
                if is_candidate {
                    self.files.push(path);
                }
            } else if path.is_symlink() {
                // A symbolic link could lead to a cycle, and refinery does not follow it.
                let why = "is a symbolic link to a directory, which is not followed".to_owned();
                self.wrong.push((path, why));
            } else {
                self.search(&path)?;
            }
        }
        Ok(())
    }

    fn refused(&mut self, directory: &Path) -> Error {
        self.wrong.sort();
        let wrong = self.wrong.iter().map(|(path, why)| {
            let path = path.strip_prefix(directory).unwrap_or(path);
            format!("{} {why}", path.display())
        });
        Error::new(
            ErrorKind::Files,
            format!(
                "{} contains files that are not migrations: {}; rename them (V or U, a version, \
                 `__`, letters, digits and `_`, `.sql`), or move them elsewhere",
                directory.display(),
                wrong.collect::<Vec<_>>().join(", ")
            ),
        )
    }
}

/// Returns whether it is an SQL file or a Rust migration of refinery. Hidden files belong to
/// an editor or the system.
fn is_candidate(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let end = path.extension().unwrap_or_default().to_string_lossy();
    !name.starts_with('.')
        && match end.to_ascii_lowercase().as_str() {
            "sql" => true,
            "rs" => named(&stem(path), "").is_ok(),
            _ => false,
        }
}

/// Returns the name without `.sql` or `.rs`, in lower case only.
fn stem(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let stem = name.strip_suffix(".sql").or(name.strip_suffix(".rs"));
    stem.unwrap_or(&name).to_owned()
}

fn unreadable(path: &Path, error: std::io::Error) -> Error {
    let why = match error.kind() {
        std::io::ErrorKind::InvalidData => "it is not valid UTF-8: save it as UTF-8",
        std::io::ErrorKind::NotFound => "it does not exist, or is a broken symbolic link",
        _ => "check its permissions",
    };
    let message = format!("cannot read {}: {why}", path.display());
    Error::new(ErrorKind::Files, message).with_source(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(files: &[&str]) -> String {
        let folder = tempfile::tempdir().expect("a folder");
        for file in files {
            let path = folder.path().join(file);
            fs::create_dir_all(path.parent().expect("a folder")).expect("made");
            fs::write(path, "select 1").expect("written");
        }
        match read(folder.path()) {
            Ok(all) => {
                let names: Vec<_> = all.iter().map(ToString::to_string).collect();
                names.join(" ")
            }
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Files);
                error.to_string()
            }
        }
    }

    #[test]
    fn misnamed_migrations_are_reported() {
        for (file, why) in [
            ("V2_b.sql", "does not have the form"),
            ("V3__add-c.sql", "has invalid characters"),
            ("v4__d.sql", "does not have the form"),
            ("V5__e.SQL", "has invalid characters"),
            ("V6__f g.sql", "has invalid characters"),
            ("V7__g.up.sql", "has invalid characters"),
            ("0001_a.sql", "does not have the form"),
            ("|1__a.sql", "does not have the form"),
            ("V8__.sql", "does not have the form"),
            ("V1.5__a.sql", "has an invalid version"),
            ("V99999999999999999999__a.sql", "has an invalid version"),
            ("more/schema.sql", "does not have the form"),
            ("V9__a.rs", "is a Rust migration"),
        ] {
            let message = message(&["V1__a.sql", file]);
            assert!(
                message.contains(&format!("{file} {why}")),
                "{file}: {message}"
            );
        }
        let both = message(&["V2_b.sql", "V1__a.sql", "0001_a.sql"]);
        assert!(
            both.contains(": 0001_a.sql does") && both.contains(", V2_b.sql does"),
            "{both}"
        );
    }

    #[test]
    fn other_files_are_ignored() {
        let files = [
            "V1__a.sql",
            "U2__größe.sql",
            "more/V3__b_c.sql",
            "README.md",
            "mod.rs",
        ];
        let hidden = [".gitkeep", "._V1__a.sql", "V1__a.sql~", "V1__a.sql.orig"];
        let all = [&files[..], &hidden].concat();
        assert_eq!(message(&all), "U2__größe V1__a V3__b_c");
    }

    #[test]
    fn unreadable_migration_is_an_error() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("V1__a.sql");
        fs::write(&path, b"\xff\xfes\0").expect("written");
        let message = read(folder.path()).expect_err("UTF-16").to_string();
        assert!(
            message.contains("V1__a.sql: it is not valid UTF-8"),
            "{message}"
        );
        let message = read(&folder.path().join("none"))
            .expect_err("none")
            .to_string();
        assert!(message.contains("none: it does not exist"), "{message}");
    }

    #[cfg(unix)]
    #[test]
    fn symbolic_links_are_followed_to_files_only() {
        use std::os::unix::fs::symlink;
        let [folder, other] = [(); 2].map(|()| tempfile::tempdir().expect("a folder"));
        let target = other.path().join("target.txt");
        fs::write(&target, "select 1").expect("written");
        symlink(&target, folder.path().join("V1__a.sql")).expect("a link");
        assert_eq!(read(folder.path()).expect("one").len(), 1);
        symlink(other.path(), folder.path().join("more")).expect("a link");
        let more = folder.path().join("more");
        assert!(read(&more).expect("named itself").is_empty());
        let message = read(folder.path()).expect_err("a folder").to_string();
        assert!(message.contains("more is a symbolic link"), "{message}");
        fs::remove_file(folder.path().join("more")).expect("removed");
        symlink("nowhere", folder.path().join("V2__b.sql")).expect("a link");
        let message = read(folder.path()).expect_err("nothing").to_string();
        assert!(
            message.contains("V2__b.sql: it does not exist"),
            "{message}"
        );
    }
}
