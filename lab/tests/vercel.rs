//! The Vercel host that freezes.

mod common;

use std::time::Duration;

use common::{eventually, goes_on, stands_still};
use http::Request;
use lab::vercel::{Builder, Deployment, Outcome};
use serde_json::{Value, json};

fn echo() -> Builder {
    Deployment::builder(env!("CARGO_BIN_EXE_vercel_echo"))
}

async fn get(deployment: &Deployment, path: &str) -> Outcome {
    deployment
        .request(Request::get(path).body("").unwrap())
        .await
        .unwrap()
}

#[tokio::test]
async fn vercel_answers() {
    let deployment = echo().env("EXTRA", 1).start().await.unwrap();
    let request = Request::post("https://shop.example.com/x?y=1")
        .body("hello")
        .unwrap();
    let outcome = deployment.request(request).await.unwrap();
    let response = outcome.response.unwrap();
    assert_eq!(response.status(), 201);
    let said: Value = serde_json::from_slice(response.body()).unwrap();
    assert_eq!(said["pid"], deployment.pid());
    assert_eq!(
        (&said["method"], &said["path"]),
        (&json!("POST"), &json!("/x"))
    );
    assert_eq!(
        (&said["host"], &said["body"]),
        (&json!("shop.example.com"), &json!("hello"))
    );
    assert!(said["id"].as_str().unwrap().starts_with("lab1::"));
    let variables = said["variables"].as_array().unwrap();
    assert!(variables.contains(&json!("EXTRA")) && variables.contains(&json!("VERCEL")));
    assert!(!variables.contains(&json!("CARGO")), "ours leaked in");
    assert!(outcome.ended.is_some());
    deployment.logged("starting\n").await.unwrap();
}

#[tokio::test]
async fn vercel_freezes_between_requests() {
    let files = tempfile::tempdir().unwrap();
    let path = files.path().join("ticks");
    let deployment = echo()
        .env("ECHO_TICKS", path.display())
        .start()
        .await
        .unwrap();
    deployment.frozen().await.unwrap();
    for _ in 0..20 {
        get(&deployment, "/").await.response.unwrap();
    }
    deployment.frozen().await.unwrap();
    assert_eq!(lab::process::is_frozen(deployment.pid()), Some(true));
    assert!(stands_still(&path).await);
    deployment.thaw();
    assert!(!deployment.is_frozen());
    goes_on(&path).await;
}

#[tokio::test]
async fn vercel_may_stay_awake() {
    let files = tempfile::tempdir().unwrap();
    let path = files.path().join("ticks");
    let builder = echo().freeze(false).env("ECHO_TICKS", path.display());
    let deployment = builder.start().await.unwrap();
    get(&deployment, "/").await.response.unwrap();
    goes_on(&path).await;
    deployment.freeze();
    deployment.frozen().await.unwrap();
    get(&deployment, "/").await.response.unwrap();
}

#[tokio::test]
async fn vercel_freezes_after_the_last_of_many() {
    let deployment = echo().start().await.unwrap();
    deployment.frozen().await.unwrap();
    let slow = tokio::spawn({
        let deployment = deployment.clone();
        async move { get(&deployment, "/sleep?ms=2000").await }
    });
    eventually(|| !deployment.is_frozen()).await;
    let quick = get(&deployment, "/").await;
    assert!(
        quick.responded < Duration::from_millis(1_900),
        "{:?}",
        quick.responded
    );
    assert!(!deployment.is_frozen());
    let slow = slow.await.unwrap();
    assert!(slow.responded >= Duration::from_millis(2_000));
    assert_ne!(slow.request_id, quick.request_id);
    deployment.frozen().await.unwrap();
}

#[tokio::test]
async fn vercel_waits_for_work_after_the_answer() {
    let deployment = echo().start().await.unwrap();
    let outcome = get(&deployment, "/after?ms=2000").await;
    assert!(outcome.response.is_ok() && outcome.responded < Duration::from_millis(1_900));
    assert!(outcome.ended.unwrap() >= Duration::from_millis(2_000));
    deployment.logged("worked on").await.unwrap();
    deployment.frozen().await.unwrap();
}

#[tokio::test]
async fn panic_is_no_response() {
    let deployment = echo().start().await.unwrap();
    let outcome = get(&deployment, "/panic").await;
    assert!(outcome.response.is_err() && outcome.ended.is_none());
    deployment.logged("asked to panic").await.unwrap();
    assert!(
        get(&deployment, "/").await.response.is_ok(),
        "the process goes on"
    );
}

#[tokio::test]
async fn vercel_gives_up_after_the_maximum() {
    let builder = echo().max_duration(Duration::from_millis(200));
    let deployment = builder.start().await.unwrap();
    let outcome = get(&deployment, "/sleep?ms=5000").await;
    assert!(outcome.response.unwrap_err().to_string().contains("200ms"));
    deployment.frozen().await.unwrap();
}

#[tokio::test]
async fn vercel_reads_the_side_channel() {
    let deployment = echo().start().await.unwrap();
    get(&deployment, "/log").await;
    deployment
        .logged("said over the side channel\n")
        .await
        .unwrap();
}

#[tokio::test]
async fn frozen_function_terminates_in_good_order() {
    let deployment = echo().start().await.unwrap();
    // The runtime says that it has started before it listens for SIGTERM.
    get(&deployment, "/").await.response.unwrap();
    deployment.frozen().await.unwrap();
    let exit = deployment.terminate().await;
    assert!(exit.terminated && !exit.killed, "{exit:?}");
    assert_eq!(exit.status.code(), Some(0));
    assert!(!deployment.is_alive());
    assert!(get(&deployment, "/").await.response.is_err());
}

#[tokio::test]
async fn failed_start_is_explained() {
    let error = echo()
        .env("ECHO_FAIL", 1)
        .start()
        .await
        .unwrap_err()
        .to_string();
    assert!(error.contains("the database is not there"), "{error}");
}

#[tokio::test]
async fn dropped_function_is_killed() {
    let deployment = echo().start().await.unwrap();
    deployment.frozen().await.unwrap();
    let pid = deployment.pid();
    drop(deployment);
    assert!(lab::process::is_frozen(pid).is_none());
}
