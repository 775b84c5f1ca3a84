//! What can go wrong, in one line each.

use std::error::Error as StdError;
use std::fmt;
use std::time::Duration;

use tokio_postgres::error::SqlState;

/// The result of what antifreeze does.
pub type Result<T, E = Error> = std::result::Result<T, E>;

type Source = Box<dyn StdError + Send + Sync>;

/// `connection_does_not_exist` (manual, appendix A, class 08): what a task is told that
/// outlived its invocation.
pub(crate) const ENDED_SQLSTATE: &str = "08003";

pub(crate) const ENDED_MESSAGE: &str = "the invocation that leased this connection has ended";

/// An error of antifreeze.
///
/// It prints as one line that says what is wrong and what to do. The cause, if
/// there is one, is in [`source`](StdError::source) and is not printed twice. Neither
/// the line nor `Debug` holds a password, SQL or a value; what the server said may quote
/// values, and is found in the source alone. For logs there is
/// [`sqlstate`](Error::sqlstate).
pub struct Error(Box<Inner>);

struct Inner {
    kind: ErrorKind,
    message: String,
    source: Option<Source>,
}

/// What kind of thing went wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// A setting is missing, misspelt or contradicts another.
    Configuration,
    /// A connection was asked for outside any invocation.
    NotInInvocation,
    /// The invocation has ended; what it leased is gone.
    InvocationEnded,
    /// The invocation holds every connection that it could wait for.
    WouldWaitForItself,
    /// No connection became free in time.
    AcquireTimeout,
    /// No connection could be made in time.
    ConnectTimeout,
    /// The server could not be reached.
    Unreachable,
    /// TLS is needed and missing, or its handshake failed.
    Tls,
    /// The server reported an error.
    Database,
    /// The connection was lost.
    Closed,
    /// The invocation reached its deadline.
    Deadline,
    /// The transaction had failed before its commit: it was rolled back.
    TransactionFailed,
    /// The transaction was still in use when it was to be committed: it was
    /// rolled back.
    TransactionInUse,
    /// The connection was lost during COMMIT: whether the server committed is not
    /// known. Never to be repeated blindly.
    CommitUnknown,
}

impl Error {
    pub(crate) fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Error(Box::new(Inner {
            kind,
            message: message.into(),
            source: None,
        }))
    }

    pub(crate) fn with_source(mut self, source: impl Into<Source>) -> Self {
        self.0.source = Some(source.into());
        self
    }

    pub(crate) fn configuration(message: impl Into<String>) -> Self {
        Error::new(ErrorKind::Configuration, message)
    }

    pub(crate) fn not_in_invocation() -> Self {
        Error::new(
            ErrorKind::NotInInvocation,
            "there is no invocation here: add `.layer(antifreeze::DatabaseLayer::new(database))` \
             around the handler, or run the code inside `database.invocation(..)`; a task started \
             with `tokio::spawn` needs a clone of the `Invocation`",
        )
    }

    pub(crate) fn invocation_ended() -> Self {
        Error::new(
            ErrorKind::InvocationEnded,
            "the invocation has ended and gives out no more connections: await what needs one \
             before the handler returns, or start it with `Invocation::spawn`",
        )
    }

    pub(crate) fn would_wait_for_itself(held: usize, at: &dyn fmt::Display) -> Self {
        Error::new(
            ErrorKind::WouldWaitForItself,
            format!(
                "{at} asks for another connection while this invocation already holds all {held} \
                 that it may have: drop one first, pass it on as `&Client`, or raise \
                 `max_connections`"
            ),
        )
    }

    pub(crate) fn acquire_timeout(after: Duration, in_use: usize, max: usize) -> Self {
        Error::new(
            ErrorKind::AcquireTimeout,
            format!(
                "waited {after:.1?} for one of {max} connections, {in_use} of them in use by other \
                 invocations: raise `max_connections` or shorten what holds them"
            ),
        )
    }

    pub(crate) fn deadline() -> Self {
        Error::new(
            ErrorKind::Deadline,
            "the invocation reached its deadline: its statements were cancelled and its \
             transactions rolled back",
        )
    }

    /// Whether `error` says that the connection was taken away because the
    /// invocation that had leased it is over.
    pub fn is_invocation_ended(error: &tokio_postgres::Error) -> bool {
        error.as_db_error().is_some_and(|error| {
            error.code().code() == ENDED_SQLSTATE && error.message() == ENDED_MESSAGE
        })
    }

    /// What kind of thing went wrong.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// The SQLSTATE, where the server reported one.
    pub fn sqlstate(&self) -> Option<&SqlState> {
        self.database_error()?.code()
    }

    /// The error of tokio-postgres behind this one, if there is one.
    fn database_error(&self) -> Option<&tokio_postgres::Error> {
        self.0.source.as_ref()?.downcast_ref()
    }
}

impl From<tokio_postgres::Error> for Error {
    fn from(error: tokio_postgres::Error) -> Self {
        if Error::is_invocation_ended(&error) {
            return Error::invocation_ended().with_source(error);
        }
        let (kind, message) = match error.as_db_error() {
            Some(_) => (ErrorKind::Database, "the server refused the statement"),
            None if error.is_closed() => (ErrorKind::Closed, "the connection was lost"),
            None => (ErrorKind::Database, "the statement failed"),
        };
        Error::new(kind, message).with_source(error)
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
            .field("sqlstate", &self.sqlstate().map(SqlState::code))
            .finish_non_exhaustive()
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        let source = self.0.source.as_deref()?;
        Some(source)
    }
}
