//! `Error`: one line with the cause and the remedy.

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
pub(crate) use connecting::{Dialled, Goal, Phase};
pub(crate) use driver::{ENDED_MESSAGE, ENDED_SQLSTATE};
use meaning::{Said, shown};

/// The result of what antifreeze does.
pub type Result<T, E = Error> = std::result::Result<T, E>;

type Source = Box<dyn StdError + Send + Sync>;

/// An error of antifreeze.
///
/// It prints as one line: what is wrong, and what to do about it. The cause, if
/// there is one, is in [`source`](StdError::source) and is not printed twice. `Debug`, which
/// `main` prints, is the same line, then what the system or TLS said. Neither holds a
/// password, SQL or a value; what the server said may quote values, and is found in the
/// source alone. For logs there are [`kind`](Error::kind)
/// and [`sqlstate`](Error::sqlstate).
///
/// An error of tokio-postgres becomes one of these with `?` or `Error::from`, and is then
/// known by its [kind](ErrorKind):
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
/// As an axum rejection it is a problem document with [`status`](Error::status), kind,
/// SQLSTATE and constraint.
pub struct Error(Box<Inner>);

struct Inner {
    kind: ErrorKind,
    message: Cow<'static, str>,
    remedy: Option<Cow<'static, str>>,
    retry_after: Option<Duration>,
    source: Option<Source>,
    /// The host's id of the request that met it, where no invocation knows it.
    request_id: Option<Box<str>>,
    /// The log has it.
    logged: AtomicBool,
}

impl Error {
    /// An error whose message says what to do, too.
    pub(crate) fn new(kind: ErrorKind, message: impl Into<Cow<'static, str>>) -> Self {
        Error(Box::new(Inner {
            kind,
            message: message.into(),
            remedy: None,
            retry_after: None,
            source: None,
            request_id: None,
            logged: AtomicBool::new(false),
        }))
    }

    /// An error with the usual remedy of its kind.
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

    /// Marks it as logged, and returns whether it was already.
    pub(crate) fn mark_logged(&self) -> bool {
        self.0.logged.swap(true, Ordering::Relaxed)
    }

    /// What to do, as the end of the line.
    pub(crate) fn with_remedy(mut self, remedy: impl Into<Cow<'static, str>>) -> Self {
        self.0.remedy = Some(remedy.into());
        self
    }

    pub(crate) fn configuration(message: impl Into<Cow<'static, str>>) -> Self {
        Error::new(ErrorKind::Configuration, message)
    }

    pub(crate) fn with_retry_after(mut self, after: Duration) -> Self {
        self.0.retry_after = Some(after);
        self
    }

    /// The same, if there is a next try.
    pub(crate) fn with_next_try(mut self, next: Option<Duration>) -> Self {
        self.0.retry_after = next.or(self.0.retry_after);
        self
    }

    /// What kind of thing went wrong.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// What to do about it, without the cause.
    pub fn remedy(&self) -> &str {
        match &self.0.remedy {
            Some(remedy) => remedy,
            None => self.0.kind.remedy(),
        }
    }

    /// Whether the same work, done again from its beginning, may succeed without any
    /// change, and nothing of it has been done so far.
    ///
    /// It says nothing of when: while the server is full or away, a while later, and not
    /// from all callers at once. A connection that was lost is not among them: the last
    /// statement may have been executed.
    pub fn is_retryable(&self) -> bool {
        match self.0.kind {
            // Nothing is committed where the server says that it gave way.
            ErrorKind::TransactionFailed => {
                self.refused_at_commit() == Some(ErrorKind::SerializationFailure)
            }
            // Said before the session began; a session that is ended may have committed.
            ErrorKind::ServerStopping => self.sqlstate() == Some(&SqlState::CANNOT_CONNECT_NOW),
            kind => kind.is_retryable(),
        }
    }

    /// How long to wait before asking again, where that is known: while the server is full
    /// or away. Over HTTP it is the header `Retry-After`, in whole seconds.
    pub fn retry_after(&self) -> Option<Duration> {
        self.0.retry_after
    }

    /// Whether there is no database to be had at the moment, whatever is asked of it: a
    /// handler can answer from a cache, or do less.
    pub fn is_unavailable(&self) -> bool {
        self.0.kind.is_unavailable()
    }

    /// What a caller over HTTP is best told: see [`ErrorKind::status`]. A deferred
    /// constraint that is violated at COMMIT counts as if it had been at once.
    pub fn status(&self) -> StatusCode {
        let at_commit = self.refused_at_commit();
        at_commit.unwrap_or(self.0.kind).status()
    }

    /// Why the server refused to commit, if it did.
    fn refused_at_commit(&self) -> Option<ErrorKind> {
        match self.0.kind {
            ErrorKind::TransactionFailed => Some(Said::by(self.db_error()?).meaning().kind),
            _ => None,
        }
    }

    /// The SQLSTATE, where the server reported one.
    pub fn sqlstate(&self) -> Option<&SqlState> {
        Some(self.db_error()?.code())
    }

    /// The name of the constraint that was violated.
    pub fn constraint(&self) -> Option<&str> {
        self.db_error()?.constraint()
    }

    /// How many connections a pooler gives out, where it said so as it refused one.
    pub(crate) fn pool_size(&self) -> Option<u32> {
        provider::pool_size(self.db_error()?.message())
    }

    /// What a cause says, if that was neither said already nor can hold a value or a secret:
    /// what the server says can, and what a provider of passwords does.
    fn safe_text(&self, cause: &(dyn StdError + 'static)) -> Option<String> {
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
        (!self.0.message.contains(&text)).then(|| shown(&text))
    }

    fn db_error(&self) -> Option<&DbError> {
        let source = self.0.source.as_ref()?;
        source
            .downcast_ref::<tokio_postgres::Error>()?
            .as_db_error()
    }

    /// A pooler refused what was to be set at start-up.
    pub(crate) fn is_settings_refused(&self) -> bool {
        let said = self.db_error();
        self.0.kind == ErrorKind::ParameterRefused
            && said.is_some_and(|said| provider::refuses_settings(said.message()))
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

/// Prints the line of [`Display`](fmt::Display), for errors returned from `main`; then a line for each cause
/// that contains no text of the server.
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
        let source = self.0.source.as_deref()?;
        Some(source)
    }
}

#[cfg(test)]
mod tests;
