//! The error of migrations.

use std::error::Error as StdError;
use std::fmt;

use antifreeze::ErrorKind as DatabaseErrorKind;

use super::Report;

/// The result of a method of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

type Source = Box<dyn StdError + Send + Sync>;

/// An error that ended migrations, with the [report](Error::report) of what was done before.
///
/// `Display` is one line, the cause and then the remedy. The server's own message may quote
/// values, and is only in [`source`](StdError::source).
pub struct Error(Box<Inner>);

struct Inner {
    kind: ErrorKind,
    message: String,
    report: Report,
    source: Option<Source>,
}

/// The kind of an [`Error`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ErrorKind {
    /// A setting is missing or invalid, or only the endpoint of a pooler is known.
    Configuration,
    /// The files cannot be read, are misnamed, or contain statements that cannot be run.
    Files,
    /// The history and the files contradict each other.
    History,
    /// The lint has findings, and [`refuse_findings`](super::Runner::refuse_findings) is set.
    Findings,
    /// Another runner locked the lock for longer than `lock_wait`.
    Busy,
    /// The connection leads through a transaction pooler, which cannot hold a session lock.
    Pooler,
    /// Every attempt timed out while waiting for a lock.
    Blocked,
    /// A statement took longer than `statement_timeout`.
    Timeout,
    /// The server rejected a statement.
    Statement,
    /// The deadline was near, or the caller's stop future completed.
    Interrupted,
    /// The server cannot be reached, or the connection was lost.
    Connection,
    /// The other tool failed.
    Tool,
}

impl Error {
    pub(super) fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
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

    /// Replaces the message.
    pub(super) fn with_message(mut self, message: String) -> Self {
        self.0.message = message;
        self
    }

    pub(super) fn with_report(mut self, report: Report) -> Self {
        self.0.report = report;
        self
    }

    /// Returns the kind of the error.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// Returns whether the server has no free connection slot.
    pub(super) fn is_no_slot(&self) -> bool {
        let source = self.0.source.as_deref();
        let source = source.and_then(|source| source.downcast_ref::<antifreeze::Error>());
        source.is_some_and(|error| error.kind() == DatabaseErrorKind::TooManyConnections)
    }

    /// Returns the report of what was done before the error.
    pub fn report(&self) -> &Report {
        &self.0.report
    }
}

/// Converts an error of a connection, or of a statement of the runner itself.
impl From<antifreeze::Error> for Error {
    fn from(error: antifreeze::Error) -> Self {
        let kind = match error.kind() {
            DatabaseErrorKind::Configuration => ErrorKind::Configuration,
            DatabaseErrorKind::LockTimeout => ErrorKind::Blocked,
            DatabaseErrorKind::StatementTimeout => ErrorKind::Timeout,
            DatabaseErrorKind::Database
            | DatabaseErrorKind::PermissionDenied
            | DatabaseErrorKind::ReadOnly
            | DatabaseErrorKind::DataException
            | DatabaseErrorKind::UniqueViolation
            | DatabaseErrorKind::ConstraintViolation
            | DatabaseErrorKind::SerializationFailure
            | DatabaseErrorKind::Cancelled
            | DatabaseErrorKind::TransactionFailed => ErrorKind::Statement,
            _ => ErrorKind::Connection,
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
        // An error that is passed on has the same line as its source: skip it.
        match source.downcast_ref::<antifreeze::Error>() {
            Some(ours) => ours.source(),
            None => Some(source),
        }
    }
}
