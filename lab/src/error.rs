//! What can go wrong in the lab, said in one line that a person can act on.

use std::process::ExitCode;
use std::{error, fmt};

/// A result whose error is the lab's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong and what to do about it; the cause, if there is one, is the
/// [`source`](error::Error::source).
pub struct Error {
    message: String,
    source: Option<Box<dyn error::Error + Send + Sync>>,
}

impl Error {
    /// What went wrong, in a line.
    pub fn new(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            source: None,
        }
    }

    /// The same with its cause.
    pub fn because(
        message: impl Into<String>,
        source: impl Into<Box<dyn error::Error + Send + Sync>>,
    ) -> Self {
        Self {
            message: message.into(),
            source: Some(source.into()),
        }
    }
}

/// Ends a program: prints an error and its causes, a line each.
pub fn exit_code(done: Result<(), Box<dyn error::Error + Send + Sync>>) -> ExitCode {
    let Err(error) = done else {
        return ExitCode::SUCCESS;
    };
    eprintln!("error: {error}");
    let mut cause = error.source();
    while let Some(error) = cause {
        eprintln!("  because: {error}");
        cause = error.source();
    }
    ExitCode::FAILURE
}

impl fmt::Display for Error {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.message)
    }
}

/// The message and the chain of causes, since a test's `unwrap` prints this.
impl fmt::Debug for Error {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.message)?;
        let mut cause = error::Error::source(self);
        while let Some(error) = cause {
            write!(formatter, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}

impl error::Error for Error {
    fn source(&self) -> Option<&(dyn error::Error + 'static)> {
        match &self.source {
            Some(source) => Some(source.as_ref()),
            None => None,
        }
    }
}

/// `file.read().or_say(|| "what could not be done")?`
pub trait OrSay<T> {
    /// Makes an [`Error`] of whatever it was, with that as its cause.
    ///
    /// # Errors
    /// When it was one.
    fn or_say<M: Into<String>>(self, message: impl FnOnce() -> M) -> Result<T>;
}

impl<T, E> OrSay<T> for std::result::Result<T, E>
where
    E: Into<Box<dyn error::Error + Send + Sync>>,
{
    fn or_say<M: Into<String>>(self, message: impl FnOnce() -> M) -> Result<T> {
        self.map_err(|source| Error::because(message(), source))
    }
}
