//! Runs the command `antifreeze` and compares its output.
#![allow(dead_code)]

pub mod doctor;
pub mod tmux;

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use lab::postgres::Postgres;
use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio::process::{Child, Command};
use tokio::time::timeout;
use tokio_postgres::{Client, NoTls};

/// The timeout of anything that a test waits for.
pub const TIMEOUT: Duration = Duration::from_secs(60);

/// The exit code and output of a run.
#[derive(Debug)]
pub struct Ran {
    pub code: i32,
    pub out: String,
    pub err: String,
}

/// Returns the command with the given variables as its whole environment.
pub fn command(variables: &[(&str, &str)], arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_antifreeze"));
    command
        .env_clear()
        .envs(variables.iter().copied())
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    command
}

pub async fn run(variables: &[(&str, &str)], arguments: &[&str]) -> Ran {
    let output = command(variables, arguments).output();
    let output = timeout(TIMEOUT, output).await;
    let output = output.expect("it ends").expect("it starts");
    let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
    let ran = Ran {
        code: output.status.code().expect("an exit code"),
        out: text(output.stdout),
        err: text(output.stderr),
    };
    for text in [&ran.out, &ran.err] {
        let control = |c: char| c.is_control() && c != '\n';
        assert!(!text.contains(control), "control characters: {text:?}");
        assert!(!text.contains("hunter2"), "a secret: {text}");
    }
    ran
}

/// Runs the command with `url` in DATABASE_URL.
pub async fn at(url: &str, arguments: &[&str]) -> Ran {
    run(&[("DATABASE_URL", url)], arguments).await
}

impl Ran {
    #[track_caller]
    pub fn exits(self, code: i32) -> Self {
        assert_eq!(self.code, code, "{}\n{}", self.out, self.err);
        self
    }

    /// Checks that the standard output contains `text`.
    #[track_caller]
    pub fn assert_out(&self, text: &str) {
        assert!(self.out.contains(text), "{}", self.out);
    }

    /// Checks that the standard error contains `text`.
    #[track_caller]
    pub fn assert_err(&self, text: &str) {
        assert!(self.err.contains(text), "{}", self.err);
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.out).expect(&self.out)
    }

    /// Returns the server's version in the output, if the doctor got that far.
    fn server(&self) -> Option<u32> {
        let (_, version) = self.out.split_once("server         PostgreSQL ")?;
        let major = version.split(|c: char| !c.is_ascii_digit()).next()?;
        major.parse().ok()
    }

    /// Compares the output with a file. `UPDATE_GOLDEN=1` writes the file; this requires
    /// PostgreSQL 17, which has every setting.
    #[track_caller]
    pub fn is_golden(&self, name: &str) {
        let is = normal(&self.out);
        let has_all = self.server().is_none_or(|version| version >= 17);
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/doctor");
        let path = path.join(format!("{name}.txt"));
        if std::env::var("UPDATE_GOLDEN").is_ok_and(|update| update == "1") {
            assert!(has_all, "set LAB_POSTGRES_VERSION=17 to write it");
            std::fs::write(&path, is).expect("written");
            return;
        }
        let was = std::fs::read_to_string(&path).unwrap_or_default();
        let was = if has_all {
            was
        } else {
            without_transaction_timeout(&was)
        };
        assert_eq!(
            is, was,
            "{name}: run with UPDATE_GOLDEN=1, then review the difference"
        );
    }
}

/// Removes the setting that servers older than PostgreSQL 17 do not have.
fn without_transaction_timeout(golden: &str) -> String {
    let lines = golden.lines().map(|line| {
        let Some((before, rest)) = line.split_once(", transaction_timeout ") else {
            return format!("{line}\n");
        };
        let behind = rest.find([',', ':']).map_or("", |at| &rest[at..]);
        format!("{before}{behind}\n")
    });
    lines.collect()
}

/// Replaces everything that differs between runs.
fn normal(text: &str) -> String {
    let mut text = text.to_owned();
    for before in [
        "127.0.0.1:",
        "localhost:",
        "ADDRESS:",
        "pid ",
        "pg_terminate_backend(",
        "pg_cancel_backend(",
        "PostgreSQL ",
        "fresh_",
        "transaction is ",
        "wait for a server: ",
    ] {
        text = numbers(&text, |text, at| text[..at].ends_with(before), "N");
    }
    for behind in [" ms", " s", " s)", " min", " MB"] {
        let is_time = |text: &str, at: usize| {
            let rest = text[at..].trim_start_matches(|c: char| c.is_ascii_digit() || c == '.');
            rest.starts_with(behind) && !rest.starts_with(" se") && !rest.starts_with(" st")
        };
        text = numbers(&text, is_time, "T");
    }
    for before in ["valid until ", "until ", "renew it before "] {
        text = numbers(&text, |text, at| text[..at].ends_with(before), "DAY");
    }
    // Some machines also have ::1. Debian appends its package version in parentheses.
    let lines = text.lines().map(|line| match line.split_once(" (Debian") {
        _ if line.contains("localhost resolves to ") => {
            "✓ name           localhost resolves to ADDRESSES (in T ms)".to_owned()
        }
        Some((head, tail)) => {
            let tail = tail
                .split_once(')')
                .map(|(_, tail)| tail)
                .unwrap_or_default();
            format!("{head}{tail}")
        }
        None => line.to_owned(),
    });
    lines.map(|line| line + "\n").collect()
}

/// Replaces the numbers and dates that `wanted` selects by `name`.
fn numbers(text: &str, wanted: impl Fn(&str, usize) -> bool, name: &str) -> String {
    let mut replaced = String::new();
    let mut at = 0;
    while at < text.len() {
        let digit = |c: char| c.is_ascii_digit() || c == '.' || (name == "DAY" && c == '-');
        let run = text[at..].find(|c| !digit(c)).unwrap_or(text.len() - at);
        let begins = text[at..].starts_with(|c: char| c.is_ascii_digit());
        if begins && wanted(text, at) {
            replaced += name;
            // A trailing period belongs to the sentence.
            let end = text[at..at + run].trim_end_matches('.').len();
            at += end;
        } else {
            let step = if begins {
                run
            } else {
                text[at..].chars().next().map_or(1, char::len_utf8)
            };
            replaced += &text[at..at + step];
            at += step;
        }
    }
    replaced
}

/// Waits for a line that contains `text`; then reads on in the background, since a full pipe
/// would block the command.
pub async fn wait_for_line(output: impl AsyncRead + Unpin + Send + 'static, text: &str) {
    let mut lines = BufReader::new(output).lines();
    let look = async {
        while let Some(line) = lines.next_line().await.expect("readable") {
            if line.contains(text) {
                return true;
            }
        }
        false
    };
    let seen = timeout(TIMEOUT, look).await;
    assert_eq!(seen, Ok(true), "no line contains {text}");
    tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
}

/// Waits until the command ends.
pub async fn exit_code(child: &mut Child) -> i32 {
    let status = timeout(TIMEOUT, child.wait()).await;
    let status = status.expect("it ends").expect("a status");
    status.code().expect("an exit code")
}

/// Creates a database on the server that all tests share.
pub async fn fresh_database() -> lab::postgres::Database {
    let server = Postgres::shared().await.expect("a server");
    server.fresh_database().await.expect("a database")
}

/// A temporary directory.
pub struct Directory(tempfile::TempDir);

impl Directory {
    pub fn new() -> Self {
        Directory(tempfile::tempdir().expect("a directory"))
    }

    /// Creates a directory with one file.
    pub fn with(name: &str, text: &str) -> Self {
        let directory = Directory::new();
        directory.write(name, text);
        directory
    }

    /// Writes a file, and creates the directories of its name.
    pub fn write(&self, name: &str, text: &str) {
        let path = self.0.path().join(name);
        std::fs::create_dir_all(path.parent().expect("a parent")).expect("created");
        std::fs::write(path, text).expect("written");
    }

    pub fn path(&self) -> &str {
        self.0.path().to_str().expect("a path")
    }

    /// Returns the path of a file.
    pub fn file(&self, name: &str) -> String {
        format!("{}/{name}", self.path())
    }
}

/// Opens a session with this application_name. Waits for a slot: a session that was closed before
/// may have its own for some milliseconds more.
pub async fn client(url: &str, application: &str) -> Client {
    let mut config: tokio_postgres::Config = url.parse().expect("a URL");
    config.application_name(application);
    let end = std::time::Instant::now() + TIMEOUT;
    loop {
        match config.connect(NoTls).await {
            Ok((client, connection)) => {
                tokio::spawn(connection);
                return client;
            }
            Err(error) => assert!(std::time::Instant::now() < end, "{error}"),
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Waits until `sql` returns true.
pub async fn until(client: &Client, sql: &str) {
    let end = std::time::Instant::now() + TIMEOUT;
    loop {
        let row = client.query_one(sql, &[]).await.expect("a row");
        if row.get(0) {
            return;
        }
        assert!(std::time::Instant::now() < end, "never: {sql}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Returns the process ID of a session.
pub async fn pid(client: &Client) -> i32 {
    let row = client.query_one("select pg_backend_pid()", &[]).await;
    row.expect("a row").get(0)
}

/// Cancels the statement of another session. A CancelRequest is no substitute: PostgreSQL before
/// 18 sends two signals for one, of which the second may reach the next statement.
pub async fn cancel(look: &Client, pid: i32) {
    let cancel = "select pg_cancel_backend($1)";
    let row = look.query_one(cancel, &[&pid]).await.expect("a row");
    assert!(row.get::<_, bool>(0), "{pid}");
}

/// Opens a session, and waits until it has been in its transaction for 100 ms.
pub async fn stuck(url: &str, application: &str, sql: &str) -> Client {
    let stuck = client(url, application).await;
    let pid = pid(&stuck).await;
    stuck.batch_execute(sql).await.expect("begun");
    let look = client(url, "look").await;
    // An earlier session of this name is gone too.
    let old = format!(
        "select bool_and(pid = {pid} and state_change < clock_timestamp() - interval '100 ms') \
         from pg_stat_activity where application_name = '{application}'"
    );
    until(&look, &old).await;
    stuck
}
