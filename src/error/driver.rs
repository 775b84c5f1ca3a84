//! Converts errors of tokio-postgres.

use std::borrow::Cow;

use super::meaning::Said;
use super::{Error, ErrorKind};

/// `connection_does_not_exist` (manual, appendix A, class 08): what a task is told that
/// outlived its invocation.
pub(crate) const ENDED_SQLSTATE: &str = "08003";

pub(crate) const ENDED_MESSAGE: &str = "the invocation that leased this connection has ended";

impl Error {
    /// Whether `error` says that the connection was taken away because the
    /// invocation that had leased it is over.
    pub fn is_invocation_ended(error: &tokio_postgres::Error) -> bool {
        error.as_db_error().is_some_and(|error| {
            error.code().code() == ENDED_SQLSTATE && error.message() == ENDED_MESSAGE
        })
    }

    /// Whether the connection ended or was taken away, whatever the statement was.
    pub(crate) fn is_gone(error: &tokio_postgres::Error) -> bool {
        Error::is_invocation_ended(error)
            || matches!(
                Error::kind_of(error),
                ErrorKind::Closed | ErrorKind::ServerStopping
            )
    }

    /// The kind that an error of tokio-postgres is of, to look at it without taking it.
    pub(crate) fn kind_of(error: &tokio_postgres::Error) -> ErrorKind {
        match error.as_db_error() {
            Some(said) => Said::by(said).meaning().kind,
            None if is_lost(error) => ErrorKind::Closed,
            None => ErrorKind::Database,
        }
    }
}

/// Known by its SQLSTATE; the words of the server stay in the source.
impl From<tokio_postgres::Error> for Error {
    fn from(error: tokio_postgres::Error) -> Self {
        if Error::is_invocation_ended(&error) {
            return Error::invocation_ended().with_source(error);
        }
        let known = match error.as_db_error() {
            Some(said) => {
                let meaning = Said::by(said).meaning();
                let cause = meaning.cause_with(said.code().code());
                Error::new(meaning.kind, cause).with_remedy(meaning.remedy)
            }
            None if is_lost(&error) => Error::caused(ErrorKind::Closed, "the connection was lost"),
            None => on_our_side(&error),
        };
        known.with_source(error)
    }
}

/// The socket ended or broke, whether tokio-postgres knew it before or not.
pub(super) fn is_lost(error: &tokio_postgres::Error) -> bool {
    error.is_closed() || error.to_string() == "error communicating with the server"
}

/// What tokio-postgres itself did not like. It has no kinds to be had; its texts quote
/// nothing but numbers.
fn on_our_side(error: &tokio_postgres::Error) -> Error {
    let text = error.to_string();
    let number = text.rsplit(' ').next().and_then(|word| word.parse().ok());
    let number: usize = number.unwrap_or_default();
    let (cause, remedy) = match text.as_str() {
        "query returned an unexpected number of rows" => (
            Cow::Borrowed("the query returned another number of rows than one"),
            "use `query_opt` where there may be none, and LIMIT where there may be several",
        ),
        text if text.starts_with("error serializing parameter") => (
            format!(
                "parameter ${} cannot be sent as the type that the statement wants",
                number + 1
            )
            .into(),
            "take the Rust type that fits, or cast it in the statement ($1::text); the source \
             says which",
        ),
        text if text.starts_with("error deserializing column") => (
            format!(
                "column {number}, counted from 0, cannot be read as the type that was asked for"
            )
            .into(),
            "take the Rust type that fits, `Option` where it may be NULL; the source says which",
        ),
        text if text.starts_with("expected ") => (
            format!("the number of parameters is wrong: {text}").into(),
            "count $1, $2 and so on",
        ),
        _ => (
            "the statement failed on our side of the connection".into(),
            "the source says why",
        ),
    };
    Error::new(ErrorKind::Database, cause).with_remedy(remedy)
}
