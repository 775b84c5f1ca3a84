//! The throwaway cluster: that it starts, obeys, and leaves nothing behind.

mod common;

use std::{
    io::{BufRead, BufReader},
    os::unix::process::ExitStatusExt,
    path::PathBuf,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use common::{connect, eventually};
use lab::postgres::{Auth, Installation, Postgres};

#[tokio::test]
async fn server_starts_quickly_and_trusts_everybody() {
    Installation::find().unwrap();
    let started = Instant::now();
    let postgres = Postgres::start().await.unwrap();
    println!(
        "PostgreSQL {} after {:?}",
        postgres.installation().version(),
        started.elapsed()
    );

    let client = connect(&postgres.url()).await.unwrap();
    let row = client.query_one("show fsync", &[]).await.unwrap();
    assert_eq!(row.get::<_, &str>(0), "off");

    let directory = postgres.directory().to_owned();
    drop(client);
    postgres.stop().await.unwrap();
    assert!(!directory.exists());
}

#[tokio::test]
async fn settings_passwords_and_roles_are_applied() {
    let postgres = Postgres::builder()
        .setting("max_connections", 7)
        .setting("application_name", "it's")
        .auth(Auth::Scram)
        .start()
        .await
        .unwrap();
    postgres.create_role("alice").await.unwrap();
    let database = postgres.create_database("odd name/?").await.unwrap();

    let client = connect(&database.url_for("alice")).await.unwrap();
    let row = client
        .query_one("select current_user::text, current_database()::text", &[])
        .await
        .unwrap();
    assert_eq!(row.get::<_, &str>(0), "alice");
    assert_eq!(row.get::<_, &str>(1), "odd name/?");
    assert_eq!(
        postgres
            .query("show max_connections; show application_name")
            .await
            .unwrap()[0],
        [Some("7".to_owned())]
    );

    let wrong = database
        .url_for("alice")
        .replace(Postgres::PASSWORD, "wrong");
    assert!(connect(&wrong).await.is_err());
}

#[tokio::test]
async fn superuser_gets_in_when_slots_are_taken() {
    let postgres = Postgres::builder()
        .setting("max_connections", 5)
        .start()
        .await
        .unwrap();
    postgres.create_role("alice").await.unwrap();
    let url = postgres.url_for("alice", "postgres");
    let mut clients = Vec::new();
    // Three of five are kept for superusers. The session that created the role may have its slot
    // for a moment more.
    for _ in 0..1000 {
        if clients.len() == 2 {
            break;
        }
        match connect(&url).await {
            Ok(client) => clients.push(client),
            Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
        }
    }
    assert_eq!(clients.len(), 2);
    let refusal = connect(&url).await.err().unwrap();
    assert_eq!(refusal.code().unwrap().code(), "53300");
    let rows = postgres
        .query("select count(*) from pg_stat_activity where usename = 'alice'")
        .await
        .unwrap();
    assert_eq!(rows[0][0].as_deref(), Some("2"));
}

#[tokio::test]
async fn server_restarts_on_its_port() {
    let postgres = Postgres::start().await.unwrap();
    let port = postgres.port();
    let database = postgres.fresh_database().await.unwrap();
    database
        .execute("create table kept (); begin; commit")
        .await
        .unwrap();
    let before = connect(&database.url).await.unwrap();

    postgres.restart().await.unwrap();
    assert_eq!(postgres.port(), port);
    assert!(before.batch_execute("select 1").await.is_err());
    database.query("select * from kept").await.unwrap();

    postgres.halt().await.unwrap();
    assert!(connect(&database.url).await.is_err());
    postgres.restart().await.unwrap();

    postgres.kill_hard().await.unwrap();
    assert!(connect(&database.url).await.is_err());
    postgres.restart().await.unwrap();
    database.query("select * from kept").await.unwrap();
    assert!(postgres.log().contains("not properly shut down"));
}

#[tokio::test]
async fn log_names_a_transaction_left_open() {
    let postgres = Postgres::start().await.unwrap();
    let config: tokio_postgres::Config = format!("{}?application_name=leaver", postgres.url())
        .parse()
        .unwrap();
    let (client, connection) = config.connect(tokio_postgres::NoTls).await.unwrap();
    let connection = tokio::spawn(connection);
    client.batch_execute("begin").await.unwrap();
    // Without the Terminate that dropping the client would send.
    connection.abort();
    let _ = connection.await;
    eventually(|| {
        postgres.log().lines().any(|line| {
            line.contains(
                "] leaver LOG:  unexpected EOF on client connection with an open transaction",
            )
        })
    })
    .await;
}

#[tokio::test]
async fn packaged_version_runs_beside_the_system() {
    let installation = Installation::embedded("17").unwrap();
    assert_eq!(installation.major(), 17);
    let postgres = Postgres::builder()
        .installation(installation)
        .tls(true)
        .start()
        .await
        .unwrap();
    let client = connect(&postgres.url()).await.unwrap();
    let row = client
        .query_one("show transaction_timeout", &[])
        .await
        .unwrap();
    assert_eq!(row.get::<_, &str>(0), "0");
}

#[tokio::test]
async fn failed_start_shows_the_log() {
    let error = Postgres::builder()
        .setting("max_connectionz", 1)
        .start()
        .await
        .unwrap_err();
    assert!(error.to_string().contains("max_connectionz"), "{error}");
}

#[test]
fn one_cluster_serves_many_runtimes() {
    let databases: Vec<String> = (0..3)
        .map(|_| {
            let runtime = tokio::runtime::Runtime::new().unwrap();
            runtime.block_on(async {
                let database = Postgres::shared()
                    .await
                    .unwrap()
                    .fresh_database()
                    .await
                    .unwrap();
                connect(&database.url)
                    .await
                    .unwrap()
                    .batch_execute("select 1")
                    .await
                    .unwrap();
                database.execute("create table mine ()").await.unwrap();
                database.name
            })
        })
        .collect();
    assert!(databases[0] != databases[1] && databases[1] != databases[2]);
}

#[tokio::test]
async fn discarded_database_ends_its_sessions() {
    let postgres = Postgres::shared().await.unwrap();
    let database = postgres.fresh_database().await.unwrap();
    let client = connect(&database.url).await.unwrap();
    client
        .batch_execute("create table t (a int); begin; lock table t")
        .await
        .unwrap();
    let url = database.url.clone();
    database.discard().await.unwrap();
    assert!(client.batch_execute("select 1").await.is_err());
    assert!(connect(&url).await.is_err());
}

/// Not a test of its own: what the next one starts in another process, and kills.
#[test]
#[ignore = "run by the next one"]
fn owner_in_a_child_process() {
    // The ignored tests are run without their parent.
    if std::env::var_os("LAB_TEST_OWNER").is_none() {
        return;
    }
    let postgres = Postgres::builder().start_blocking().unwrap();
    println!("directory={}", postgres.directory().display());
    std::thread::sleep(Duration::from_secs(60));
}

#[tokio::test]
async fn server_of_a_killed_owner_is_removed() {
    let mut owner = Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "owner_in_a_child_process",
            "--ignored",
            "--nocapture",
        ])
        .env("LAB_TEST_OWNER", "1")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let output = BufReader::new(owner.stdout.take().unwrap());
    let directory: PathBuf = output
        .lines()
        .map(Result::unwrap)
        .find_map(|line| Some(line.split_once("directory=")?.1.into()))
        .unwrap();
    let pid: u32 = std::fs::read_to_string(directory.join("data/postmaster.pid"))
        .unwrap()
        .lines()
        .next()
        .unwrap()
        .parse()
        .unwrap();
    assert_eq!(lab::process::is_frozen(pid), Some(false));

    owner.kill().unwrap();
    assert_eq!(owner.wait().unwrap().signal(), Some(9));

    eventually(|| !directory.exists() && lab::process::is_frozen(pid).is_none()).await;
}

#[tokio::test]
async fn server_ends_although_a_backend_is_frozen() {
    let postgres = Postgres::start().await.unwrap();
    let client = connect(&postgres.url()).await.unwrap();
    let pid: i32 = client
        .query_one("select pg_backend_pid()", &[])
        .await
        .unwrap()
        .get(0);
    lab::process::freeze(pid as u32).unwrap();
    let directory = postgres.directory().to_owned();
    drop(postgres);
    assert!(!directory.exists());
    eventually(|| lab::process::is_frozen(pid as u32).is_none()).await;
}
