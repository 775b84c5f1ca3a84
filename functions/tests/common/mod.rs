//! A database with the functions' tables, and AWS's events.
#![allow(dead_code)]

use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

use lab::lambda::{Function, Outcome};
use lab::postgres::{Database, Postgres};
use serde_json::Value;

/// For a loaded machine: who is frozen in between has to connect first.
pub const TIMEOUT: Duration = Duration::from_secs(20);

pub async fn empty() -> Database {
    let server = Postgres::shared().await.expect("a server");
    server.fresh_database().await.expect("a database")
}

pub async fn fill(database: &Database) {
    let schema = include_str!("../../schema.sql");
    database.execute(schema).await.expect("the tables");
}

pub async fn schema() -> Database {
    let database = empty().await;
    fill(&database).await;
    database
}

pub async fn function(executable: &str, database: &Database) -> Function {
    let builder = Function::builder(executable)
        .env("DATABASE_URL", &database.url)
        // A REST API's stage is in the path otherwise.
        .env("AWS_LAMBDA_HTTP_IGNORE_STAGE_IN_PATH", 1)
        .timeout(TIMEOUT);
    builder.start().await.expect("a function")
}

/// Invokes it, and waits until it is frozen.
pub async fn outcome_of(function: &Function, event: Value) -> Outcome {
    let outcome = function.invoke(event).await.expect("it runs");
    outcome.environment.frozen().await.expect("frozen");
    outcome
}

/// How many sessions of the function do something or hold a transaction. It comes over
/// TCP; we ask over the socket.
pub async fn unrest(database: &Database) -> usize {
    let query = "select pid from pg_stat_activity \
        where datname = current_database() and client_addr is not null and state <> 'idle'";
    database.query(query).await.expect("the sessions").len()
}

/// An event as AWS documents it, from the source of aws_lambda_events.
pub fn fixture(name: &str) -> Value {
    let path = fixtures().join(format!("example-{name}.json"));
    let text = std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_slice(&text).expect("JSON")
}

fn fixtures() -> &'static PathBuf {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| {
        let output = Command::new(env!("CARGO"))
            .args(["metadata", "--format-version=1", "--locked"])
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .output()
            .expect("cargo");
        assert!(output.status.success(), "cargo metadata: {output:?}");
        let metadata: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        let packages = metadata["packages"].as_array().expect("packages");
        let package = packages
            .iter()
            .find(|one| one["name"] == "aws_lambda_events");
        let manifest = package.expect("the crate")["manifest_path"].as_str();
        let manifest = PathBuf::from(manifest.expect("a path"));
        manifest.parent().expect("a folder").join("src/fixtures")
    })
}
