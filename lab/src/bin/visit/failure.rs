//! The responses of functions without the layer, and the kind of what failed.

use std::error::Error;
use std::io;

use lambda_http::{Body, Response};
use serde_json::json;

use crate::BoxError;

/// The count as text, or a 503 that names the kind of the error.
pub fn answer(done: Result<i64, BoxError>) -> Response<Body> {
    match done {
        Ok(visits) => Response::new(Body::Text(visits.to_string())),
        Err(error) => {
            let body = json!({ "kind": kind(&*error) }).to_string();
            let mut response = Response::new(Body::Text(body));
            *response.status_mut() = http::StatusCode::SERVICE_UNAVAILABLE;
            response
        }
    }
}

/// The server's SQLSTATE, or the operating system's error, or the words of the library.
fn kind(error: &(dyn Error + 'static)) -> String {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(code) = sqlstate(error) {
            return format!("SQLSTATE {code}");
        }
        if let Some(error) = error.downcast_ref::<io::Error>() {
            return error.kind().to_string();
        }
        cause = error.source();
    }
    error.to_string().chars().take(60).collect()
}

fn sqlstate(error: &(dyn Error + 'static)) -> Option<String> {
    if let Some(error) = error.downcast_ref::<tokio_postgres::Error>() {
        return Some(error.code()?.code().to_owned());
    }
    let error = error.downcast_ref::<sqlx::Error>()?;
    Some(error.as_database_error()?.code()?.into_owned())
}
