//! The Runtime API and the Extensions API, as one environment sees them.
//!
//! <https://docs.aws.amazon.com/lambda/latest/dg/runtimes-api.html> and
//! <https://docs.aws.amazon.com/lambda/latest/dg/runtimes-extensions-api.html>

use std::sync::Arc;

use axum::{
    Router,
    body::Body,
    extract::{Path, State},
    http::{HeaderMap, StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use bytes::Bytes;
use http_body_util::BodyExt;
use serde_json::{Value, json};

use super::{
    Answer,
    environment::Inner,
    state::{ARN, TRACE, milliseconds},
};
use crate::net::random;

type Env = State<Arc<Inner>>;

const EXTENSION_ID: &str = "lambda-extension-identifier";

pub(super) fn router(environment: Arc<Inner>) -> Router {
    let runtime = Router::new()
        .route("/invocation/next", get(next))
        .route("/invocation/{id}/response", post(response))
        .route("/invocation/{id}/error", post(error))
        .route("/init/error", post(init_error))
        .route("/restore/next", get(restore_next))
        .route("/restore/error", post(init_error));
    let extension = Router::new()
        .route("/register", post(register))
        .route("/event/next", get(extension_next))
        .route("/init/error", post(extension_error))
        .route("/exit/error", post(extension_error));
    Router::new()
        .nest("/2018-06-01/runtime", runtime)
        .nest("/2020-01-01/extension", extension)
        .with_state(environment)
}

async fn next(State(environment): Env) -> Response {
    let Ok(event) = environment.next().await else {
        return refusal(StatusCode::GONE, "Environment.Over");
    };
    let headers = [
        ("lambda-runtime-aws-request-id", event.request_id),
        (
            "lambda-runtime-deadline-ms",
            milliseconds(event.deadline).to_string(),
        ),
        ("lambda-runtime-invoked-function-arn", ARN.to_owned()),
        ("lambda-runtime-trace-id", TRACE.to_owned()),
        ("content-type", "application/json".to_owned()),
    ];
    let mut response = Response::new(Body::from(event.payload));
    for (name, value) in headers {
        if let Ok(value) = value.parse() {
            response.headers_mut().insert(name, value);
        }
    }
    response
}

async fn response(
    State(environment): Env,
    Path(id): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Response {
    let streamed = headers
        .get("lambda-runtime-function-response-mode")
        .is_some_and(|mode| mode == "streaming");
    let prelude = headers
        .get(CONTENT_TYPE)
        .is_some_and(|kind| kind == "application/vnd.awslambda.http-integration-response");
    let answer = match body.collect().await {
        Ok(body) if streamed => split_stream(body.to_bytes(), prelude),
        Ok(body) => Answer::Response(body.to_bytes()),
        // The connection broke in the middle of a body.
        Err(error) => Answer::Error {
            error_type: "Runtime.TruncatedResponse".to_owned(),
            message: error.to_string(),
        },
    };
    accept(environment.answer(&id, answer).await)
}

/// A prelude in JSON, eight zero bytes, the body.
fn split_stream(bytes: Bytes, prelude: bool) -> Answer {
    let end = bytes
        .windows(8)
        .position(|window| window == [0; 8])
        .filter(|_| prelude);
    match end {
        Some(end) => Answer::Streamed {
            prelude: serde_json::from_slice(&bytes[..end]).unwrap_or_default(),
            body: bytes.slice(end + 8..),
        },
        None => Answer::Streamed {
            prelude: Value::Null,
            body: bytes,
        },
    }
}

async fn error(State(environment): Env, Path(id): Path<String>, body: Bytes) -> Response {
    accept(environment.answer(&id, diagnosis(&body)).await)
}

async fn init_error(State(environment): Env, body: Bytes) -> Response {
    environment.init_failed(diagnosis(&body));
    accept(true)
}

async fn restore_next(State(environment): Env) -> Response {
    match environment.restore_next().await {
        Ok(()) => StatusCode::OK.into_response(),
        Err(_) => refusal(StatusCode::GONE, "Environment.Over"),
    }
}

/// What a runtime posts to say what went wrong.
fn diagnosis(body: &[u8]) -> Answer {
    let value: Value = serde_json::from_slice(body).unwrap_or_default();
    let text = |key: &str| value[key].as_str().unwrap_or_default().to_owned();
    Answer::Error {
        error_type: text("errorType"),
        message: text("errorMessage"),
    }
}

async fn register(State(environment): Env, headers: HeaderMap, body: Bytes) -> Response {
    let body: Value = serde_json::from_slice(&body).unwrap_or_default();
    let Some(events) = body["events"].as_array() else {
        return refusal(StatusCode::BAD_REQUEST, "InvalidRequestFormat");
    };
    if !headers.contains_key("lambda-extension-name") {
        return refusal(StatusCode::FORBIDDEN, "Extension.InvalidExtensionName");
    }
    let events: Vec<&str> = events.iter().filter_map(Value::as_str).collect();
    // What runs inside the function's process is an internal extension, and those
    // may not ask to be told of the shutdown: AWS's own emulator answers the same.
    if events.contains(&"SHUTDOWN") {
        return refusal(StatusCode::FORBIDDEN, "Extension.InvalidEventType");
    }
    let identifier = format!("{:016x}", random());
    if !environment.register(identifier.clone(), &events) {
        return refusal(StatusCode::FORBIDDEN, "Extension.RegistrationClosed");
    }
    let answer = json!({
        "functionName": environment.function_name(),
        "functionVersion": "$LATEST",
        "handler": "bootstrap",
    });
    let headers = [
        (EXTENSION_ID, identifier),
        ("content-type", "application/json".to_owned()),
    ];
    (headers, answer.to_string()).into_response()
}

async fn extension_next(State(environment): Env, headers: HeaderMap) -> Response {
    let Some(call) = environment.extension_next(&extension_id(&headers)) else {
        return refusal(
            StatusCode::FORBIDDEN,
            "Extension.InvalidExtensionIdentifier",
        );
    };
    match call.await {
        Ok(event) => ([(CONTENT_TYPE, "application/json")], event.to_string()).into_response(),
        Err(_) => refusal(StatusCode::GONE, "Environment.Over"),
    }
}

async fn extension_error(State(environment): Env, headers: HeaderMap, body: Bytes) -> Response {
    let kind = headers
        .get("lambda-extension-function-error-type")
        .and_then(|kind| kind.to_str().ok())
        .unwrap_or("unknown");
    environment.note(&format!(
        "extension error {kind}: {}",
        String::from_utf8_lossy(&body)
    ));
    accept(true)
}

fn extension_id(headers: &HeaderMap) -> String {
    let id = headers.get(EXTENSION_ID).and_then(|id| id.to_str().ok());
    id.unwrap_or_default().to_owned()
}

fn accept(known: bool) -> Response {
    if known {
        let headers = [(CONTENT_TYPE, "application/json")];
        (StatusCode::ACCEPTED, headers, r#"{"status":"OK"}"#).into_response()
    } else {
        refusal(StatusCode::BAD_REQUEST, "InvalidRequestID")
    }
}

fn refusal(status: StatusCode, error_type: &str) -> Response {
    let body = json!({ "errorType": error_type, "errorMessage": error_type });
    (
        status,
        [(CONTENT_TYPE, "application/json")],
        body.to_string(),
    )
        .into_response()
}
