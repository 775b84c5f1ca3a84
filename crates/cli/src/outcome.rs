//! The outcome of a command, its error, and its exit code.

use std::error::Error as _;
use std::fmt::{self, Display};
use std::process::ExitCode;

use antifreeze::Error;
use antifreeze_doctor::printable;
use serde_json::json;

use crate::output;

/// The outcome of a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    Success,
    Findings,
    /// The command could not complete, and has printed what it found before.
    Failed,
}

/// An error that ends the command, with its causes.
#[derive(Debug)]
pub struct Failure {
    message: String,
    causes: Vec<String>,
}

impl Failure {
    pub fn new(message: impl Display) -> Self {
        Failure {
            message: printable(&message.to_string()),
            causes: Vec::new(),
        }
    }

    pub fn caused_by(mut self, cause: impl Display) -> Self {
        self.causes.push(printable(&cause.to_string()));
        self
    }

    /// Prints it to the standard error.
    pub fn print(&self) {
        output::eprint(&format!("error: {}", self.message));
        for cause in &self.causes {
            output::eprint(&format!("  caused by: {cause}"));
        }
    }

    /// Adds it to a JSON document.
    pub fn add_to(&self, document: &mut serde_json::Value) {
        document["error"] = json!(self.message);
        document["causes"] = json!(self.causes);
    }
}

impl Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let mut failure = Failure::new(&error);
        let mut source = error.source();
        while let Some(cause) = source {
            failure = failure.caused_by(cause);
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

/// Prints the error, if any, and returns the exit code.
pub fn exit(done: Result<Outcome, Failure>, json: bool) -> ExitCode {
    match done {
        Ok(Outcome::Success) => ExitCode::SUCCESS,
        Ok(Outcome::Findings) => ExitCode::from(1),
        Ok(Outcome::Failed) => ExitCode::from(2),
        Err(failure) => {
            if json {
                let mut document = json!({});
                failure.add_to(&mut document);
                output::print_json(&document);
            } else {
                failure.print();
            }
            ExitCode::from(2)
        }
    }
}
