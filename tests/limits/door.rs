//! Requests are refused before the handler begins, since the last reading showed an almost full
//! server. No connect has failed: the circuit is closed.

use std::time::Duration;

use antifreeze::config::LoadShed;
use antifreeze::{Database, DatabaseLayer};
use http::{Request, Response};
use http_body_util::{BodyExt, Empty};
use lab::postgres::Postgres;
use tower::{Layer, ServiceExt, service_fn};

use super::common::{BoxError, Lab};
use super::{Limited, limited, others};

/// Five slots, four of them of another client: with ours all are taken.
async fn all_but_full(high_water_mark: u8) -> (Postgres, Lab, Vec<tokio_postgres::Client>) {
    let (postgres, lab) = limited(5, |config| {
        config
            .load_shed(LoadShed::BeforeHandler)
            .high_water_mark(high_water_mark)
            .max_connections(1)
    })
    .await;
    let others = others(&lab, 4).await;
    lab.visit().await.expect("room");
    (postgres, lab, others)
}

/// The same, of a process that keeps no connection.
async fn given_back() -> (Postgres, Lab, Vec<tokio_postgres::Client>) {
    let (postgres, lab, others) = all_but_full(80).await;
    // The answer may have come behind the first invocation's own.
    while !lab.sessions().await.is_empty() {
        lab.visit().await.expect("it is kept");
    }
    assert_eq!(lab.database.retry_after(), None, "the circuit is closed");
    (postgres, lab, others)
}

fn layer(database: &Database) -> DatabaseLayer {
    DatabaseLayer::new(database.clone()).max_duration(Duration::from_secs(60))
}

#[tokio::test]
async fn request_is_refused_with_503() {
    let (_postgres, lab, _others) = given_back().await;
    let handler = service_fn(
        async |_: Request<()>| -> Result<Response<Empty<bytes::Bytes>>, BoxError> {
            panic!("the handler began")
        },
    );
    let service = layer(&lab.database).layer(handler);
    let response = service.oneshot(Request::default()).await;
    let response = response.expect("an answer");
    assert_eq!(response.status(), 503);
    assert_eq!(response.headers()["retry-after"], "1");
    assert_eq!(
        response.headers()["content-type"],
        "application/problem+json"
    );
    let body = response.into_body().collect().await.expect("whole");
    let problem: serde_json::Value = serde_json::from_slice(&body.to_bytes()).expect("JSON");
    assert_eq!(problem["kind"], "load_shed", "{problem}");
    assert!(lab.sessions().await.is_empty(), "the server was left alone");
}

/// A kept connection needs no further slot.
#[tokio::test]
async fn request_with_a_kept_connection_is_served() {
    let (_postgres, lab, _others) = all_but_full(100).await;
    // The answer of the server's has come by then.
    lab.warm_kept().await;
    lab.idle(1).await;
    let handler = service_fn(async |_: Request<()>| {
        drop(antifreeze::connection().await?);
        Ok::<_, BoxError>(Response::new(Empty::<bytes::Bytes>::new()))
    });
    let service = layer(&lab.database).layer(handler);
    let response = service.oneshot(Request::default()).await;
    assert_eq!(response.expect("an answer").status(), 200);
}

#[cfg(feature = "lambda")]
#[tokio::test]
async fn event_is_refused_with_an_error() {
    use antifreeze::ErrorKind;
    use antifreeze::host::EventError;
    use lambda_runtime::{Context, Diagnostic, LambdaEvent};

    let (_postgres, lab, _others) = given_back().await;
    let handler = service_fn(async |_: LambdaEvent<()>| -> Result<(), BoxError> {
        panic!("the handler began")
    });
    let end = std::time::SystemTime::now() + Duration::from_secs(60);
    let end = end.duration_since(std::time::UNIX_EPOCH).expect("after it");
    let mut context = Context::default();
    context.deadline = u64::try_from(end.as_millis()).expect("not yet");
    let service = layer(&lab.database).layer(handler);
    let answer = service.oneshot(LambdaEvent::new((), context)).await;
    let error = match answer {
        Err(EventError::Database(error)) => error,
        other => panic!("{other:?}"),
    };
    assert_eq!(error.kind(), ErrorKind::LoadShed);
    assert!(error.is_retryable());
    assert_eq!(error.retry_after(), Some(Duration::from_secs(1)));
    // What Lambda is told.
    let told = Diagnostic::from(EventError::<BoxError>::Database(error));
    assert_eq!(told.error_type, "antifreeze::LoadShed");
    let why = "nearly all connection slots of the server are in use";
    assert!(told.error_message.contains(why), "{}", told.error_message);
}

#[cfg(feature = "vercel")]
#[tokio::test]
async fn vercel_request_is_refused_with_503() {
    use vercel_runtime::{AppState, ResponseBody};

    type Answer = Result<Response<ResponseBody>, vercel_runtime::Error>;

    let (_postgres, lab, _others) = given_back().await;
    let handler = service_fn(async |_: (AppState, vercel_runtime::Request)| -> Answer {
        panic!("the handler began")
    });
    let service = layer(&lab.database).layer(handler);
    let answer = super::common::vercel::ask(service, "GET", "/").await;
    assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
    assert!(answer.contains("retry-after: 1\r\n"), "{answer}");
    assert!(answer.contains("\"load_shed\""), "{answer}");
}
