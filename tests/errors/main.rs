//! What a user is told, for every kind of error: `tests/golden/errors.txt` holds the
//! texts, and was read by a person. `UPDATE_GOLDEN=1` writes it anew.

#[path = "../common/mod.rs"]
mod common;
mod connecting;
mod encryption;
mod mistakes;
mod poolers;
mod statements;

use antifreeze::credentials::{Attempt, Credentials, Login, LoginFuture};
use antifreeze::{
    Config, Connection, Database, Error, ErrorKind, connection, retry_transaction, transaction,
};
use bytes::Bytes;
use common::{PLENTY, black_hole, refusing_server, sleeps};
use lab::certificates::Authority;
use lab::postgres::{Auth, Postgres};
use lab::relay::{Cut, Relay};
use std::collections::HashSet;
use std::fmt::Write as _;
use std::future::pending;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket};
use tokio::time::{sleep, timeout};

/// The texts, in order, and what differs from run to run.
#[derive(Default)]
struct Golden {
    text: String,
    kinds: HashSet<ErrorKind>,
    volatile: Vec<(String, &'static str)>,
}

impl Golden {
    /// `part` of a text stands there as `name`.
    fn volatile(&mut self, part: impl ToString, name: &'static str) {
        self.volatile.push((part.to_string(), name));
    }

    fn add(&mut self, what: &str, error: &Error) {
        let shown = error.to_string();
        assert!(!shown.contains('\n'), "one line: {shown}");
        let debug = format!("{error:?}");
        assert!(!debug.contains("hunter2"), "{what}: {debug}");
        self.kinds.insert(error.kind());
        let response = http::Response::<Bytes>::from(error);
        let document = String::from_utf8_lossy(response.body());
        let mut entry = format!("{what}\n    {shown}\n    {}", response.status().as_u16());
        for (holds, word) in [
            (error.is_unavailable(), ", unavailable"),
            (error.is_retryable(), ", may be retried"),
        ] {
            entry += if holds { word } else { "" };
        }
        let document: serde_json::Value = serde_json::from_str(&document).expect("a document");
        for key in ["kind", "sqlstate", "constraint", "detail"] {
            if let Some(value) = document[key].as_str() {
                write!(entry, ", {key}: {value}").expect("written");
            }
        }
        for (part, name) in &self.volatile {
            entry = entry.replace(part, name);
        }
        self.text += &entry;
        self.text += "\n\n";
    }

    fn compare(&self) {
        let missing = ErrorKind::ALL
            .iter()
            .filter(|kind| !self.kinds.contains(kind));
        let missing: Vec<_> = missing.map(ErrorKind::to_string).collect();
        assert!(missing.is_empty(), "no text for {missing:?}");
        // Part of a word, too.
        assert!(!self.text.contains("hunter2"), "{}", self.text);
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/errors.txt");
        if std::env::var("UPDATE_GOLDEN").is_ok_and(|update| update == "1") {
            std::fs::write(&path, &self.text).expect("written");
            return;
        }
        let golden = std::fs::read_to_string(&path).unwrap_or_default();
        for (is, was) in self.text.split("\n\n").zip(golden.split("\n\n")) {
            assert_eq!(is, was, "UPDATE_GOLDEN=1 writes it anew: read it then");
        }
        assert_eq!(self.text, golden);
    }
}

fn database(url: &str) -> Database {
    database_with(url, |config| config)
}

fn database_with(url: &str, change: impl FnOnce(Config) -> Config) -> Database {
    let mut config = Config::from_url(url).expect("a URL");
    config = change(config);
    Database::new(config).expect("settings")
}

/// The error of `work` in an invocation of its own.
async fn failing<T>(database: &Database, work: impl Future<Output = Result<T, Error>>) -> Error {
    match database.invocation(PLENTY, work).await {
        Ok(_) => panic!("it did not fail"),
        Err(error) => error,
    }
}

/// The error of a caller that asks for a connection and has little time.
async fn refused(database: &Database) -> Error {
    let asks = async { connection().await.map(drop) };
    let asked = database.invocation(Duration::from_secs(2), asks).await;
    asked.expect_err("it is refused")
}

/// What the server says to `sql`, simple or with a parameter.
async fn said(database: &Database, sql: &str) -> Error {
    failing(database, async {
        Ok(connection().await?.batch_execute(sql).await?)
    })
    .await
}

#[tokio::test]
async fn user_messages_match_the_golden_file() {
    let mut golden = Golden::default();
    golden.text += "What a user is told, by `tests/errors.rs`: what happened, the line that is \
                    shown, and what a caller over HTTP learns.\n\n";
    mistakes::misuse(&mut golden).await;
    connecting::reaching(&mut golden).await;
    connecting::start_up(&mut golden).await;
    connecting::providers(&mut golden).await;
    mistakes::configuration(&mut golden);
    encryption::tls(&mut golden).await;
    poolers::recorded(&mut golden).await;
    statements::statements(&mut golden).await;
    statements::transactions(&mut golden).await;
    golden.compare();
}
