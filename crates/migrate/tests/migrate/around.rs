//! Another tool under our lock: psql, as the simplest of them. `alembic` has its own.

use std::process::Command;
use std::time::Duration;

use antifreeze_migrate::{Around, Event, Kind};

use crate::common::{LOCK_TIMEOUT, Lab, PLENTY, lab};

/// psql with `sql`, started by a shell.
fn psql(lab: &Lab, sql: &str) -> Command {
    let mut command = Command::new("sh");
    command
        .args([
            "-c",
            "psql -X -q -v ON_ERROR_STOP=1 -d \"$URL\" -c \"$SQL\" && true",
        ])
        .env("URL", &lab.server.url)
        .env("SQL", sql);
    command
}

fn around(lab: &Lab, sql: &str) -> Around {
    let short = Duration::from_millis(100);
    Around::new(&lab.database, psql(lab, sql))
        .lock_timeout(LOCK_TIMEOUT)
        .backoff(short, short)
}

const KEEP: &str = "create table kept as select current_setting('lock_timeout') as lock, \
    current_setting('statement_timeout') as statement, current_setting('application_name') as name, \
    (select count(*) from pg_locks where locktype = 'advisory' and database = \
        (select oid from pg_database where datname = current_database())) as locks";

#[tokio::test]
async fn tool_runs_with_our_lock_and_timeouts() {
    let lab = lab().await;
    let report = around(&lab, KEEP).run().await.expect("fine");
    assert_eq!(report.retries, 0);
    let kept = "select concat_ws(' ', lock, statement, name, locks) from kept";
    assert_eq!(lab.value(kept).await, "600ms 30s migrate:sh 1");
    lab.assert_gone().await;
}

#[tokio::test]
async fn blocked_tool_gives_way_and_is_retried() {
    let lab = lab().await;
    let around = around(&lab, "alter table partners add column c int").attempts(100);
    lab.gives_way(around, "sh").await;
    let columns = "select count(*) from information_schema.columns where column_name = 'c'";
    assert_eq!(lab.value(columns).await, "1");
}

#[tokio::test]
async fn lock_is_kept_while_the_tool_works() {
    let lab = lab().await;
    let name = lab.value("select quote_ident(current_database())").await;
    let impatient = format!("alter database {name} set idle_session_timeout = '200ms'");
    lab.server.execute(&impatient).await.expect("a setting");
    let mut slow = Command::new("sleep");
    slow.arg("1");
    let report = Around::new(&lab.database, slow)
        .run()
        .await
        .expect("it slept");
    assert!(!report.lock_lost, "{report:?}");
}

#[tokio::test]
async fn other_failure_is_not_retried() {
    let lab = lab().await;
    let error = around(&lab, "select nothing_like_it")
        .run()
        .await
        .expect_err("it fails");
    assert_eq!(error.kind(), Kind::Tool, "{error}");
    assert!(
        error.to_string().starts_with("sh failed (exit status: 1)"),
        "{error}"
    );
    assert_eq!(error.report().retries, 0);
    let missing = Around::new(&lab.database, Command::new("no-such-tool"));
    let error = missing.run().await.expect_err("not there");
    assert!(
        error.to_string().contains("no-such-tool cannot be started"),
        "{error}"
    );
    lab.assert_gone().await;
}

/// psql goes on behind an error, and exits with 0: deployed would be the half of it.
async fn goes_on(lab: &Lab, options: &str) -> antifreeze_migrate::Error {
    let _forgetful = lab.idle_in_transaction().await;
    let file = tempfile::NamedTempFile::new().expect("a file");
    let sql = "alter table partners add column c int;\nselect pg_sleep(3600);\n\
               create table behind (a int);\n";
    std::fs::write(file.path(), sql).expect("written");
    let script = format!("psql -X -q -d \"$URL\" -f \"$FILE\" {options}");
    let mut command = Command::new("sh");
    command
        .args(["-c", &script])
        .env("URL", &lab.server.url)
        .env("FILE", file.path());
    let around = Around::new(&lab.database, command)
        .lock_timeout(LOCK_TIMEOUT)
        .statement_timeout(LOCK_TIMEOUT * 2)
        .backoff(LOCK_TIMEOUT, LOCK_TIMEOUT)
        .attempts(2);
    around.run().await.expect_err("a statement was ended")
}

const BEHIND: &str = "select count(*) from information_schema.tables where table_name = 'behind'";

#[tokio::test]
async fn statement_ended_by_our_limit_is_a_failure() {
    let lab = lab().await;
    let error = goes_on(&lab, "").await;
    assert_eq!(error.kind(), Kind::Blocked, "{error}");
    let message = error.to_string();
    assert!(
        message.contains("lock_timeout") && message.contains("ON_ERROR_STOP"),
        "{message}"
    );
    assert_eq!(error.report().retries, 0, "it may have done the rest");
    assert_eq!(lab.value(BEHIND).await, "1", "it went on");
    lab.assert_gone().await;
}

#[tokio::test]
async fn tool_stopped_by_the_limit_is_run_again() {
    for output in ["", "> /dev/null 2>&1"] {
        let lab = lab().await;
        let error = goes_on(&lab, &format!("-v ON_ERROR_STOP=1 {output}")).await;
        assert_eq!(error.kind(), Kind::Blocked, "{error}");
        assert_eq!(error.report().retries, 1, "{output}: {error}");
        assert_eq!(lab.value(BEHIND).await, "0", "it stopped");
    }
}

/// The server speaks another language, or what the tool writes goes elsewhere.
#[tokio::test]
async fn silent_lock_timeout_is_found() {
    let lab = lab().await;
    let error = goes_on(&lab, "> /dev/null 2>&1").await;
    assert_eq!(error.kind(), Kind::Blocked, "{error}");
    assert_eq!(lab.value(BEHIND).await, "1", "it went on");
    let sql = "select pg_sleep(3600)";
    let script = "psql -X -q -d \"$URL\" -c \"$SQL\" > /dev/null 2>&1; true";
    let mut command = Command::new("sh");
    command
        .args(["-c", script])
        .env("URL", &lab.server.url)
        .env("SQL", sql);
    let around = Around::new(&lab.database, command).statement_timeout(LOCK_TIMEOUT);
    let error = around.run().await.expect_err("it was ended");
    assert_eq!(error.kind(), Kind::Timeout, "{error}");
}

#[tokio::test]
async fn acquired_lock_is_no_failure() {
    let lab = lab().await;
    let forgetful = lab.idle_in_transaction().await;
    let (sender, mut coming) = tokio::sync::mpsc::unbounded_channel();
    let around = around(&lab, "alter table partners add column c int").lock_timeout(PLENTY);
    let running = around.on_event(move |event| {
        let _ = sender.send(event.clone());
    });
    let running = tokio::spawn(running.run());
    let blocked = |event: &Event| matches!(event, Event::Blocked(_));
    while !blocked(&coming.recv().await.expect("it runs")) {}
    let rolled_back = forgetful.batch_execute("rollback").await;
    rolled_back.expect("remembered");
    let _ = running.await.expect("no panic").expect("it waited");
}

#[tokio::test]
async fn slow_tool_is_a_failure() {
    let lab = lab().await;
    for (sql, end, words) in [
        (
            "select pg_sleep(3600)",
            "; true",
            "went on after statement_timeout",
        ),
        (
            "select pg_sleep(3600)",
            "",
            "took longer than statement_timeout",
        ),
    ] {
        let script = format!("psql -X -q -v ON_ERROR_STOP=1 -d \"$URL\" -c \"$SQL\" {end}");
        let mut command = Command::new("sh");
        command
            .args(["-c", &script])
            .env("URL", &lab.server.url)
            .env("SQL", sql);
        let around = Around::new(&lab.database, command).statement_timeout(LOCK_TIMEOUT);
        let error = around.run().await.expect_err("it was ended");
        assert_eq!(error.kind(), Kind::Timeout, "{error}");
        assert!(error.to_string().contains(words), "{error}");
    }
}

/// It keeps neither the lock nor us, whether it has our output or not. One that has left our
/// group, as a daemon does, may go on.
#[tokio::test]
async fn leftover_processes_end_with_the_tool() {
    let lab = lab().await;
    let folder = tempfile::tempdir().expect("a folder");
    for (left, status) in [
        ("sleep 3600", 0),
        ("sleep 3600 > /dev/null 2>&1", 0),
        ("sleep 3600", 3),
        ("setsid sleep 3600", 0),
    ] {
        let ready = folder.path().join("ready");
        let script = format!("{left} & echo $! > \"$READY\"; sleep 0.2; echo told; exit {status}");
        let mut command = Command::new("sh");
        command.args(["-c", &script]).env("READY", &ready);
        let running = Around::new(&lab.database, command).run();
        let ended = tokio::time::timeout(PLENTY, running).await;
        assert_eq!(ended.expect("it ends").is_ok(), status == 0, "{script}");
        let pid = std::fs::read_to_string(&ready).expect("its process");
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.trim()));
        let lives = stat.is_ok_and(|stat| !stat.contains(") Z "));
        assert_eq!(lives, left.starts_with("setsid"), "{script}");
        if lives {
            let killed = Command::new("kill").arg(pid.trim()).status();
            assert!(killed.expect("kill").success());
        }
    }
    lab.assert_gone().await;
}

#[tokio::test]
async fn blocker_of_a_tool_is_ended_with_consent() {
    let lab = lab().await;
    let _forgetful = lab.idle_in_transaction().await;
    let around = around(&lab, "alter table partners add column c int");
    let report = around
        .terminate_idle_in_transaction(Duration::ZERO)
        .run()
        .await
        .expect("cleared");
    assert_eq!(report.terminated.len(), 1, "{report:?}");
}

#[tokio::test]
async fn tool_that_ignores_our_limits_is_reported() {
    let lab = lab().await;
    let forgetful = lab.idle_in_transaction().await;
    // Its own setting comes later than what it was given.
    let sql = "set lock_timeout = 0; alter table partners add column c int";
    let (sender, mut coming) = tokio::sync::mpsc::unbounded_channel();
    let running = tokio::spawn(
        around(&lab, sql)
            .on_event(move |event| {
                let _ = sender.send(event.clone());
            })
            .run(),
    );
    while !matches!(
        coming.recv().await.expect("it runs"),
        Event::ToolHeedless { .. }
    ) {}
    forgetful
        .batch_execute("rollback")
        .await
        .expect("remembered");
    let _ = running.await.expect("no panic").expect("it went on");
}

/// A tool that a shell is, told to stop once `ready` is there: what came of it.
async fn stopped(lab: &Lab, script: &str, ready: &std::path::Path) -> antifreeze_migrate::Error {
    let mut command = Command::new("sh");
    command
        .args(["-c", script])
        .env("URL", &lab.server.url)
        .env("READY", ready);
    let (stop, told) = tokio::sync::oneshot::channel::<()>();
    let around = Around::new(&lab.database, command).stop_when(async {
        let _ = told.await;
    });
    let running = tokio::spawn(around.run());
    let began = std::time::Instant::now();
    while std::fs::read_to_string(ready).map_or(true, |text| !text.ends_with('\n')) {
        assert!(began.elapsed() < PLENTY, "it never began");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    stop.send(()).expect("it listens");
    running.await.expect("no panic").expect_err("stopped")
}

#[tokio::test]
async fn lock_is_kept_until_the_tool_has_ended() {
    let lab = lab().await;
    let folder = tempfile::tempdir().expect("a folder");
    let script = "trap 'sleep 0.5; psql -X -q -d \"$URL\" -c \"$SQL\"; exit' TERM; \
                  echo > \"$READY\"; sleep 3600 & wait";
    let script = format!("SQL=\"{KEEP}\"; {script}");
    let error = stopped(&lab, &script, &folder.path().join("ready")).await;
    assert_eq!(error.kind(), Kind::Interrupted, "{error}");
    assert_eq!(lab.value("select locks from kept").await, "1");
    lab.assert_gone().await;
}

#[tokio::test]
async fn stubborn_tool_is_killed_before_unlock() {
    let lab = lab().await;
    let folder = tempfile::tempdir().expect("a folder");
    let ready = folder.path().join("ready");
    // What is ignored here is ignored by the children, too.
    let script = "trap '' TERM; sleep 3600 & echo $! > \"$READY\"; wait";
    let error = stopped(&lab, script, &ready).await;
    assert_eq!(error.kind(), Kind::Interrupted, "{error}");
    let pid = std::fs::read_to_string(&ready).expect("its process");
    // One that ended may wait for whoever takes its status; its state is the letter behind
    // its name.
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.trim()));
    let lives = stat.is_ok_and(|stat| !stat.contains(") Z "));
    assert!(!lives, "it runs on");
    lab.assert_gone().await;
}

#[tokio::test]
async fn dropped_run_ends_the_tool_and_its_children() {
    let lab = lab().await;
    let running = tokio::spawn(
        around(&lab, "select pg_sleep(3600)")
            .statement_timeout(Duration::ZERO)
            .run(),
    );
    let sleeping = "select count(*) from pg_stat_activity where wait_event = 'PgSleep' \
                    and datname = current_database()";
    lab.eventually(sleeping, "1").await;
    running.abort();
    lab.eventually(sleeping, "0").await;
    lab.assert_gone().await;
}
