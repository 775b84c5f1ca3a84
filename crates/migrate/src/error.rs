//! Why migrations did not come to their end.

use std::error::Error as StdError;
use std::fmt;

use antifreeze::ErrorKind;

use super::Report;

/// What of migrations returns.
pub type Result<T, E = Error> = std::result::Result<T, E>;

type Source = Box<dyn StdError + Send + Sync>;

/// Why migrations did not come to their end, with the [report](Error::report) of what was
/// done until then.
///
/// It prints as one line, the cause and then the remedy. What the server said may quote
/// values, and is found in [`source`](StdError::source) alone.
pub struct Error(Box<Inner>);

struct Inner {
    kind: Kind,
    message: String,
    report: Report,
    source: Option<Source>,
}

/// What kind of thing kept migrations from their end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Kind {
    /// A setting is missing or wrong, or only a pooler is known.
    Configuration,
    /// The files cannot be read, are misnamed, or hold what cannot be run.
    Files,
    /// The history and the files contradict each other.
    History,
    /// The lint found something, and was told to refuse it.
    Findings,
    /// Somebody else was at it for all the time that we were told to wait.
    Busy,
    /// A transaction pooler is in the way: a lock would belong to nobody.
    Pooler,
    /// A lock was not to be had, as often as it was tried.
    Blocked,
    /// A statement took longer than `statement_timeout`.
    Timeout,
    /// The server refused a statement.
    Statement,
    /// The deadline came, or we were told to stop.
    Interrupted,
    /// The server cannot be reached, or the connection was lost.
    Connection,
    /// The other tool failed.
    Tool,
}

impl Error {
    pub(super) fn new(kind: Kind, message: impl Into<String>) -> Self {
        Error(Box::new(Inner {
            kind,
            message: message.into(),
            report: Report::default(),
            source: None,
        }))
    }

    pub(super) fn with_source(mut self, source: impl Into<Source>) -> Self {
        self.0.source = Some(source.into());
        self
    }

    /// The same error in other words.
    pub(super) fn saying(mut self, message: String) -> Self {
        self.0.message = message;
        self
    }

    pub(super) fn with_report(mut self, report: Report) -> Self {
        self.0.report = report;
        self
    }

    /// What kind of thing went wrong.
    pub fn kind(&self) -> Kind {
        self.0.kind
    }

    /// The server has no slot left for us.
    pub(super) fn is_no_slot(&self) -> bool {
        let source = self.0.source.as_deref();
        let source = source.and_then(|source| source.downcast_ref::<antifreeze::Error>());
        source.is_some_and(|error| error.kind() == ErrorKind::TooManyConnections)
    }

    /// What was done until then.
    pub fn report(&self) -> &Report {
        &self.0.report
    }
}

/// An error of a connection, or of a statement of ours.
impl From<antifreeze::Error> for Error {
    fn from(error: antifreeze::Error) -> Self {
        let kind = match error.kind() {
            ErrorKind::Configuration => Kind::Configuration,
            ErrorKind::LockTimeout => Kind::Blocked,
            ErrorKind::StatementTimeout => Kind::Timeout,
            ErrorKind::Database
            | ErrorKind::PermissionDenied
            | ErrorKind::ReadOnly
            | ErrorKind::DataException
            | ErrorKind::UniqueViolation
            | ErrorKind::ConstraintViolation
            | ErrorKind::SerializationFailure
            | ErrorKind::Cancelled
            | ErrorKind::TransactionFailed => Kind::Statement,
            _ => Kind::Connection,
        };
        Error::new(kind, error.to_string()).with_source(error)
    }
}

impl From<tokio_postgres::Error> for Error {
    fn from(error: tokio_postgres::Error) -> Self {
        antifreeze::Error::from(error).into()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Error")
            .field("kind", &self.0.kind)
            .field("message", &self.0.message)
            .field("report", &self.0.report)
            .finish_non_exhaustive()
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        let source = self.0.source.as_deref()?;
        // What we only pass on has said its line already.
        match source.downcast_ref::<antifreeze::Error>() {
            Some(ours) => ours.source(),
            None => Some(source),
        }
    }
}
