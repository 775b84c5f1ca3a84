//! Tests `ToolRunner` with psql; alembic has tests of its own.

use std::process::Command;
use std::time::Duration;

use antifreeze_migrate::{ErrorKind, Event, ToolRunner};

use crate::common::{LOCK_TIMEOUT, Lab, SEEN, TIMEOUT, lab};

/// Returns a shell command that runs `sql` in psql.
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

fn runner(lab: &Lab, sql: &str) -> ToolRunner {
    let short = Duration::from_millis(100);
    ToolRunner::new(&lab.database, psql(lab, sql))
        .lock_timeout(LOCK_TIMEOUT)
        .backoff(short, short)
}

const KEEP: &str = "create table kept as select current_setting('lock_timeout') as lock, \
    current_setting('statement_timeout') as statement, current_setting('application_name') as name, \
    (select count(*) from pg_locks where locktype = 'advisory' and database = \
        (select oid from pg_database where datname = current_database())) as locks";

#[tokio::test]
async fn tools_get_lock_and_timeouts() {
    let lab = lab().await;
    let report = runner(&lab, KEEP).run().await.expect("fine");
    assert_eq!(report.retries, 0);
    let kept = "select concat_ws(' ', lock, statement, name, locks) from kept";
    assert_eq!(lab.value(kept).await, "600ms 30s migrate:sh 1");
    lab.assert_gone().await;
}

#[tokio::test]
async fn blocked_tools_are_reported_and_run_again() {
    let lab = lab().await;
    let runner = runner(&lab, "alter table partners add column c int").attempts(100);
    lab.is_retried(runner, "sh").await;
    let columns = "select count(*) from information_schema.columns where column_name = 'c'";
    assert_eq!(lab.value(columns).await, "1");
}

#[tokio::test]
async fn lock_is_held_while_the_tool_runs() {
    let lab = lab().await;
    let name = lab.value("select quote_ident(current_database())").await;
    let impatient = format!("alter database {name} set idle_session_timeout = '1s'");
    lab.server.execute(&impatient).await.expect("a setting");
    let mut slow = Command::new("sleep");
    slow.arg("2");
    let report = ToolRunner::new(&lab.database, slow)
        .run()
        .await
        .expect("it slept");
    assert!(!report.lock_lost, "{report:?}");
}

#[tokio::test]
async fn other_failures_are_not_retried() {
    let lab = lab().await;
    let error = runner(&lab, "select nothing_like_it")
        .run()
        .await
        .expect_err("it fails");
    assert_eq!(error.kind(), ErrorKind::Tool, "{error}");
    assert!(
        error.to_string().starts_with("sh failed (exit status: 1)"),
        "{error}"
    );
    assert_eq!(error.report().retries, 0);
    let missing = ToolRunner::new(&lab.database, Command::new("no-such-tool"));
    let error = missing.run().await.expect_err("not there");
    assert!(
        error.to_string().contains("cannot start no-such-tool"),
        "{error}"
    );
    lab.assert_gone().await;
}

/// Runs psql, which continues after an error and exits with 0.
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
    let runner = ToolRunner::new(&lab.database, command)
        .lock_timeout(SEEN)
        .statement_timeout(SEEN * 2)
        .backoff(LOCK_TIMEOUT, LOCK_TIMEOUT)
        .attempts(2);
    runner.run().await.expect_err("a statement was ended")
}

const BEHIND: &str = "select count(*) from information_schema.tables where table_name = 'behind'";

#[tokio::test]
async fn timeouts_despite_success_are_failures() {
    let lab = lab().await;
    let error = goes_on(&lab, "").await;
    assert_eq!(error.kind(), ErrorKind::Blocked, "{error}");
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
async fn tools_that_stop_at_a_timeout_are_retried() {
    for output in ["", "> /dev/null 2>&1"] {
        let lab = lab().await;
        let error = goes_on(&lab, &format!("-v ON_ERROR_STOP=1 {output}")).await;
        assert_eq!(error.kind(), ErrorKind::Blocked, "{error}");
        assert_eq!(error.report().retries, 1, "{output}: {error}");
        assert_eq!(lab.value(BEHIND).await, "0", "it stopped");
    }
}

/// The tool prints no English message, or its output goes elsewhere.
#[tokio::test]
async fn timeouts_without_output_are_detected() {
    let lab = lab().await;
    let error = goes_on(&lab, "> /dev/null 2>&1").await;
    assert_eq!(error.kind(), ErrorKind::Blocked, "{error}");
    assert_eq!(lab.value(BEHIND).await, "1", "it went on");
    let sql = "select pg_sleep(3600)";
    let script = "psql -X -q -d \"$URL\" -c \"$SQL\" > /dev/null 2>&1; true";
    let mut command = Command::new("sh");
    command
        .args(["-c", script])
        .env("URL", &lab.server.url)
        .env("SQL", sql);
    let runner = ToolRunner::new(&lab.database, command).statement_timeout(SEEN);
    let error = runner.run().await.expect_err("it was ended");
    assert_eq!(error.kind(), ErrorKind::Timeout, "{error}");
}

#[tokio::test]
async fn statements_that_get_their_lock_succeed() {
    let lab = lab().await;
    let forgetful = lab.idle_in_transaction().await;
    let (sender, mut coming) = tokio::sync::mpsc::unbounded_channel();
    let runner = runner(&lab, "alter table partners add column c int").lock_timeout(TIMEOUT);
    let running = runner.on_event(move |event| {
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
async fn statement_timeouts_are_failures() {
    let lab = lab().await;
    for (sql, end, words) in [
        (
            "select pg_sleep(3600)",
            "; true",
            "continued after statement_timeout",
        ),
        ("select pg_sleep(3600)", "", "exceeded statement_timeout"),
    ] {
        let script = format!("psql -X -q -v ON_ERROR_STOP=1 -d \"$URL\" -c \"$SQL\" {end}");
        let mut command = Command::new("sh");
        command
            .args(["-c", &script])
            .env("URL", &lab.server.url)
            .env("SQL", sql);
        let runner = ToolRunner::new(&lab.database, command).statement_timeout(LOCK_TIMEOUT);
        let error = runner.run().await.expect_err("it was ended");
        assert_eq!(error.kind(), ErrorKind::Timeout, "{error}");
        assert!(error.to_string().contains(words), "{error}");
    }
}

/// A background process delays neither the lock nor the runner. A daemon, which has left the
/// process group, may continue.
#[tokio::test]
async fn background_processes_end_with_the_tool() {
    let lab = lab().await;
    let folder = tempfile::tempdir().expect("a folder");
    for (left, status) in [
        ("sleep 3600", 0),
        ("sleep 3600 > /dev/null 2>&1", 0),
        ("sleep 3600", 3),
        ("setsid", 0),
    ] {
        let ready = folder.path().join("ready");
        let _ = std::fs::remove_file(&ready);
        let script = if left == "setsid" {
            // It says itself that it has left the group.
            "setsid sh -c 'echo $$ > \"$READY\"; exec sleep 3600' & \
             while [ ! -s \"$READY\" ]; do sleep 0.01; done; echo told"
                .to_owned()
        } else {
            format!("{left} & echo $! > \"$READY\"; echo told; exit {status}")
        };
        let mut command = Command::new("sh");
        command.args(["-c", &script]).env("READY", &ready);
        let running = ToolRunner::new(&lab.database, command).run();
        let ended = tokio::time::timeout(TIMEOUT, running).await;
        assert_eq!(ended.expect("it ends").is_ok(), status == 0, "{script}");
        let pid = std::fs::read_to_string(&ready).expect("its process");
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.trim()));
        let lives = stat.is_ok_and(|stat| !stat.contains(") Z "));
        assert_eq!(lives, left == "setsid", "{script}");
        if lives {
            let killed = Command::new("kill").arg(pid.trim()).status();
            assert!(killed.expect("kill").success());
        }
    }
    lab.assert_gone().await;
}

#[tokio::test]
async fn idle_blockers_of_tools_are_ended() {
    let lab = lab().await;
    let _forgetful = lab.idle_in_transaction().await;
    let runner = runner(&lab, "alter table partners add column c int");
    let report = runner
        .terminate_idle_in_transaction(Duration::ZERO)
        .run()
        .await
        .expect("cleared");
    assert_eq!(report.terminated.len(), 1, "{report:?}");
}

#[tokio::test]
async fn tools_that_ignore_options_are_reported() {
    let lab = lab().await;
    let forgetful = lab.idle_in_transaction().await;
    // Its own SET overrides PGOPTIONS.
    let sql = "set lock_timeout = 0; alter table partners add column c int";
    let (sender, mut coming) = tokio::sync::mpsc::unbounded_channel();
    let running = tokio::spawn(
        runner(&lab, sql)
            .on_event(move |event| {
                let _ = sender.send(event.clone());
            })
            .run(),
    );
    while !matches!(
        coming.recv().await.expect("it runs"),
        Event::ToolIgnoresOptions { .. }
    ) {}
    forgetful
        .batch_execute("rollback")
        .await
        .expect("remembered");
    let _ = running.await.expect("no panic").expect("it went on");
}

/// Runs `script` in a shell, stops the runner once the file `ready` is written, and returns the
/// error.
async fn stopped(lab: &Lab, script: &str, ready: &std::path::Path) -> antifreeze_migrate::Error {
    let mut command = Command::new("sh");
    command
        .args(["-c", script])
        .env("URL", &lab.server.url)
        .env("READY", ready);
    let (stop, told) = tokio::sync::oneshot::channel::<()>();
    let runner = ToolRunner::new(&lab.database, command).stop_when(async {
        let _ = told.await;
    });
    let running = tokio::spawn(runner.run());
    let began = std::time::Instant::now();
    while std::fs::read_to_string(ready).map_or(true, |text| !text.ends_with('\n')) {
        assert!(began.elapsed() < TIMEOUT, "it never began");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    stop.send(()).expect("it listens");
    running.await.expect("no panic").expect_err("stopped")
}

#[tokio::test]
async fn stopping_holds_the_lock_until_the_tool_ends() {
    let lab = lab().await;
    let folder = tempfile::tempdir().expect("a folder");
    let script = "trap 'sleep 0.5; psql -X -q -d \"$URL\" -c \"$SQL\"; exit' TERM; \
                  echo > \"$READY\"; sleep 3600 & wait";
    let script = format!("SQL=\"{KEEP}\"; {script}");
    let error = stopped(&lab, &script, &folder.path().join("ready")).await;
    assert_eq!(error.kind(), ErrorKind::Interrupted, "{error}");
    assert_eq!(lab.value("select locks from kept").await, "1");
    lab.assert_gone().await;
}

#[tokio::test]
async fn tools_that_ignore_sigterm_are_killed() {
    let lab = lab().await;
    let folder = tempfile::tempdir().expect("a folder");
    let ready = folder.path().join("ready");
    // Child processes inherit the ignored signal.
    let script = "trap '' TERM; sleep 3600 & echo $! > \"$READY\"; wait";
    let error = stopped(&lab, script, &ready).await;
    assert_eq!(error.kind(), ErrorKind::Interrupted, "{error}");
    let pid = std::fs::read_to_string(&ready).expect("its process");
    // An ended process may be a zombie: its state is the letter after its name.
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.trim()));
    let lives = stat.is_ok_and(|stat| !stat.contains(") Z "));
    assert!(!lives, "it runs on");
    lab.assert_gone().await;
}

#[tokio::test]
async fn dropping_ends_the_tool_and_its_children() {
    let lab = lab().await;
    let running = tokio::spawn(
        runner(&lab, "select pg_sleep(3600)")
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
