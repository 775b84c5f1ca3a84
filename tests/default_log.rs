//! The log without a subscriber. Each case runs in a process of its own: the test's executable,
//! started again.
#![cfg(all(feature = "lambda", feature = "axum"))]

mod common;

use std::process::Stdio;
use std::time::Duration;

use antifreeze::{Connection, Database, DatabaseLayer, Error, connection, transaction};
use axum::Router;
use axum::routing::get;
use common::{BoxError, PLENTY, lab};
use http::{Request, Response, StatusCode};
use http_body_util::Empty;
use tokio::process::Command;
use tower::{Layer, ServiceExt};

/// Runs `case` of this file where `variables` are set, and returns what it wrote on stderr.
async fn stderr_of(case: &str, variables: &[(&str, &str)]) -> String {
    let output = Command::new(std::env::current_exe().expect("a path"))
        .args(["--ignored", "--exact", "--nocapture", case])
        .envs(variables.iter().copied())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .output();
    let output = tokio::time::timeout(PLENTY, output).await.expect("in time");
    let output = output.expect("it runs");
    let text = String::from_utf8(output.stderr).expect("UTF-8");
    assert!(output.status.success(), "{text}");
    text
}

/// The one line with `part` in it.
#[track_caller]
fn line<'a>(text: &'a str, part: &str) -> &'a str {
    let mut lines = text.lines().filter(|line| line.contains(part));
    let line = lines.next().unwrap_or_else(|| panic!("no {part}: {text}"));
    assert_eq!(lines.next(), None, "{part} twice: {text}");
    line
}

fn nowhere() -> Database {
    let url = "postgres://app:hunter2@127.0.0.1:1/none?sslmode=disable";
    Database::from_url(url).expect("a URL")
}

fn request() -> Request<axum::body::Body> {
    let request = Request::get("/").header("x-request-id", "abc");
    request.body(axum::body::Body::empty()).expect("a request")
}

async fn status(router: Router) -> StatusCode {
    let response = router.oneshot(request()).await;
    response.expect("a response").status()
}

#[tokio::test]
async fn dangers_go_to_stderr_without_a_subscriber() {
    let lab = lab().await;
    let variables = [
        ("DATABASE_URL", lab.server.url.as_str()),
        ("ANTIFREEZE_BIRTHDAY", "hunter2"),
    ];
    let text = stderr_of("dangers_in_a_child_process", &variables).await;
    // Once for each database.
    let unknown =
        "unknown environment variable ignored; check its spelling name=\"ANTIFREEZE_BIRTHDAY\"";
    assert!(text.contains(unknown), "{text}");
    let refused = line(&text, "commit failed");
    assert!(refused.starts_with("ERROR antifreeze: "), "{refused}");
    assert!(refused.contains("kind=transaction_failed"), "{refused}");
    assert!(refused.contains("request_id=\"abc\""), "{refused}");
    let late = line(&text, "the deadline was reached");
    assert!(late.contains("raise the function's timeout"), "{late}");
    line(&text, "the circuit breaker opened");
    assert!(!text.contains("hunter2"), "{text}");
    assert!(!text.contains("teardown"), "no danger: {text}");
}

#[tokio::test]
#[ignore = "a case of dangers_go_to_stderr_without_a_subscriber"]
async fn dangers_in_a_child_process() {
    let database = Database::from_env().expect("a URL");
    let service =
        DatabaseLayer::new(database.clone()).layer(tower::service_fn(async |_: Request<_>| {
            let transaction = transaction().await?;
            let _ = transaction.execute("select 1 / 0", &[]).await;
            Ok::<_, BoxError>(Response::new(Empty::<bytes::Bytes>::new()))
        }));
    let response = service.oneshot(request()).await.expect("a response");
    assert_eq!(response.status(), 500);
    let short = Duration::from_millis(100);
    let asleep = async {
        let connection = connection().await?;
        connection.batch_execute("select pg_sleep(60)").await?;
        Ok::<_, BoxError>(())
    };
    database
        .invocation(short, asleep)
        .await
        .expect_err("too late");
    let away = nowhere().warm_up().await.expect("a report");
    assert!(away.first_error.is_some());
}

#[tokio::test]
async fn filtering_subscriber_is_obeyed() {
    let text = stderr_of(
        "filtered_in_a_child_process",
        &[("ANTIFREEZE_BIRTHDAY", "1")],
    )
    .await;
    assert!(!text.contains("antifreeze"), "{text}");
}

#[test]
#[ignore = "a case of filtering_subscriber_is_obeyed"]
fn filtered_in_a_child_process() {
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::ERROR)
        .with_writer(std::io::stderr)
        .finish();
    tracing::subscriber::with_default(subscriber, nowhere);
}

#[tokio::test]
async fn subscriber_of_another_thread_hears_nothing() {
    let text = stderr_of("scoped_in_a_child_process", &[("ANTIFREEZE_BIRTHDAY", "1")]).await;
    line(
        &text,
        "unknown environment variable ignored; check its spelling",
    );
}

#[test]
#[ignore = "a case of subscriber_of_another_thread_hears_nothing"]
fn scoped_in_a_child_process() {
    let subscriber = tracing_subscriber::fmt()
        .with_writer(std::io::sink)
        .finish();
    tracing::subscriber::with_default(subscriber, || {
        let elsewhere = std::thread::spawn(|| drop(nowhere()));
        elsewhere.join().expect("no panic");
    });
}

#[tokio::test]
async fn rejection_is_logged_with_its_remedy() {
    let text = stderr_of("rejections_in_a_child_process", &[]).await;
    let forgotten = line(&text, "kind=not_in_invocation");
    assert!(
        forgotten.starts_with("ERROR antifreeze: answered with an error request_id=\"abc\""),
        "{forgotten}"
    );
    assert!(forgotten.contains("add `.layer("), "{forgotten}");
    let refused = line(
        &text,
        "answered with an error request_id=\"abc\" kind=refused",
    );
    assert!(refused.contains("nothing listens there"), "{refused}");
    assert!(!text.contains("hunter2"), "{text}");
}

#[tokio::test]
#[ignore = "a case of rejection_is_logged_with_its_remedy"]
async fn rejections_in_a_child_process() {
    async fn handler(_: Connection) -> &'static str {
        "not reached"
    }
    let layer = DatabaseLayer::new(nowhere()).max_duration(Duration::from_secs(2));
    let before = Router::new().layer(layer.clone()).route("/", get(handler));
    assert_eq!(status(before).await, 500);
    let around = Router::new().route("/", get(handler)).layer(layer);
    assert_eq!(status(around).await, 503);
}

#[tokio::test]
async fn error_is_logged_once_for_all_responses() {
    let lab = lab().await;
    let variables = [("DATABASE_URL", lab.server.url.as_str())];
    let text = stderr_of("answers_in_a_child_process", &variables).await;
    let logged = line(&text, "answered with an error");
    assert!(logged.contains("sqlstate=\"42P01\""), "{logged}");
    assert!(logged.contains("request_id=\"abc\""), "{logged}");
}

#[tokio::test]
#[ignore = "a case of error_is_logged_once_for_all_responses"]
async fn answers_in_a_child_process() {
    async fn missing(connection: Connection) -> Result<String, Error> {
        let error = connection.batch_execute("select * from nowhere").await;
        let error = Error::from(error.expect_err("there is no such table"));
        let first = Response::<bytes::Bytes>::from(&error);
        assert_eq!(
            first.status(),
            Response::<bytes::Bytes>::from(&error).status()
        );
        Err(error)
    }
    // The caller's own fault: it is no danger.
    async fn known(connection: Connection) -> Result<String, Error> {
        connection
            .batch_execute("create temp table u (a int unique); insert into u values (1), (1)")
            .await?;
        Ok(String::new())
    }
    let database = Database::from_env().expect("a URL");
    for (handler, expected) in [(get(missing), 500), (get(known), 409)] {
        let layer = DatabaseLayer::new(database.clone());
        let router = Router::new().route("/", handler).layer(layer);
        assert_eq!(status(router).await, expected);
    }
}

const ON_LAMBDA: (&str, &str) = ("AWS_LAMBDA_FUNCTION_NAME", "shop");

/// As another major version of lambda_http hands it over, whose context is another type.
#[tokio::test]
async fn request_without_a_deadline_is_logged_once() {
    for (variable, told) in [
        (("ANTIFREEZE_FUNCTION_TIMEOUT", ""), true),
        (("ANTIFREEZE_FUNCTION_TIMEOUT", "7s"), false),
        (("VERCEL", "1"), false),
    ] {
        let text = stderr_of("no_deadline_in_a_child_process", &[ON_LAMBDA, variable]).await;
        if told {
            line(&text, "the deadline of a request on Lambda is not known");
        } else {
            assert!(!text.contains("deadline"), "{variable:?}: {text}");
        }
    }
}

#[tokio::test]
#[ignore = "a case of request_without_a_deadline_is_logged_once"]
async fn no_deadline_in_a_child_process() {
    let router = |layer| {
        let handler = async || match antifreeze::invocation()?.remaining() {
            Some(left) => Ok::<_, Error>(format!("{}", left.as_secs())),
            None => Ok("none".to_owned()),
        };
        Router::new().route("/", get(handler)).layer(layer)
    };
    let layer = || DatabaseLayer::new(nowhere());
    for layer in [
        layer().max_duration(Duration::from_secs(3)),
        layer(),
        layer(),
    ] {
        assert_eq!(status(router(layer)).await, 200);
    }
}
