//! How a command ends.

use std::error::Error as _;
use std::fmt::{self, Display};
use std::process::ExitCode;

use antifreeze::Error;
use antifreeze_doctor::plain;
use serde_json::json;

use crate::paint;

/// What a command has seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    Well,
    Findings,
    /// Not all of it; what there is has been told.
    Failed,
}

/// Why it could not look.
#[derive(Debug)]
pub struct Failure {
    cause: String,
    because: Vec<String>,
}

impl Failure {
    pub fn new(cause: impl Display) -> Self {
        Failure {
            cause: plain(&cause.to_string()),
            because: Vec::new(),
        }
    }

    pub fn with(mut self, because: impl Display) -> Self {
        self.because.push(plain(&because.to_string()));
        self
    }

    /// Says it on the standard error.
    pub fn complain(&self) {
        paint::complain(&format!("error: {}", self.cause));
        for because in &self.because {
            paint::complain(&format!("  because: {because}"));
        }
    }

    /// Says it to a program.
    pub fn add_to(&self, document: &mut serde_json::Value) {
        document["error"] = json!(self.cause);
        document["because"] = json!(self.because);
    }
}

impl Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.cause)
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let mut failure = Failure::new(&error);
        let mut source = error.source();
        while let Some(cause) = source {
            failure = failure.with(cause);
            source = cause.source();
        }
        failure
    }
}

impl From<tokio_postgres::Error> for Failure {
    fn from(error: tokio_postgres::Error) -> Self {
        Failure::from(Error::from(error))
    }
}

/// Says why, and with what the process ends.
pub fn exit(done: Result<Outcome, Failure>, json: bool) -> ExitCode {
    match done {
        Ok(Outcome::Well) => ExitCode::SUCCESS,
        Ok(Outcome::Findings) => ExitCode::from(1),
        Ok(Outcome::Failed) => ExitCode::from(2),
        Err(failure) => {
            if json {
                let mut document = json!({});
                failure.add_to(&mut document);
                paint::document(&document);
            } else {
                failure.complain();
            }
            ExitCode::from(2)
        }
    }
}
