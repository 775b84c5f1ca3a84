//! Finds and reads the SQL files.

use std::fs;
use std::path::{Path, PathBuf};

use crate::outcome::Failure;

pub struct File {
    pub name: String,
    pub text: String,
}

/// Reads the files, in the order of their names within each directory, as migrations are.
pub fn read(paths: &[PathBuf]) -> Result<Vec<File>, Failure> {
    let mut found = Vec::new();
    for path in paths {
        if path.is_dir() {
            let before = found.len();
            search(path, &mut found)?;
            found[before..].sort();
        } else {
            found.push(path.clone());
        }
    }
    if found.is_empty() {
        return Err(Failure::new("no *.sql files found"));
    }
    let files = found.iter().map(|path| {
        let text = fs::read_to_string(path).map_err(|error| unreadable(path, error))?;
        Ok(File {
            name: path.display().to_string(),
            text,
        })
    });
    files.collect()
}

fn search(directory: &Path, found: &mut Vec<PathBuf>) -> Result<(), Failure> {
    let entries = fs::read_dir(directory).map_err(|error| unreadable(directory, error))?;
    for entry in entries {
        let entry = entry.map_err(|error| unreadable(directory, error))?;
        let path = entry.path();
        let is_sql = is_sql(&path);
        match fs::metadata(&path) {
            // A symbolic link could lead to a cycle.
            Ok(file) if file.is_dir() && path.is_symlink() => {
                let line = format!(
                    "{} is a symbolic link to a directory, which is not followed: name the \
                     directory itself",
                    path.display()
                );
                return Err(Failure::new(line));
            }
            Ok(file) if file.is_dir() => search(&path, found)?,
            Ok(_) if is_sql => found.push(path),
            Err(error) if is_sql => return Err(unreadable(&path, error)),
            _ => {}
        }
    }
    Ok(())
}

/// Returns whether it is an SQL file. Hidden files belong to an editor or the system.
fn is_sql(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let end = path.extension().unwrap_or_default();
    !name.starts_with('.') && end.eq_ignore_ascii_case("sql")
}

fn unreadable(path: &Path, error: std::io::Error) -> Failure {
    Failure::new(format!("cannot read {}", path.display())).caused_by(error)
}
