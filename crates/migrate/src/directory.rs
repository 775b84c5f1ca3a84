//! Which files are migrations. Nothing that looks like one is left out in silence.

use std::fs;
use std::path::{Path, PathBuf};

use refinery_core::{Migration, SchemaVersion};

use super::error::{Error, Kind, Result};

/// Reads those of `directory`, and of the folders in it.
pub(super) fn read(directory: &Path) -> Result<Vec<Migration>> {
    let mut found = Found::default();
    found.search(directory)?;
    found.files.sort();
    let mut migrations = Vec::new();
    for path in &found.files {
        match named(&stem(path), "") {
            Err(why) => found.wrong.push((path.clone(), why)),
            Ok(_) if path.extension().is_some_and(|end| end == "rs") => {
                let why = "is one in Rust, which `from_runner` takes, compiled in".to_owned();
                found.wrong.push((path.clone(), why));
            }
            Ok(_) => {
                let sql = fs::read_to_string(path).map_err(|error| unreadable(path, error))?;
                migrations.extend(named(&stem(path), &sql).ok());
            }
        }
    }
    match found.wrong.is_empty() {
        true => Ok(migrations),
        false => Err(found.refused(directory)),
    }
}

/// The migration of this name.
///
/// # Errors
///
/// Why it is none: a clause without its subject.
pub(super) fn named(name: &str, sql: &str) -> Result<Migration, String> {
    let misnamed = || "is not named as `V1__name.sql` is".to_owned();
    if !name.starts_with(['V', 'U']) {
        return Err(misnamed());
    }
    let migration = Migration::unapplied(name, sql).map_err(|error| match error.kind() {
        refinery_core::error::Kind::InvalidVersion => format!(
            "has a version that does not fit: it must be a whole number up to {}",
            SchemaVersion::MAX
        ),
        _ => misnamed(),
    })?;
    // Refinery passes over what it does not understand behind the name.
    match name.split_once("__") {
        Some((_, rest)) if rest == migration.name() => Ok(migration),
        _ => Err("has more in its name than letters, digits and `_`".to_owned()),
    }
}

#[derive(Default)]
struct Found {
    /// Those that are migrations, or look like ones.
    files: Vec<PathBuf>,
    /// What is none, and why.
    wrong: Vec<(PathBuf, String)>,
}

impl Found {
    fn search(&mut self, directory: &Path) -> Result<()> {
        let entries = fs::read_dir(directory).map_err(|error| unreadable(directory, error))?;
        for entry in entries {
            let path = entry.map_err(|error| unreadable(directory, error))?.path();
            let looks_like_one = looks_like_one(&path);
            let metadata = match fs::metadata(&path) {
                Ok(metadata) => metadata,
                Err(error) if looks_like_one => return Err(unreadable(&path, error)),
                Err(_) => continue,
            };
            if !metadata.is_dir() {
                if looks_like_one {
                    self.files.push(path);
                }
            } else if path.is_symlink() {
                // It could lead round in a circle, and refinery does not follow it.
                let why = "is a link to a folder, which is not followed".to_owned();
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
            Kind::Files,
            format!(
                "not everything in {} is a migration: {}; rename it (V or U, a version, `__`, \
                 letters, digits and `_`, `.sql`), or move it out of there",
                directory.display(),
                wrong.collect::<Vec<_>>().join(", ")
            ),
        )
    }
}

/// SQL, and what refinery compiles in. What is hidden is an editor's or a system's own.
fn looks_like_one(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let end = path.extension().unwrap_or_default().to_string_lossy();
    !name.starts_with('.')
        && match end.to_ascii_lowercase().as_str() {
            "sql" => true,
            "rs" => named(&stem(path), "").is_ok(),
            _ => false,
        }
}

/// The name without `.sql` or `.rs`, which are written in small letters.
fn stem(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let stem = name.strip_suffix(".sql").or(name.strip_suffix(".rs"));
    stem.unwrap_or(&name).to_owned()
}

fn unreadable(path: &Path, error: std::io::Error) -> Error {
    let why = match error.kind() {
        std::io::ErrorKind::InvalidData => "it is not UTF-8: save it as such",
        std::io::ErrorKind::NotFound => "it is not there, or a link to nothing",
        _ => "does its mode allow it?",
    };
    let message = format!("{} cannot be read: {why}", path.display());
    Error::new(Kind::Files, message).with_source(error)
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
                assert_eq!(error.kind(), Kind::Files);
                error.to_string()
            }
        }
    }

    #[test]
    fn file_like_a_migration_is_read_or_named() {
        for (file, why) in [
            ("V2_b.sql", "is not named as"),
            ("V3__add-c.sql", "has more in its name"),
            ("v4__d.sql", "is not named as"),
            ("V5__e.SQL", "has more in its name"),
            ("V6__f g.sql", "has more in its name"),
            ("V7__g.up.sql", "has more in its name"),
            ("0001_a.sql", "is not named as"),
            ("|1__a.sql", "is not named as"),
            ("V8__.sql", "is not named as"),
            ("V1.5__a.sql", "has a version that does not fit"),
            (
                "V99999999999999999999__a.sql",
                "has a version that does not fit",
            ),
            ("more/schema.sql", "is not named as"),
            ("V9__a.rs", "is one in Rust"),
        ] {
            let said = message(&["V1__a.sql", file]);
            assert!(said.contains(&format!("{file} {why}")), "{file}: {said}");
        }
        let both = message(&["V2_b.sql", "V1__a.sql", "0001_a.sql"]);
        assert!(
            both.contains(": 0001_a.sql is") && both.contains(", V2_b.sql is"),
            "{both}"
        );
    }

    #[test]
    fn other_files_are_left_alone() {
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
        let said = read(folder.path()).expect_err("UTF-16").to_string();
        assert!(
            said.contains("V1__a.sql cannot be read: it is not UTF-8"),
            "{said}"
        );
        let said = read(&folder.path().join("none"))
            .expect_err("none")
            .to_string();
        assert!(
            said.contains("none cannot be read: it is not there"),
            "{said}"
        );
    }

    #[cfg(unix)]
    #[test]
    fn links_are_followed_to_files_alone() {
        use std::os::unix::fs::symlink;
        let [folder, other] = [(); 2].map(|()| tempfile::tempdir().expect("a folder"));
        let target = other.path().join("target.txt");
        fs::write(&target, "select 1").expect("written");
        symlink(&target, folder.path().join("V1__a.sql")).expect("a link");
        assert_eq!(read(folder.path()).expect("one").len(), 1);
        symlink(other.path(), folder.path().join("more")).expect("a link");
        let more = folder.path().join("more");
        assert!(read(&more).expect("named itself").is_empty());
        let said = read(folder.path()).expect_err("a folder").to_string();
        assert!(said.contains("more is a link to a folder"), "{said}");
        fs::remove_file(folder.path().join("more")).expect("removed");
        symlink("nowhere", folder.path().join("V2__b.sql")).expect("a link");
        let said = read(folder.path()).expect_err("nothing").to_string();
        assert!(said.contains("V2__b.sql cannot be read"), "{said}");
    }
}
