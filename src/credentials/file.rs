//! Reads the password from a file.

use std::future::ready;
use std::path::PathBuf;

use super::text::without_line_end;
use super::{Attempt, Credentials, Login, LoginFuture};
use crate::error::{Error, Result};

/// A password in a file, read anew at each connect: a mounted secret that another
/// program rotates.
///
/// A line break at its end is not part of the password.
#[derive(Debug, Clone)]
pub struct File {
    path: PathBuf,
}

impl File {
    /// Reads the file at this path, which need not exist yet.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        File { path: path.into() }
    }

    fn read(&self) -> Result<Login> {
        let path = self.path.display();
        let text = std::fs::read(&self.path).map_err(|error| {
            Error::configuration(format!("the password file {path} cannot be read"))
                .with_source(error)
        })?;
        match without_line_end(&text) {
            b"" => Err(Error::configuration(format!(
                "the password file {path} is empty"
            ))),
            password => Ok(Login::password(password)),
        }
    }
}

impl Credentials for File {
    /// Reads without a thread that may block: a mounted secret is in memory.
    fn login<'a>(&'a self, _: &'a Attempt) -> LoginFuture<'a> {
        Box::pin(ready(self.read().map_err(Into::into)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_break_is_cut() {
        for (text, password) in [
            ("x", "x"),
            ("x\n", "x"),
            ("x\r\n", "x"),
            (" x\n\n", " x\n"),
            ("\n", ""),
        ] {
            assert_eq!(without_line_end(text.as_bytes()), password.as_bytes());
        }
    }

    #[test]
    fn missing_file_is_named() {
        let error = File::new("/no/such/file").read().expect_err("nothing");
        assert!(error.to_string().contains("/no/such/file"), "{error}");
    }
}
