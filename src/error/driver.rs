//! Converts errors of tokio-postgres.

use std::borrow::Cow;

use super::meaning::ErrorResponse;
use super::{Error, ErrorKind};

/// `connection_does_not_exist` (manual, appendix A, class 08), the error in a task that outlived
/// its invocation.
pub(crate) const ENDED_SQLSTATE: &str = "08003";

pub(crate) const ENDED_MESSAGE: &str = "the invocation that leased this connection has ended";

impl Error {
    /// Returns whether `error` says that the connection was taken back because the invocation
    /// that had leased it has ended.
    pub fn is_invocation_ended(error: &tokio_postgres::Error) -> bool {
        error.as_db_error().is_some_and(|error| {
            error.code().code() == ENDED_SQLSTATE && error.message() == ENDED_MESSAGE
        })
    }

    /// Returns the kind of an error of tokio-postgres without converting it.
    pub(crate) fn kind_of(error: &tokio_postgres::Error) -> ErrorKind {
        match error.as_db_error() {
            Some(error) => ErrorResponse::from(error).meaning().kind,
            None if is_lost(error) => ErrorKind::Closed,
            None => ErrorKind::Database,
        }
    }
}

/// Converts by the SQLSTATE; the message of the server stays in `source()`.
impl From<tokio_postgres::Error> for Error {
    fn from(error: tokio_postgres::Error) -> Self {
        if Error::is_invocation_ended(&error) {
            return Error::invocation_ended().with_source(error);
        }
        let known = match error.as_db_error() {
            Some(error) => {
                let meaning = ErrorResponse::from(error).meaning();
                let cause = meaning.cause_with(error.code().code());
                Error::new(meaning.kind, cause).with_remedy(meaning.remedy)
            }
            None if is_lost(&error) => Error::lost(),
            None => client_side(&error),
        };
        known.with_source(error)
    }
}

/// Returns whether the connection was closed or failed.
pub(super) fn is_lost(error: &tokio_postgres::Error) -> bool {
    error.is_closed() || error.to_string() == "error communicating with the server"
}

/// Describes an error that tokio-postgres itself found. Its kinds are private; its texts contain
/// no values but numbers.
fn client_side(error: &tokio_postgres::Error) -> Error {
    let text = error.to_string();
    let number = text.rsplit(' ').next().and_then(|word| word.parse().ok());
    let number: usize = number.unwrap_or_default();
    let (cause, remedy) = match text.as_str() {
        "query returned an unexpected number of rows" => (
            Cow::Borrowed("the query did not return exactly one row"),
            "use `query_opt` if there may be none, and LIMIT 1 if there may be several",
        ),
        text if text.starts_with("error serializing parameter") => (
            format!(
                "parameter ${} cannot be converted to its SQL type",
                number + 1
            )
            .into(),
            "use a matching Rust type (`source()` names both), or cast in the statement ($1::text)",
        ),
        text if text.starts_with("error deserializing column") => (
            format!("column {number}, counted from 0, cannot be converted to the Rust type").into(),
            "use a matching Rust type (`source()` names both), and `Option` if it may be NULL",
        ),
        text if text.starts_with("expected ") => (
            format!("wrong number of parameters: {text}").into(),
            "pass one value for each of $1, $2 and so on",
        ),
        _ => (
            "the statement failed in the client".into(),
            "`source()` has the cause",
        ),
    };
    Error::new(ErrorKind::Database, cause).with_remedy(remedy)
}
