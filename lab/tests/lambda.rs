//! The Lambda that freezes: what it answers.

mod common;

use std::time::{Duration, Instant};

use http::Request;
use lab::lambda::{Answer, Builder, Function, Outcome};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

fn echo() -> Builder {
    Function::builder(env!("CARGO_BIN_EXE_lambda_echo"))
}

async fn get(function: &Function, path: &str) -> Outcome {
    let request = Request::get(path).body("").unwrap();
    function.request(request).await.unwrap().1
}

/// What the function said about itself, inside the gateway's envelope.
fn said(outcome: &Outcome) -> Value {
    let answer = outcome
        .json()
        .unwrap_or_else(|| panic!("no answer: {outcome:?}"));
    serde_json::from_str(answer["body"].as_str().unwrap()).unwrap()
}

#[tokio::test]
async fn lambda_answers_http() {
    let function = echo().env("EXTRA", 1).timeout(Duration::from_secs(30));
    let function = function.start().await.unwrap();
    let request = Request::put("/some/where?name=a%20b")
        .header("cookie", "a=1; b=2")
        .body("hello")
        .unwrap();
    let (response, outcome) = function.request(request).await.unwrap();
    assert_eq!(response.status(), 201);
    assert_eq!(response.headers()["x-echo"], "1");
    let said: Value = serde_json::from_slice(response.body()).unwrap();
    assert_eq!(said["pid"], outcome.environment.pid());
    assert_eq!(said["request_id"], outcome.request_id);
    assert_eq!(said["method"], "PUT");
    assert_eq!(said["path"], "/some/where");
    assert_eq!(said["name"], "a b");
    assert_eq!(said["cookie"], "a=1; b=2");
    assert_eq!(said["body"], "hello");
    let left = said["left_ms"].as_u64().unwrap();
    assert!((20_000..=30_000).contains(&left), "{left}");
    let variables = said["variables"].as_array().unwrap();
    assert!(variables.contains(&json!("EXTRA")) && variables.contains(&json!("AWS_REGION")));
    assert!(!variables.contains(&json!("CARGO")), "ours leaked in");
    assert!(outcome.cold && outcome.environment.init_duration().is_some());
    println!(
        "init {:?}, answer {:?}",
        outcome.environment.init_duration(),
        outcome.responded
    );
    outcome.environment.logged("starting\n").await.unwrap();
}

#[tokio::test]
async fn lambda_answers_plain_events_and_errors() {
    let function = echo().env("ECHO_MODE", "event").start().await.unwrap();
    let outcome = function.invoke(json!({"a": 1})).await.unwrap();
    assert_eq!(outcome.json().unwrap()["event"], json!({"a": 1}));
    let failed = function.invoke(json!({"fail": true})).await.unwrap();
    match failed.answer {
        Answer::Error { message, .. } => assert_eq!(message, "asked to fail"),
        other => panic!("{other:?}"),
    }
    assert_eq!(failed.environment.pid(), outcome.environment.pid());
    assert!(!failed.cold && failed.environment.is_alive());
}

#[tokio::test]
async fn panic_is_an_error_and_a_502() {
    let function = echo().start().await.unwrap();
    let request = Request::get("/panic").body("").unwrap();
    let (response, outcome) = function.request(request).await.unwrap();
    assert_eq!(response.status(), 502);
    assert!(
        matches!(outcome.answer, Answer::Error { .. }),
        "{:?}",
        outcome.answer
    );
    outcome.environment.logged("asked to panic").await.unwrap();
}

#[tokio::test]
async fn concurrent_calls_start_environments() {
    let function = echo()
        .timeout(Duration::from_secs(10))
        .start()
        .await
        .unwrap();
    let slow = || get(&function, "/sleep?ms=1000");
    let (one, two, three) = tokio::join!(slow(), slow(), slow());
    let mut pids = [&one, &two, &three].map(|outcome| outcome.environment.pid());
    pids.sort();
    assert!(pids[0] != pids[1] && pids[1] != pids[2]);
    assert!(one.cold && two.cold && three.cold);
    assert_eq!(function.environments().len(), 3);
    for environment in function.environments() {
        environment.frozen().await.unwrap();
    }
    // The oldest is taken first.
    let again = get(&function, "/").await;
    assert_eq!(again.environment.id(), function.environments()[0].id());
    assert!(!again.cold);
}

#[tokio::test]
async fn lambda_collects_streams() {
    let function = echo().env("ECHO_MODE", "stream").start().await.unwrap();
    let request = Request::get("/").body("").unwrap();
    let (response, outcome) = function.request(request).await.unwrap();
    assert_eq!(response.status(), 202);
    assert_eq!(response.body().as_ref(), b"one two three");
    assert!(
        matches!(&outcome.answer, Answer::Streamed { prelude, .. } if prelude["statusCode"] == 202)
    );
    assert!(outcome.responded >= Duration::from_millis(40));
    outcome.environment.frozen().await.unwrap();

    let cut = get(&function, "/cut").await;
    assert!(
        matches!(cut.answer, Answer::Error { .. } | Answer::Crashed(_)),
        "{:?}",
        cut.answer
    );
    cut.environment.ended().await;
}

#[tokio::test]
async fn environment_serves_several_at_once() {
    let builder = echo().env("ECHO_MODE", "concurrent").concurrency(3);
    let builder = builder.timeout(Duration::from_secs(30));
    let function = builder.start().await.unwrap();
    let environment = function.cold_start().await.unwrap();
    environment.frozen().await.unwrap();
    let started = Instant::now();
    let slow = || get(&function, "/sleep?ms=400");
    let (one, two, three) = tokio::join!(slow(), slow(), slow());
    assert!(started.elapsed() < Duration::from_millis(2_900));
    for outcome in [&one, &two, &three] {
        assert_eq!(said(outcome)["pid"], environment.pid());
    }
    environment.frozen().await.unwrap();
    let (a, b, c, d) = tokio::join!(slow(), slow(), slow(), slow());
    assert_eq!(
        [a, b, c, d].iter().filter(|outcome| outcome.cold).count(),
        1
    );
}

#[tokio::test]
async fn gateway_serves_any_client() {
    let function = echo().start().await.unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = tokio::spawn(async move { function.serve(listener).await });
    let mut client = TcpStream::connect(address).await.unwrap();
    client
        .write_all(
            b"POST /x HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\nconnection: close\r\n\r\nhi",
        )
        .await
        .unwrap();
    let mut text = String::new();
    client.read_to_string(&mut text).await.unwrap();
    assert!(text.starts_with("HTTP/1.1 201 Created\r\n"), "{text}");
    assert!(text.contains(r#""body":"hi""#), "{text}");
    server.abort();
}
