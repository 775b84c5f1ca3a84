//! The examples do what their first lines say, as executables on their hosts.
#![cfg(all(feature = "lambda", feature = "axum"))]

mod common;

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use common::PLENTY;
use http::Request;
use lab::lambda::{Answer, Function};
use lab::postgres::{Database, Postgres};
use serde_json::json;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::time::timeout;

/// Where cargo has put an example: it builds them all for `cargo test`.
fn example(name: &str) -> PathBuf {
    let this = std::env::current_exe().expect("a path");
    let target = this.parent().and_then(|deps| deps.parent());
    let example = target.expect("a folder").join("examples").join(name);
    assert!(
        example.exists(),
        "{name} is not built: run `cargo build --examples --all-features` first"
    );
    example
}

async fn partners() -> Database {
    let server = Postgres::shared().await.expect("a server");
    let database = server.fresh_database().await.expect("a database");
    let table = "create table partners (name text unique check (name <> ''))";
    database.execute(table).await.expect("a table");
    database
}

async fn count(database: &Database) -> String {
    let rows = database.query("select count(*) from partners").await;
    rows.expect("a count")[0][0].clone().expect("a number")
}

async fn function(name: &str, database: &Database) -> Function {
    let builder = Function::builder(example(name)).env("DATABASE_URL", &database.url);
    builder.start().await.expect("a function")
}

#[tokio::test]
async fn axum_example_creates_and_counts() {
    let database = partners().await;
    let function = function("axum", &database).await;
    for (request, status, body) in [
        (Request::post("/partners/acme"), 201, ""),
        (Request::post("/partners/acme"), 409, ""),
        (Request::get("/partners"), 200, "1\n"),
    ] {
        let request = request.body("").expect("a request");
        let (response, outcome) = function.request(request).await.expect("it runs");
        assert_eq!(response.status(), status, "{}", outcome.environment.log());
        assert_eq!(response.body(), body);
    }
    assert_eq!(count(&database).await, "1");
}

#[tokio::test]
async fn axum_example_works_without_a_host() {
    let database = partners().await;
    let (_server, address) = serve("axum", &database).await;
    for (line, status, body) in [
        ("POST /partners/acme", "201", ""),
        ("POST /partners/acme", "409", ""),
        ("POST /partners/umbrella", "201", ""),
        ("GET /partners", "200", "2\n"),
    ] {
        let answer = ask(&address, line, "").await;
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status} ")),
            "{line}: {answer}"
        );
        assert!(
            answer.ends_with(&format!("\r\n\r\n{body}")),
            "{line}: {answer}"
        );
    }
    assert_eq!(count(&database).await, "2");
}

/// `DatabaseLayer::from_env`, on Lambda: a connection is open before the first request, and its
/// session has ended, with a Terminate, once the environment has.
#[tokio::test]
async fn layer_from_environment_opens_and_closes() {
    let postgres = Postgres::builder().setting("log_min_messages", "debug1");
    let postgres = postgres.start().await.expect("a server");
    let database = postgres.create_database("d").await.expect("a database");
    let table = "create table partners (name text)";
    database.execute(table).await.expect("a table");
    let url = format!("{}?application_name=example", database.url);
    let builder = Function::builder(example("lambda_http")).env("DATABASE_URL", url);
    // Lambda's half a second has tests of its own.
    let builder = builder.grace(PLENTY);
    let function = builder.start().await.expect("a function");
    let states = async || {
        let query = "select state from pg_stat_activity where application_name = 'example'";
        let rows = database.query(query).await.expect("the sessions");
        rows.into_iter().flatten().flatten().collect::<Vec<_>>()
    };
    let become_of = async |expected: &[&str]| {
        let waiting = async {
            while states().await != expected {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(PLENTY, waiting).await.expect("in time");
    };
    function.cold_start().await.expect("it starts");
    become_of(&["idle"]).await;
    let request = Request::post("/partners").body("").expect("a request");
    let (response, outcome) = function.request(request).await.expect("it runs");
    assert_eq!(response.status(), 201, "{}", outcome.environment.log());
    // It is closed if the server was too busy to tell its slots.
    assert!(states().await.iter().all(|state| state == "idle"));
    // The hook runs: SIGTERM itself would end the process with no status.
    let exit = outcome.environment.shutdown().await;
    assert_eq!(
        (exit.killed, exit.status.code()),
        (false, Some(0)),
        "{exit:?}"
    );
    become_of(&[]).await;
    let log = postgres.log();
    assert!(
        !log.contains("unexpected EOF on client connection"),
        "{log}"
    );
}

#[tokio::test]
async fn layer_from_environment_needs_a_database() {
    let builder = Function::builder(example("lambda_http"));
    let function = builder.start().await.expect("a function");
    let error = function.cold_start().await.expect_err("it has no database");
    assert!(error.to_string().contains("DATABASE_URL"), "{error}");
    // One that cannot be reached is no error at the start.
    let url = "postgres://me@127.0.0.1:1/d";
    let builder = Function::builder(example("lambda_http")).env("DATABASE_URL", url);
    let function = builder.start().await.expect("a function");
    function.cold_start().await.expect("it starts");
}

#[tokio::test]
async fn sqs_example_stores_and_names_the_failed() {
    let database = partners().await;
    let function = function("sqs", &database).await;
    let (holder, connection) = tokio_postgres::connect(&database.url, tokio_postgres::NoTls)
        .await
        .expect("a session");
    tokio::spawn(connection);
    let hold = "begin; insert into partners values ('held')";
    holder.batch_execute(hold).await.expect("held");
    let record = |name: &str| json!({ "messageId": name, "body": name });
    let records = ["a", "held", "", "b"].map(record);
    let batch = json!({ "Records": records });
    let time = Duration::from_secs(8);
    let outcome = function.invoke_within(batch, time).await.expect("it runs");
    let log = outcome.environment.log();
    let answer = outcome
        .json()
        .unwrap_or_else(|| panic!("{outcome:?}: {log}"));
    let expected = json!([{ "itemIdentifier": "held" }, { "itemIdentifier": "" }]);
    assert_eq!(answer["batchItemFailures"], expected, "{log}");
    holder.batch_execute("rollback").await.expect("let go");
    assert_eq!(count(&database).await, "2");
}

#[tokio::test]
async fn graphql_example_stores_nothing_with_errors() {
    let database = partners().await;
    let (_server, address) = serve("graphql", &database).await;
    let address = address.as_str();

    let both = r#"mutation { a: partner(name: \"acme\") b: partner(name: \"\") }"#;
    let answer = post(address, both).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(answer.contains("errors"), "{answer}");
    assert_eq!(count(&database).await, "0");

    let answer = post(address, r#"mutation { partner(name: \"acme\") }"#).await;
    assert!(answer.contains(r#"{"partner":true}"#), "{answer}");
    assert_eq!(count(&database).await, "1");
}

#[tokio::test]
async fn doctor_example_reports_in_a_vpc() {
    let database = partners().await;
    let function = function("doctor_lambda", &database).await;
    let examine = async || {
        let limits = json!({ "idle_in_transaction_seconds": 0, "transaction_seconds": 3600 });
        let outcome = function.invoke(limits).await.expect("it runs");
        let Answer::Response(body) = outcome.answer else {
            panic!("{}", outcome.environment.log());
        };
        let report: serde_json::Value = serde_json::from_slice(&body).expect("JSON");
        let checks = report["checks"].as_array().expect("checks").clone();
        let check = checks
            .into_iter()
            .find(|check| check["step"] == "idle_in_transaction");
        check.expect("it was looked at")
    };
    // Others are on the same server: it is about this one.
    let (stuck, connection) = tokio_postgres::connect(&database.url, tokio_postgres::NoTls)
        .await
        .expect("a session");
    tokio::spawn(connection);
    let name = "set application_name = 'forgotten:1'; begin";
    stuck.batch_execute(name).await.expect("begun");
    let check = examine().await;
    assert_eq!(check["status"], "finding", "{check}");
    assert!(
        check["text"]
            .as_str()
            .is_some_and(|text| text.contains("forgotten:1")),
        "{check}"
    );
    stuck.batch_execute("rollback").await.expect("rolled back");
    let check = examine().await;
    assert!(
        !check["text"]
            .as_str()
            .is_some_and(|text| text.contains("forgotten:1")),
        "{check}"
    );
}

/// Starts an example that listens on a port of its own choice, and says which.
async fn serve(name: &str, database: &Database) -> (Child, String) {
    let mut server = Command::new(example(name))
        .env("DATABASE_URL", &database.url)
        .env("PORT", "0")
        .env_remove("AWS_LAMBDA_RUNTIME_API")
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("it starts");
    let mut lines = BufReader::new(server.stdout.take().expect("its output")).lines();
    let line = timeout(PLENTY, lines.next_line()).await.expect("in time");
    let line = line.expect("readable").expect("a line");
    let address = line.strip_prefix("listening on ").expect("an address");
    (server, address.to_owned())
}

async fn post(address: &str, query: &str) -> String {
    let body = format!(r#"{{"query":"{query}"}}"#);
    ask(address, "POST /", &body).await
}

async fn ask(address: &str, line: &str, body: &str) -> String {
    let request = format!(
        "{line} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    let mut stream = TcpStream::connect(address).await.expect("it listens");
    stream.write_all(request.as_bytes()).await.expect("sent");
    let mut answer = String::new();
    let read = timeout(PLENTY, stream.read_to_string(&mut answer));
    read.await.expect("in time").expect("an answer");
    answer
}

#[tokio::test]
async fn tower_example_needs_no_host() {
    let database = partners().await;
    let run = Command::new(example("tower"))
        .env("DATABASE_URL", &database.url)
        .kill_on_drop(true)
        .output();
    let output = timeout(PLENTY, run)
        .await
        .expect("in time")
        .expect("it runs");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{output:?}");
    assert!(text.contains("the server's clock says"), "{text}");
    assert!(text.contains("PostgreSQL"), "{text}");
}

/// A directory with one migration.
fn migrations(sql: &str) -> tempfile::TempDir {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("V1__add_city.sql");
    std::fs::write(file, sql).expect("a file");
    directory
}

#[tokio::test]
async fn migrate_example_answers_with_the_report() {
    let database = partners().await;
    let column = "select count(*) from information_schema.columns where column_name = 'city'";
    let there = async || database.query(column).await.expect("a count")[0][0].clone();
    for (sql, event, fine, expected) in [
        (
            "alter table partners add column city",
            json!({}),
            false,
            "0",
        ),
        (
            "alter table partners add column city text",
            json!({"dry_run": true}),
            true,
            "0",
        ),
        (
            "alter table partners add column city text",
            json!({}),
            true,
            "1",
        ),
    ] {
        let directory = migrations(sql);
        let function = Function::builder(example("migrate_lambda"))
            .env("DATABASE_URL", &database.url)
            .env("MIGRATIONS", directory.path().display())
            .timeout(PLENTY)
            .start()
            .await
            .expect("a function");
        let outcome = function.invoke(event).await.expect("it runs");
        let log = outcome.environment.log();
        match &outcome.answer {
            Answer::Response(body) if fine => {
                let report: serde_json::Value = serde_json::from_slice(body).expect("JSON");
                let (applied, pending) = (&report["applied"], &report["pending"]);
                let named =
                    applied[0]["migration"] == "V1__add_city" || pending[0] == "V1__add_city";
                assert!(named, "{report}");
            }
            Answer::Error { message, .. } if !fine => {
                let failed = "V1__add_city (line 1) failed (SQLSTATE 42601)";
                assert!(message.contains(failed), "{message}");
                // It may take a moment to arrive.
                for words in [
                    "syntax error at end of input",
                    "\"pending\":[\"V1__add_city\"]",
                ] {
                    let logged = timeout(PLENTY, outcome.environment.logged(words));
                    logged.await.expect(words).expect("it goes on");
                }
            }
            other => panic!("{other:?}: {log}"),
        }
        assert_eq!(there().await.as_deref(), Some(expected));
    }
}
