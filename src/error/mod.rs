//! Describes what failed in one line: the cause and the remedy.

mod connecting;
mod driver;
mod meaning;
mod ours;

use std::borrow::Cow;
use std::error::Error as StdError;
use std::fmt;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use http::StatusCode;
use tokio_postgres::error::{DbError, SqlState};

pub use crate::kind::ErrorKind;
use crate::provider;
pub(crate) use connecting::{DialledTarget, LoginTarget, Phase};
pub(crate) use driver::{ENDED_MESSAGE, ENDED_SQLSTATE};
pub(crate) use meaning::is_sqlstate;
use meaning::{ErrorResponse, printable};

/// A `Result` whose error defaults to [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

type Source = Box<dyn StdError + Send + Sync>;

/// An error of antifreeze.
///
/// `Display` prints one line: what happened, and what to do about it. The underlying error, if
/// there is one, is in [`source`](StdError::source) and is not printed twice. `Debug`, which
/// `main` prints, adds the causes that the system or TLS reported. Neither contains a
/// password, SQL or a value. Messages of the server may quote values, and are only in
/// `source()`. For logs there are [`kind`](Error::kind) and [`sqlstate`](Error::sqlstate).
///
/// `?` and `Error::from` convert an error of tokio-postgres, and determine its
/// [kind](ErrorKind):
///
/// ```no_run
/// use antifreeze::{Error, ErrorKind};
///
/// # async fn handler() -> Result<&'static str, Error> {
/// # let name = "acme";
/// let connection = match antifreeze::connection().await {
///     Ok(connection) => connection,
///     Err(error) if error.is_unavailable() => return Ok("come back later"),
///     Err(error) => return Err(error),
/// };
/// let insert = "insert into partners (name) values ($1)";
/// match connection.execute(insert, &[&name]).await.map_err(Error::from) {
///     Ok(_) => Ok("stored"),
///     Err(error) if error.kind() == ErrorKind::UniqueViolation => Ok("known already"),
///     Err(error) => Err(error),
/// }
/// # }
/// ```
///
/// As an axum rejection it is a problem document (RFC 9457) with [`status`](Error::status),
/// kind, SQLSTATE and constraint.
pub struct Error(Box<Parts>);

struct Parts {
    kind: ErrorKind,
    message: Cow<'static, str>,
    remedy: Option<Cow<'static, str>>,
    retry_after: Option<Duration>,
    source: Option<Source>,
    /// The host's request id, if the error occurred before there was an invocation.
    request_id: Option<Box<str>>,
    /// The error was logged.
    logged: AtomicBool,
}

impl Error {
    /// Creates an error whose message includes the remedy.
    pub(crate) fn new(kind: ErrorKind, message: impl Into<Cow<'static, str>>) -> Self {
        Error(Box::new(Parts {
            kind,
            message: message.into(),
            remedy: None,
            retry_after: None,
            source: None,
            request_id: None,
            logged: AtomicBool::new(false),
        }))
    }

    /// Creates an error with the general remedy of its kind.
    pub(crate) fn caused(kind: ErrorKind, cause: impl Into<Cow<'static, str>>) -> Self {
        Error::new(kind, cause).with_remedy(kind.remedy())
    }

    pub(crate) fn with_source(mut self, source: impl Into<Source>) -> Self {
        self.0.source = Some(source.into());
        self
    }

    pub(crate) fn of_request(mut self, id: &str) -> Self {
        self.0.request_id = (!id.is_empty()).then(|| id.into());
        self
    }

    pub(crate) fn request_id(&self) -> Option<&str> {
        self.0.request_id.as_deref()
    }

    /// Marks the error as logged, and returns whether it was already.
    pub(crate) fn mark_logged(&self) -> bool {
        self.0.logged.swap(true, Ordering::Relaxed)
    }

    /// Sets the remedy, which ends the line.
    pub(crate) fn with_remedy(mut self, remedy: impl Into<Cow<'static, str>>) -> Self {
        self.0.remedy = Some(remedy.into());
        self
    }

    pub(crate) fn configuration(message: impl Into<Cow<'static, str>>) -> Self {
        Error::new(ErrorKind::Configuration, message)
    }

    /// Sets when to retry, if the next attempt is known.
    pub(crate) fn with_next_try(mut self, next: Option<Duration>) -> Self {
        self.0.retry_after = next.or(self.0.retry_after);
        self
    }

    /// Returns the kind of error.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// Returns what happened, without the remedy.
    pub(crate) fn message(&self) -> &str {
        &self.0.message
    }

    /// Returns what to do about it, without the cause.
    pub fn remedy(&self) -> &str {
        self.0.remedy.as_deref().unwrap_or(self.0.kind.remedy())
    }

    /// Returns whether the same work may succeed if it is repeated from its beginning, and
    /// nothing of it has been executed so far.
    ///
    /// While the server is full or unreachable, retry with a delay and jitter. False after a
    /// lost connection: the last statement may have been executed.
    pub fn is_retryable(&self) -> bool {
        match self.0.kind {
            // The server rolled back before it reported the serialization failure.
            ErrorKind::TransactionFailed => {
                self.refused_at_commit() == Some(ErrorKind::SerializationFailure)
            }
            // Reported before the session began; a session that was ended may have committed.
            ErrorKind::ServerStopping => self.sqlstate() == Some(&SqlState::CANNOT_CONNECT_NOW),
            kind => kind.is_retryable(),
        }
    }

    /// Returns how long to wait before a retry, if that is known: while the server is full or
    /// unreachable. Over HTTP it is the header `Retry-After`, in whole seconds.
    pub fn retry_after(&self) -> Option<Duration> {
        self.0.retry_after
    }

    /// Returns whether the database is unavailable at the moment for any request: a handler can
    /// answer from a cache, or do less.
    pub fn is_unavailable(&self) -> bool {
        self.0.kind.is_unavailable()
    }

    /// Returns the HTTP status to answer with: see [`ErrorKind::status`]. A deferred constraint
    /// that is violated at COMMIT has the status of an immediate one.
    pub fn status(&self) -> StatusCode {
        self.refused_at_commit().unwrap_or(self.0.kind).status()
    }

    /// Returns why the server rejected COMMIT, if it did.
    fn refused_at_commit(&self) -> Option<ErrorKind> {
        let response = ErrorResponse::from(self.db_error()?);
        (self.0.kind == ErrorKind::TransactionFailed).then(|| response.meaning().kind)
    }

    /// Returns the SQLSTATE, if the server reported one.
    pub fn sqlstate(&self) -> Option<&SqlState> {
        Some(self.db_error()?.code())
    }

    /// Returns the name of the violated constraint.
    pub fn constraint(&self) -> Option<&str> {
        self.db_error()?.constraint()
    }

    /// Returns the pool size that a full pooler reported.
    pub(crate) fn pool_size(&self) -> Option<u32> {
        provider::pool_size(self.db_error()?.message())
    }

    /// Returns the text of a cause that is not in the message yet and can contain neither a
    /// value nor a secret: excludes messages of the server and of credentials providers.
    pub(crate) fn safe_text(&self, cause: &(dyn StdError + 'static)) -> Option<String> {
        let io = cause.downcast_ref::<io::Error>();
        let tls = match io.and_then(io::Error::get_ref) {
            Some(inner) => inner.downcast_ref::<rustls::Error>(),
            None => cause.downcast_ref(),
        };
        let resolver = self.0.kind == ErrorKind::NameNotResolved;
        let io = io.filter(|io| io.get_ref().is_none() || resolver);
        let text = match (tls, io, cause.downcast_ref::<Error>()) {
            (Some(tls), ..) => tls.to_string(),
            (_, Some(io), _) => io.to_string(),
            (.., Some(ours)) => ours.to_string(),
            _ => return None,
        };
        (!self.0.message.contains(&text)).then(|| printable(&text))
    }

    fn db_error(&self) -> Option<&DbError> {
        let source: &tokio_postgres::Error = self.0.source.as_ref()?.downcast_ref()?;
        source.as_db_error()
    }

    /// Returns whether a pooler rejected the settings at startup.
    pub(crate) fn is_settings_refused(&self) -> bool {
        let refuses = |error: &DbError| provider::refuses_settings(error.message());
        self.0.kind == ErrorKind::ParameterRefused && self.db_error().is_some_and(refuses)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)?;
        match &self.0.remedy {
            Some(remedy) => write!(f, "; {remedy}"),
            None => Ok(()),
        }
    }
}

/// Prints the line of [`Display`](fmt::Display), for errors returned from `main`, then a line for
/// each cause that contains no text of the server.
impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)?;
        let mut cause = self.source();
        while let Some(error) = cause {
            if let Some(text) = self.safe_text(error) {
                write!(f, "\nCaused by: {text}")?;
            }
            cause = error.source();
        }
        Ok(())
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        Some(self.0.source.as_deref()?)
    }
}

#[cfg(test)]
mod tests;
