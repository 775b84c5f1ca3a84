//! The Lambda that freezes: how environments begin, pause and end.

mod common;

use std::time::{Duration, Instant};

use common::{eventually, goes_on, stands_still, ticks};
use http::Request;
use lab::lambda::{Answer, Builder, Environment, FreezeAt, Function, Outcome};
use serde_json::Value;

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
async fn lambda_freezes_between_invocations() {
    let files = tempfile::tempdir().unwrap();
    let path = files.path().join("ticks");
    let function = echo()
        .env("ECHO_TICKS", path.display())
        .start()
        .await
        .unwrap();

    let environment = function.cold_start().await.unwrap();
    environment.frozen().await.unwrap();
    assert!(environment.is_frozen());
    assert_eq!(lab::process::is_frozen(environment.pid()), Some(true));
    assert!(stands_still(&path).await, "frozen after init");

    for _ in 0..20 {
        let outcome = get(&function, "/").await;
        assert_eq!(outcome.environment.pid(), environment.pid());
        assert!(!outcome.cold);
    }
    let outcome = get(&function, "/sleep?ms=50").await;
    assert!(outcome.responded >= Duration::from_millis(50));
    environment.frozen().await.unwrap();
    assert!(stands_still(&path).await, "frozen again");

    let before = ticks(&path).await;
    environment.thaw();
    assert!(!environment.is_frozen());
    while ticks(&path).await <= before + 5 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    environment.freeze();
    environment.frozen().await.unwrap();
    assert!(stands_still(&path).await, "frozen by a signal of the test");
    get(&function, "/").await;
}

#[tokio::test]
async fn foreign_freeze_is_noticed() {
    let function = echo().freeze_at(FreezeAt::Never).start().await.unwrap();
    let environment = function.cold_start().await.unwrap();
    assert!(!environment.is_frozen());
    lab::process::freeze(environment.pid()).unwrap();
    environment.frozen().await.unwrap();
    lab::process::thaw(environment.pid()).unwrap();
    eventually(|| !environment.is_frozen()).await;
    lab::process::terminate(environment.pid()).unwrap();
    environment.ended().await;
    assert!(lab::process::freeze(environment.pid()).is_err());
}

#[tokio::test]
async fn harsher_host_freezes_at_the_response() {
    let function = echo().freeze_at(FreezeAt::Response).start().await.unwrap();
    let first = get(&function, "/").await;
    first.environment.frozen().await.unwrap();
    for _ in 0..20 {
        let outcome = get(&function, "/").await;
        assert_eq!(outcome.environment.pid(), first.environment.pid());
        outcome.environment.frozen().await.unwrap();
    }
}

#[tokio::test]
async fn server_is_never_frozen() {
    let files = tempfile::tempdir().unwrap();
    let path = files.path().join("ticks");
    let builder = echo()
        .freeze_at(FreezeAt::Never)
        .env("ECHO_TICKS", path.display());
    let function = builder.start().await.unwrap();
    get(&function, "/").await;
    goes_on(&path).await;
}

#[tokio::test]
async fn slow_function_is_killed() {
    let function = echo().start().await.unwrap();
    let first = get(&function, "/").await;
    let event = lab::lambda::http::event(&Request::get("/sleep?ms=9000").body("".into()).unwrap());
    let started = Instant::now();
    let outcome = function
        .invoke_within(event, Duration::from_millis(300))
        .await
        .unwrap();
    assert_eq!(outcome.answer, Answer::TimedOut);
    assert!(
        (300..2000).contains(&started.elapsed().as_millis()),
        "{:?}",
        started.elapsed()
    );
    assert_eq!(outcome.environment.pid(), first.environment.pid());
    assert!(!first.environment.is_alive());
    assert!(lab::process::is_frozen(first.environment.pid()).is_none());
    let next = get(&function, "/").await;
    assert!(next.cold && next.environment.pid() != first.environment.pid());
}

#[tokio::test]
async fn crash_is_reported() {
    let function = echo().start().await.unwrap();
    let outcome = get(&function, "/crash").await;
    match outcome.answer {
        Answer::Crashed(status) => assert_eq!(status.code(), Some(3)),
        ref other => panic!("{other:?}"),
    }
    assert!(outcome.environment.log().ends_with("about to crash\n"));
    assert!(get(&function, "/").await.cold);
}

#[tokio::test]
async fn failed_init_is_reported() {
    let function = echo().env("ECHO_INIT", "fail").start().await.unwrap();
    let outcome = get(&function, "/").await;
    match outcome.answer {
        Answer::Crashed(status) => assert_eq!(status.code(), Some(1)),
        ref other => panic!("{other:?}"),
    }
    let error = function.cold_start().await.unwrap_err().to_string();
    assert!(error.contains("the database is not there"), "{error}");
    assert!(function.environments().is_empty());

    let error = Function::builder("/nowhere/at/all")
        .start()
        .await
        .unwrap_err();
    assert!(error.to_string().contains("/nowhere/at/all"));
}

#[tokio::test]
async fn function_without_extension_ends_at_once() {
    let function = echo().start().await.unwrap();
    let environment = get(&function, "/").await.environment;
    let exits = function.shutdown().await;
    assert_eq!(exits.len(), 1);
    assert!(exits[0].killed && !exits[0].terminated, "{:?}", exits[0]);
    assert!(!environment.is_alive() && function.environments().is_empty());
    assert!(get(&function, "/").await.cold);
}

#[tokio::test]
async fn function_with_extension_ends_in_order() {
    let graceful = echo().env("ECHO_GRACEFUL", 1);
    let function = graceful.grace(Duration::from_secs(30));
    let function = function.start().await.unwrap();
    let environment = get(&function, "/").await.environment;
    environment.frozen().await.unwrap();
    let exit = environment.shutdown().await;
    assert!(exit.terminated && !exit.killed, "{exit:?}");
    assert_eq!(exit.status.code(), Some(0));
    assert!(environment.log().contains("shutdown hook ran"));
}

#[tokio::test]
async fn freeze_waits_for_extensions() {
    let extension = echo().env("ECHO_EXTENSION_MS", 2_000);
    let function = extension.timeout(Duration::from_secs(30));
    let function = function.start().await.unwrap();
    let first = get(&function, "/").await;
    assert!(
        first.responded < Duration::from_millis(1_900),
        "{:?}",
        first.responded
    );
    let log = |environment: &Environment| environment.log().matches("extension saw").count();
    assert_eq!(log(&first.environment), 0);
    first.environment.frozen().await.unwrap();
    eventually(|| log(&first.environment) == 1).await;

    // The next invocation waits for the extension, in the same environment.
    get(&function, "/").await;
    let third = get(&function, "/").await;
    assert_eq!(third.environment.pid(), first.environment.pid());
    eventually(|| log(&third.environment) == 2).await;
}

#[tokio::test]
async fn slow_extension_is_killed() {
    let builder = echo()
        .env("ECHO_EXTENSION_MS", 60_000)
        .timeout(Duration::from_secs(2));
    let function = builder.start().await.unwrap();
    let outcome = get(&function, "/").await;
    assert!(outcome.body().is_some(), "the answer was in time");
    let started = Instant::now();
    outcome.environment.ended().await;
    assert!(started.elapsed() < Duration::from_secs(30));
}

#[tokio::test]
async fn snapshot_is_restored() {
    let builder = echo().env("ECHO_MODE", "snapshot").snap_start(true);
    let function = builder.start().await.unwrap();
    let environment = function.cold_start().await.unwrap();
    environment.frozen().await.unwrap();
    environment
        .logged("starting\nbefore the snapshot\n")
        .await
        .unwrap();
    let first = get(&function, "/").await;
    assert_eq!(said(&first)["pid"], environment.pid());
    environment.logged("after the restore\n").await.unwrap();
    environment.frozen().await.unwrap();
    get(&function, "/").await;
    assert_eq!(environment.log().matches("restore").count(), 1);
    function.shutdown().await;
    assert!(
        said(&get(&function, "/").await)["pid"].is_number(),
        "cold, and restored at once"
    );
}

#[tokio::test]
async fn failed_restore_is_reported() {
    let builder = echo()
        .env("ECHO_MODE", "snapshot")
        .env("ECHO_INIT", "restore")
        .snap_start(true);
    let function = builder.start().await.unwrap();
    match get(&function, "/").await.answer {
        Answer::Error { message, .. } => assert_eq!(message, "the database has moved"),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn dropped_lambda_kills_everything() {
    let function = echo().start().await.unwrap();
    let frozen = function.cold_start().await.unwrap();
    frozen.frozen().await.unwrap();
    let busy = tokio::spawn({
        let function = function.clone();
        async move { get(&function, "/sleep?ms=9000").await }
    });
    eventually(|| frozen.pid() != 0 && !frozen.is_frozen()).await;
    busy.abort();
    let _ = busy.await;
    drop(function);
    frozen.ended().await;
    assert!(lab::process::is_frozen(frozen.pid()).is_none());
    frozen.shutdown().await;
}

/// Not a test of its own: what the next one starts in another process, and kills.
#[tokio::test]
#[ignore = "run by the next one"]
async fn owner_in_a_child_process() {
    // The ignored tests are run without their parent.
    if std::env::var_os("LAB_TEST_OWNER").is_none() {
        return;
    }
    let function = echo().start().await.unwrap();
    let environment = function.cold_start().await.unwrap();
    environment.frozen().await.unwrap();
    println!("pid={}", environment.pid());
    tokio::time::sleep(Duration::from_secs(60)).await;
}

#[tokio::test]
async fn frozen_environment_dies_with_its_owner() {
    use std::io::{BufRead, BufReader};
    let mut owner = std::process::Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "owner_in_a_child_process",
            "--ignored",
            "--nocapture",
        ])
        .env("LAB_TEST_OWNER", "1")
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let output = BufReader::new(owner.stdout.take().unwrap());
    let mut lines = output.lines().map(Result::unwrap);
    let pid: u32 = lines
        .find_map(|line| line.split_once("pid=")?.1.parse().ok())
        .unwrap();
    assert_eq!(lab::process::is_frozen(pid), Some(true));
    owner.kill().unwrap();
    owner.wait().unwrap();
    eventually(|| lab::process::is_frozen(pid).is_none()).await;
}

#[test]
fn lambda_outlives_its_runtime() {
    let runtime = || {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap()
    };
    let function = runtime().block_on(echo().start()).unwrap();
    let first = runtime().block_on(get(&function, "/"));
    let second = runtime().block_on(get(&function, "/"));
    assert_eq!(first.environment.pid(), second.environment.pid());
}
