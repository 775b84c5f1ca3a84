//! Which files, and what is in them.

use std::fs;
use std::path::{Path, PathBuf};

use crate::outcome::Failure;

pub struct File {
    pub name: String,
    pub text: String,
}

/// In the order of their names, as migrations are.
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
        return Err(Failure::new("there are no *.sql files"));
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
        let (path, kind) = (entry.path(), entry.file_type());
        // A link could lead round in a circle.
        match kind.map_err(|error| unreadable(&path, error))? {
            kind if kind.is_dir() => search(&path, found)?,
            kind if kind.is_file() && path.extension().is_some_and(|end| end == "sql") => {
                found.push(path);
            }
            _ => {}
        }
    }
    Ok(())
}

fn unreadable(path: &Path, error: std::io::Error) -> Failure {
    Failure::new(format!("{} cannot be read", path.display())).with(error)
}
