//! The clients of other languages at the private socket, as processes of the same user: each
//! queries with parameters, prepares, copies, fails, and leaves a transaction open. What it sends
//! after the end of the invocation fails.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use antifreeze::Database;
use lab::postgres::Postgres;
use lab::sessions::Session;
use lab::{sessions, tools};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::Command;

type BoxError = Box<dyn std::error::Error + Send + Sync>;

const DEADLINE: Duration = Duration::from_secs(60);

/// On a busy machine the server may not confirm the end of a session in time, but not each time.
async fn check(program: PathBuf, arguments: &[&str]) {
    let mut tries = Vec::new();
    while let Err(left) = check_once(&program, arguments).await {
        tries.push(left);
        assert!(tries.len() < 3, "{tries:?}");
    }
}

/// Runs a client in an invocation, which ends while the client is inside a transaction. Fails with
/// what is not at rest.
async fn check_once(program: &Path, arguments: &[&str]) -> Result<(), Vec<Session>> {
    let postgres = Postgres::shared().await.expect("a server");
    let server = postgres.fresh_database().await.expect("a database");
    server.execute(drivers::TABLES).await.expect("tables");
    let url = format!("{}?sslmode=disable", server.url);
    let database = Database::from_url(&url).expect("a database");
    let work = async {
        let mut client = Command::new(program)
            .args(arguments)
            .env("URL", database.url()?)
            .env("NODE_PATH", tools::node_modules())
            .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let output = client.stdout.take().ok_or("its output is read")?;
        let mut lines = BufReader::new(output).lines();
        let mut read = Vec::new();
        while let Some(line) = lines.next_line().await? {
            if line == "done" {
                return Ok(client);
            }
            read.push(line);
        }
        Err(format!("it failed: {read:?}").into())
    };
    let client = database.invocation::<_, BoxError>(DEADLINE, work).await;
    let mut client = client.expect("it works");

    let left = sessions::sessions(&server).await.expect("an answer");
    if left.iter().any(|session| session.state != "idle") {
        return Err(left);
    }
    assert_eq!(sessions::rows(&server).await.expect("a count"), "2");
    let mut input = client.stdin.take().expect("it is piped");
    input.write_all(b"\n").await.expect("it waits");
    drop(input);
    let status = client.wait().await.expect("it ends");
    assert!(
        status.success(),
        "what it sent after the invocation: {status}"
    );
    Ok(())
}

#[tokio::test]
async fn psql_works_and_is_brought_to_rest() {
    // A shell, for the URL of the environment.
    let script = "exec psql \"$URL\" -X -q -f psql.sql";
    check("sh".into(), &["-c", script]).await;
}

#[tokio::test]
async fn psycopg_works_and_is_brought_to_rest() {
    check(tools::tool("python"), &["with_psycopg.py"]).await;
}

#[tokio::test]
async fn asyncpg_works_and_is_brought_to_rest() {
    check(tools::tool("python"), &["with_asyncpg.py"]).await;
}

#[tokio::test]
async fn node_pg_works_and_is_brought_to_rest() {
    check(tools::tool("node"), &["with_pg.js"]).await;
}
