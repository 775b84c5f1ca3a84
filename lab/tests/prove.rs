//! `lab prove` against the function of prove/, over HTTP, in hosts that freeze it.

use std::process::{Output, Stdio};
use std::time::{Duration, Instant};

use lab::lambda::Function;
use lab::pgbouncer::{Mode, PgBouncer};
use lab::postgres::{Database, Postgres};
use lab::vercel::Deployment;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::process::Command;

const FUNCTION: &str = env!("CARGO_BIN_EXE_prove-function");
/// Longer than a busy machine takes.
const PLENTY: Duration = Duration::from_secs(60);

const TOKEN: &str = "a-token-of-the-tests";

/// What stays open without the layer, on whatever machine: a dropped transaction may be rolled
/// back before the process is frozen.
const LEFT_OPEN: [&str; 9] = [
    "forgotten",
    "begin",
    "failed",
    "task",
    "rows",
    "timeout",
    "slow",
    "advisory",
    "state",
];

#[tokio::test(flavor = "multi_thread")]
async fn function_on_lambda_is_proved() {
    let database = database().await;
    let with = lambda(&database.url, Some(TOKEN), true).await;
    let without = lambda(&database.url, Some(TOKEN), false).await;
    let more = ["--without", &without, "--json", "-"];
    let output = proves(&with, &database.url, &more).await;
    let report = is_proved(&output, "lambda", 502);
    assert_eq!(report["without"]["layer"], false);
    // The table is gone, and nothing has an open transaction.
    let left = database
        .query("select from pg_class where relname like 'antifreeze_prove%'")
        .await;
    assert!(left.expect("an answer").is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn function_on_vercel_is_proved() {
    let database = database().await;
    let with = vercel(&database, true).await;
    let without = vercel(&database, false).await;
    let more = ["--without", &without, "--json", "-"];
    let output = proves(&with, &database.url, &more).await;
    let report = is_proved(&output, "vercel", 500);
    assert_eq!(report["without"]["layer"], false);
}

/// Where the server's sessions are the pooler's.
#[tokio::test(flavor = "multi_thread")]
async fn function_behind_a_pooler_is_proved() {
    let database = database().await;
    let server = Postgres::shared().await.expect("a server");
    let pooler = PgBouncer::builder(server).mode(Mode::Transaction).start();
    let pooler = pooler.await.expect("a pooler");
    let with = lambda(&pooler.url(&database.url), Some(TOKEN), true).await;
    let output = proves(&with, &database.url, &["--json", "-"]).await;
    let report = is_proved(&output, "lambda", 502);
    assert_eq!(report["with"]["pooler"], "transaction");
    assert_eq!(report["skipped"], serde_json::json!(["advisory", "state"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn function_without_layer_is_not_proved() {
    let database = database().await;
    let url = lambda(&database.url, Some(TOKEN), false).await;
    let output = prove(&url, &database.url, TOKEN, &[]).await;
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let (_, names) = text
        .split_once(" or were not reached:\n")
        .expect("a verdict");
    assert!(text.contains("\nnot proved: "), "{text}");
    let names: Vec<_> = names.split([',', '\n']).map(str::trim).collect();
    for name in LEFT_OPEN {
        assert!(names.contains(&name), "{name}: {text}");
    }
    assert!(!names.contains(&"returns"), "{text}");
    for line in text.lines() {
        assert!(line.chars().count() <= 80, "{line}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn function_is_off_without_a_token() {
    let database = database().await;
    for token in [None, Some(""), Some("short")] {
        let url = lambda(&database.url, token, true).await;
        let output = prove(&url, &database.url, "short", &[]).await;
        fails(&output, "404 Not Found: is this the function of prove/");
    }
    let url = lambda(&database.url, Some(TOKEN), true).await;
    for token in ["another-token-of-the-tests", &TOKEN[1..]] {
        let output = prove(&url, &database.url, token, &[]).await;
        fails(&output, "401 Unauthorized: PROVE_TOKEN is not the one");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn mistakes_are_told_in_a_line() {
    let (database, other) = (database().await, database().await);
    let url = lambda(&database.url, Some(TOKEN), true).await;
    fails(
        &prove(&url, &database.url, "", &[]).await,
        "PROVE_TOKEN is not set",
    );
    let output = prove("http://function.example", &database.url, TOKEN, &[]).await;
    fails(&output, "must begin with https://");
    let output = prove("http://127.0.0.1:1", &database.url, TOKEN, &[]).await;
    fails(&output, "cannot connect to 127.0.0.1, port 1");
    let output = prove("https://function.invalid", &database.url, TOKEN, &[]).await;
    fails(&output, "cannot connect to function.invalid, port 443");
    fails(
        &prove(&url, &other.url, TOKEN, &[]).await,
        "does not use this database",
    );
    let output = prove(&url, "postgres://me:secret@127.0.0.1:1/x", TOKEN, &[]).await;
    fails(&output, "cannot connect to the database of --database");

    // A role that may not see what the function's sessions do.
    let name = format!("watcher_{}", database.name);
    let create = format!("create role {name} login password 'secret'");
    database.execute(&create).await.expect("a role");
    let user = database
        .url
        .split_once("://")
        .and_then(|(_, rest)| rest.split_once('@'));
    let (_, address) = user.expect("a URL with a user");
    let watcher = format!("postgres://{name}:secret@{address}");
    let output = prove(&url, &watcher, TOKEN, &[]).await;
    fails(&output, "may not see the sessions of");
    database
        .execute(&format!("drop role {name}"))
        .await
        .expect("dropped");
}

#[tokio::test(flavor = "multi_thread")]
async fn interrupted_command_tidies_up() {
    let database = database().await;
    let url = lambda(&database.url, Some(TOKEN), false).await;
    let command = Command::new(env!("CARGO_BIN_EXE_lab-prove"))
        .args([&url, "--database", &database.url, "--wait", "600"])
        .env("PROVE_TOKEN", TOKEN)
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("it starts");
    let made = "select count(*) from pg_class where relname = 'antifreeze_prove' \
                and pg_sequence_last_value('antifreeze_prove_id_seq') > 0";
    // It waits after its first ending then.
    let limit = Instant::now() + PLENTY;
    while !matches!(database.query(made).await, Ok(rows) if rows[0][0].as_deref() == Some("1")) {
        assert!(Instant::now() < limit, "no row is made");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let pid = command.id().and_then(|pid| Pid::from_raw(pid as i32));
    kill_process(pid.expect("it runs"), Signal::INT).expect("interrupted");
    let output = tokio::time::timeout(PLENTY, command.wait_with_output()).await;
    let output = output.expect("it ends").expect("an output");
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{text}");
    assert!(text.ends_with("error: interrupted\n"), "{text}");
    let left = database.query("select from pg_class where relname = 'antifreeze_prove'");
    assert!(left.await.expect("an answer").is_empty());
}

/// Nothing is left open with the layer, and without it what can be relied upon is.
fn is_proved(output: &Output, host: &str, panicked: u16) -> Value {
    let (table, json) = (String::from_utf8_lossy(&output.stderr), &output.stdout);
    assert!(output.status.success(), "{output:?}");
    let report: Value = serde_json::from_slice(json).expect("JSON");
    assert_eq!(report["with"]["host"], host);
    assert_eq!(report["with"]["layer"], true);
    assert_eq!(report["left_open"], serde_json::json!([]));
    let endings = report["endings"].as_array().expect("endings");
    let skipped = report["skipped"].as_array().map_or(0, Vec::len);
    assert_eq!(endings.len() + skipped, 12);
    let verdict = format!(
        "\nproved: none of {} endings left anything open\n",
        endings.len()
    );
    assert!(table.ends_with(&verdict), "{table}");
    for ending in endings {
        let name = ending["ending"].as_str().expect("a name");
        let (with, without) = (&ending["with"], &ending["without"]);
        assert!(
            with["reached"] == true && with["open"] == false,
            "{ending:#}"
        );
        if !without.is_null() {
            assert!(without["reached"] == true, "{ending:#}");
        }
        if !without.is_null() && LEFT_OPEN.contains(&name) {
            assert!(without["open"] == true, "{ending:#}");
        }
        let status = match name {
            "panic" => panicked,
            "slow" => 504,
            _ => 200,
        };
        assert_eq!(with["status"], status, "{ending:#}");
    }
    let text = [&output.stdout[..], &output.stderr].concat();
    assert!(!String::from_utf8_lossy(&text).contains(TOKEN));
    report
}

#[track_caller]
fn fails(output: &Output, line: &str) {
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    assert!(text.starts_with("error: ") && text.contains(line), "{text}");
    assert!(!text.contains("secret") && !text.contains(TOKEN), "{text}");
}

/// On a busy machine something may be seen that is still ending, but not each time.
async fn proves(url: &str, database: &str, more: &[&str]) -> Output {
    for _ in 1..3 {
        let output = prove(url, database, TOKEN, more).await;
        if output.status.code() != Some(1) {
            return output;
        }
        println!("tried again: {}", String::from_utf8_lossy(&output.stderr));
    }
    prove(url, database, TOKEN, more).await
}

async fn prove(url: &str, database: &str, token: &str, more: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lab-prove"));
    command
        .args([url, "--database", database, "--wait", "0.2"])
        .args(more)
        .env("PROVE_TOKEN", token)
        .kill_on_drop(true);
    command.output().await.expect("it starts")
}

async fn database() -> Database {
    let server = Postgres::shared().await.expect("a server");
    server.fresh_database().await.expect("a database")
}

/// A function in a Lambda that freezes; its address.
async fn lambda(database: &str, token: Option<&str>, layer: bool) -> String {
    let mut function = Function::builder(FUNCTION)
        .env("DATABASE_URL", database)
        .timeout(Duration::from_secs(3))
        // The margin before the kill is not the subject here.
        .overtime(Duration::from_secs(3));
    if let Some(token) = token {
        function = function.env("PROVE_TOKEN", token);
    }
    if !layer {
        function = function.env("WITHOUT_LAYER", 1);
    }
    let function = function.start().await.expect("a function");
    let (listener, url) = listener().await;
    tokio::spawn(async move { function.serve(listener).await });
    url
}

async fn vercel(database: &Database, layer: bool) -> String {
    let mut function = Deployment::builder(FUNCTION)
        .env("DATABASE_URL", &database.url)
        .env("PROVE_TOKEN", TOKEN);
    if !layer {
        // The host's limit; the layer knows of another one, which is 10 s.
        let limit = Duration::from_secs(1);
        function = function.env("WITHOUT_LAYER", 1).max_duration(limit);
    }
    let function = function.start().await.expect("a function");
    let (listener, url) = listener().await;
    tokio::spawn(async move { function.serve(listener).await });
    format!("{url}/api/prove")
}

async fn listener() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    (listener, format!("http://{address}"))
}
