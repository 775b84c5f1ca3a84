//! Tests runners that are killed at each step.

use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};
use tokio::time::timeout;

use crate::common::{LOCK_TIMEOUT, Lab, TIMEOUT, lab, migrations, over};

const PLAIN: (&str, &str) = ("V1__plain", "create table plain (a int)");
const ALONE: (&str, &str) = ("V1__alone", "create index concurrently i on partners (id)");
const SLOW: (&str, &str) = (
    "V1__slow",
    "create table slow (a int); select pg_sleep(3600)",
);

/// Prints each event in a line, and waits forever at the given one.
#[tokio::test]
#[ignore = "run by the others"]
async fn runner() {
    // The ignored tests are run without their parent.
    let Ok(url) = std::env::var("MIGRATE_TEST_URL") else {
        return;
    };
    let variable = |name| std::env::var(name).expect(name);
    let (name, sql) = (variable("MIGRATE_TEST_NAME"), variable("MIGRATE_TEST_SQL"));
    let hold = variable("MIGRATE_TEST_HOLD");
    let database = over(&url);
    let runner = migrations(&[(&name, &sql)]).runner(&database);
    let runner = runner
        .lock_timeout(LOCK_TIMEOUT)
        .statement_timeout(Duration::ZERO);
    let report = runner.on_event(move |event| {
        println!("\nevent={event}");
        if !hold.is_empty() && event.to_string().contains(&hold) {
            println!("\nevent=held");
            std::thread::sleep(TIMEOUT);
        }
    });
    println!("\nevent=ended {:?}", report.run().await);
}

struct Killed {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Killed {
    fn spawn(lab: &Lab, (name, sql): (&str, &str), hold: &str) -> Killed {
        let mut child = Command::new(std::env::current_exe().expect("a path"))
            .args(["--exact", "killed::runner", "--ignored", "--nocapture"])
            .env("MIGRATE_TEST_URL", &lab.server.url)
            .env("MIGRATE_TEST_NAME", name)
            .env("MIGRATE_TEST_SQL", sql)
            .env("MIGRATE_TEST_HOLD", hold)
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("a process");
        let lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        Killed { child, lines }
    }

    /// Waits until the runner prints `what`, then kills it.
    async fn at(mut self, what: &str) {
        let mut said = Vec::new();
        let wait = async {
            while let Some(line) = self.lines.next_line().await.expect("text") {
                if let Some(event) = line.strip_prefix("event=") {
                    said.push(event.to_owned());
                    if event.contains(what) {
                        return;
                    }
                }
            }
            panic!("never printed {what:?}: {said:?}");
        };
        timeout(TIMEOUT, wait).await.expect("in time");
        self.child.kill().await.expect("killed");
    }
}

/// Checks that a second run completes.
async fn runs_again(lab: &Lab, file: (&str, &str), expected: &str) {
    let report = lab.runner(&[file]).run().await.expect("again");
    let applied: Vec<_> = report
        .applied
        .iter()
        .map(|one| one.migration.as_str())
        .collect();
    assert_eq!(applied, [file.0]);
    assert_eq!(lab.applied().await, expected);
    lab.assert_gone().await;
}

#[tokio::test]
async fn killed_before_the_lock() {
    let lab = lab().await;
    let (holder, _) = lab.session("holder").await;
    let key = i64::from_be_bytes(*b"antifree");
    let lock = format!("select pg_advisory_lock({key})");
    holder.batch_execute(&lock).await.expect("the lock");
    Killed::spawn(&lab, PLAIN, "")
        .at("waiting for another runner, pid")
        .await;
    drop(holder);
    runs_again(&lab, PLAIN, "1 plain").await;
}

#[tokio::test]
async fn killed_with_the_lock() {
    let lab = lab().await;
    Killed::spawn(&lab, PLAIN, "lock acquired").at("held").await;
    runs_again(&lab, PLAIN, "1 plain").await;
}

#[tokio::test]
async fn killed_in_a_migration() {
    let lab = lab().await;
    let killed = Killed::spawn(&lab, SLOW, "");
    let sleeping = "select count(*) from pg_stat_activity where wait_event = 'PgSleep' \
                    and datname = current_database()";
    lab.eventually(sleeping, "1").await;
    killed.at("begins").await;
    // The server notices that the client is gone, long before the hour is over.
    let quick = ("V1__slow", "create table slow (a int)");
    runs_again(&lab, quick, "1 slow").await;
}

#[tokio::test]
async fn killed_while_blocked() {
    let lab = lab().await;
    let forgetful = lab.idle_in_transaction().await;
    let file = ("V1__x", "alter table partners add column x int");
    Killed::spawn(&lab, file, "").at("blocked by").await;
    drop(forgetful);
    runs_again(&lab, file, "1 x").await;
}

/// Blocks the history until the returned session is dropped.
async fn history_is_locked(lab: &Lab) -> tokio_postgres::Client {
    let (session, _) = lab.session("holder").await;
    let table = "create table refinery_schema_history (version int4 primary key, \
                 name varchar(255), applied_on varchar(255), checksum varchar(255))";
    lab.server.execute(table).await.expect("a table");
    let lock = "begin; lock table refinery_schema_history in share mode";
    session.batch_execute(lock).await.expect("a lock");
    session
}

#[tokio::test]
async fn killed_before_recording_a_migration() {
    let lab = lab().await;
    let locked = history_is_locked(&lab).await;
    Killed::spawn(&lab, PLAIN, "")
        .at("waits for a lock on refinery_schema_history")
        .await;
    lab.assert_gone().await;
    let is_there = lab.value("select to_regclass('plain') is not null").await;
    assert_eq!(is_there, "f", "both or none");
    drop(locked);
    runs_again(&lab, PLAIN, "1 plain").await;
}

#[tokio::test]
async fn killed_before_recording_an_index() {
    let lab = lab().await;
    let locked = history_is_locked(&lab).await;
    let waits = "select count(*) from pg_locks where not granted and relation = \
                 'refinery_schema_history'::regclass";
    let killed = Killed::spawn(&lab, ALONE, "");
    lab.eventually(waits, "1").await;
    assert_eq!(
        lab.value("select indisvalid from pg_index where indexrelid = 'i'::regclass")
            .await,
        "t"
    );
    killed.at("begins").await;
    lab.assert_gone().await;
    drop(locked);
    // The index is recognized, and not created twice.
    let before = lab.value("select 'i'::regclass::oid").await;
    runs_again(&lab, ALONE, "1 alone").await;
    assert_eq!(lab.value("select 'i'::regclass::oid").await, before);
}

#[tokio::test]
async fn killed_while_building_an_index() {
    let lab = lab().await;
    let forgetful = lab.idle_after_writing().await;
    Killed::spawn(&lab, ALONE, "").at("blocked by").await;
    lab.assert_gone().await;
    assert_eq!(
        lab.value("select count(*) from pg_index where not indisvalid")
            .await,
        "1"
    );
    drop(forgetful);
    runs_again(&lab, ALONE, "1 alone").await;
    assert_eq!(
        lab.value("select count(*) from pg_index where not indisvalid")
            .await,
        "0"
    );
}

#[tokio::test]
async fn killed_before_releasing_the_lock() {
    let lab = lab().await;
    Killed::spawn(&lab, PLAIN, " applied in ").at("held").await;
    let report = lab.runner(&[PLAIN]).run().await.expect("again");
    assert!(report.applied.is_empty(), "{report:?}");
    assert_eq!(lab.applied().await, "1 plain");
}
