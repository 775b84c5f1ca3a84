//! Reads passwords from the program, a variable or a file.

use std::fmt;
use std::future::ready;
use std::path::PathBuf;

use super::text::{given, without_line_end};
use super::{Attempt, Credentials, Login, LoginFuture};
use crate::error::{Error, Result};

/// A password that never changes.
///
/// A refusal is final: there is nothing else to try.
#[derive(Clone)]
pub struct Password(Login);

impl Password {
    /// This one.
    pub fn new(password: impl Into<Vec<u8>>) -> Self {
        Password(Login::password(password))
    }
}

/// A password in a variable of the environment, read anew at each connect.
///
/// Unlike a `DATABASE_URL`, which is read once, it may be changed while the process runs.
/// One line break at its end is not part of the password; a blank one is not set.
#[derive(Debug, Clone)]
pub struct Variable {
    name: String,
}

impl Variable {
    /// The variable of this name. It need not be set yet.
    pub fn new(name: impl Into<String>) -> Self {
        Variable { name: name.into() }
    }

    fn read(&self, value: Option<String>) -> Result<Login> {
        match value.and_then(given) {
            Some(value) => Ok(Login::password(value)),
            _ => Err(Error::configuration(format!(
                "the variable {0}, which holds the password, is not set: set {0}",
                self.name
            ))),
        }
    }
}

/// A password in a file, read anew at each connect: a mounted secret that another
/// program rotates.
///
/// A line break at its end is not part of the password.
#[derive(Debug, Clone)]
pub struct File {
    path: PathBuf,
}

impl File {
    /// The file of this path. It need not be there yet.
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

impl Credentials for Password {
    fn login<'a>(&'a self, _: &'a Attempt) -> LoginFuture<'a> {
        Box::pin(ready(Ok(self.0.clone())))
    }
}

impl Credentials for Variable {
    fn login<'a>(&'a self, _: &'a Attempt) -> LoginFuture<'a> {
        let login = self.read(std::env::var(&self.name).ok());
        Box::pin(ready(login.map_err(Into::into)))
    }
}

impl Credentials for File {
    /// A mounted secret is in memory: not worth a thread that may block.
    fn login<'a>(&'a self, _: &'a Attempt) -> LoginFuture<'a> {
        Box::pin(ready(self.read().map_err(Into::into)))
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Password").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unset_variable_is_named() {
        let variable = Variable::new("DB_PASSWORD");
        for value in [None, Some(String::new()), Some(" \n".to_owned())] {
            let error = variable.read(value).expect_err("nothing");
            assert!(error.to_string().contains("set DB_PASSWORD"), "{error}");
        }
        let login = variable.read(Some("x ".to_owned())).expect("a password");
        assert_eq!(login, Login::password("x "));
        let login = variable.read(Some("x\r\n".to_owned())).expect("one");
        assert_eq!(login, Login::password("x"));
    }

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

    #[test]
    fn debug_hides_the_password() {
        let debug = format!("{:?}", Password::new("hunter2"));
        assert_eq!(debug, "Password { .. }");
    }
}
