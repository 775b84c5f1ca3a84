//! Problem documents (RFC 9457) for callers over HTTP.

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use serde_json::{Map, Value};

use crate::error::{Error, ErrorKind};
use crate::invocation::{self, Invocation};
use crate::observe;

/// Logs the error of a response once: the response itself says little.
pub(crate) fn log(error: &Error) {
    let current = invocation::invocation().ok();
    let current = current.as_ref().map(Invocation::request_id);
    let request_id = error.request_id().or(current);
    observe::answered(request_id.filter(|id| !id.is_empty()), error);
}

/// Makes the response of an error: kind, SQLSTATE and constraint, which contain no value, and
/// nothing that reveals how the database is reached.
pub(crate) fn of(error: &Error) -> Response<Bytes> {
    log(error);
    let mut more = Map::new();
    more.insert("kind".to_owned(), error.kind().to_string().into());
    if let Some(state) = error.sqlstate() {
        more.insert("sqlstate".to_owned(), state.code().into());
    }
    if let Some(constraint) = error.constraint() {
        more.insert("constraint".to_owned(), constraint.into());
    }
    let mut response = document(error.status(), detail(error.kind()), more);
    if let Some(after) = error.retry_after() {
        // At least 1 s: an immediate retry would only add load.
        let seconds = after.as_secs_f64().ceil().max(1.0) as u64;
        response
            .headers_mut()
            .insert(header::RETRY_AFTER, seconds.into());
    }
    response
}

/// Makes a problem document (RFC 9457) for HTTP: status, kind, SQLSTATE and constraint, without
/// the server's message or how the database is reached, which are logged once.
impl From<&Error> for Response<Bytes> {
    fn from(error: &Error) -> Self {
        of(error)
    }
}

fn detail(kind: ErrorKind) -> &'static str {
    match kind {
        ErrorKind::Deadline => "The function did not finish within its deadline.",
        ErrorKind::CommitUnknown => {
            "The connection to the database was lost during the commit: whether the change was \
             made is not known."
        }
        ErrorKind::TransactionFailed | ErrorKind::TransactionInUse => {
            "The transaction could not be committed: nothing was changed."
        }
        ErrorKind::UniqueViolation => "A value is there already that may be there only once.",
        ErrorKind::ConstraintViolation => "A value is not allowed, or does not fit to others.",
        ErrorKind::DataException => "A value is not of the form that it must have.",
        ErrorKind::LoadShed | ErrorKind::TooManyConnections => {
            "The database takes no more connections at the moment."
        }
        kind if kind.is_unavailable() => "The database cannot be reached at the moment.",
        _ => "The function failed to use its database.",
    }
}

/// Makes the response for a panic, after which the host would only close the connection.
#[cfg(feature = "vercel")]
pub(crate) fn panicked() -> Response<Bytes> {
    document(
        StatusCode::INTERNAL_SERVER_ERROR,
        "The function failed unexpectedly.",
        Map::new(),
    )
}

fn document(status: StatusCode, detail: &str, more: Map<String, Value>) -> Response<Bytes> {
    let mut document = Map::from_iter([
        ("type".to_owned(), "about:blank".into()),
        ("title".to_owned(), status.canonical_reason().into()),
        ("status".to_owned(), status.as_u16().into()),
        ("detail".to_owned(), detail.into()),
    ]);
    document.extend(more);
    let mut response = Response::new(Bytes::from(Value::Object(document).to_string()));
    *response.status_mut() = status;
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/problem+json"),
    );
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deadline_is_a_gateway_timeout() {
        let response = of(&Error::deadline());
        assert_eq!(response.status(), 504);
        let document: Value = serde_json::from_slice(response.body()).expect("a document");
        assert_eq!(document["status"], 504);
        assert_eq!(document["title"], "Gateway Timeout");
        assert_eq!(document["kind"], "deadline");
    }

    #[test]
    fn problem_hides_how_the_database_is_reached() {
        for &kind in ErrorKind::ALL {
            let response = of(&Error::new(kind, "postgres://db.example.com"));
            let text = String::from_utf8(response.body().to_vec()).expect("text");
            assert!(!text.contains("example.com"), "{text}");
            assert_eq!(response.status(), kind.status());
        }
    }
}
