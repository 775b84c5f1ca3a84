//! What a caller over HTTP is told: a problem document (RFC 9457).

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};

use crate::error::{Error, ErrorKind};

/// A response that says what went wrong, and nothing of how the database is reached.
pub(crate) fn of(error: &Error) -> Response<Bytes> {
    let (status, detail) = match error.kind() {
        ErrorKind::Deadline => (
            StatusCode::GATEWAY_TIMEOUT,
            "The function did not finish within its deadline.",
        ),
        ErrorKind::AcquireTimeout
        | ErrorKind::ConnectTimeout
        | ErrorKind::Unreachable
        | ErrorKind::Closed => (
            StatusCode::SERVICE_UNAVAILABLE,
            "The database cannot be reached at the moment.",
        ),
        ErrorKind::CommitUnknown => (
            StatusCode::INTERNAL_SERVER_ERROR,
            "The connection to the database was lost during the commit: whether the change was \
             made is not known.",
        ),
        ErrorKind::TransactionFailed | ErrorKind::TransactionInUse => (
            StatusCode::INTERNAL_SERVER_ERROR,
            "The transaction could not be committed: nothing was changed.",
        ),
        _ => (
            StatusCode::INTERNAL_SERVER_ERROR,
            "The function failed to use its database.",
        ),
    };
    document(status, detail)
}

/// The handler panicked, and the host would only hang up.
#[cfg(feature = "vercel")]
pub(crate) fn panicked() -> Response<Bytes> {
    document(
        StatusCode::INTERNAL_SERVER_ERROR,
        "The function failed unexpectedly.",
    )
}

fn document(status: StatusCode, detail: &str) -> Response<Bytes> {
    let document = serde_json::json!({
        "type": "about:blank",
        "title": status.canonical_reason(),
        "status": status.as_u16(),
        "detail": detail,
    });
    let mut response = Response::new(Bytes::from(document.to_string()));
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
    fn a_deadline_is_a_gateway_timeout() {
        let response = of(&Error::deadline());
        assert_eq!(response.status(), 504);
        let document: serde_json::Value =
            serde_json::from_slice(response.body()).expect("a document");
        assert_eq!(document["status"], 504);
        assert_eq!(document["title"], "Gateway Timeout");
    }
}
