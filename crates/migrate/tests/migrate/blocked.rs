//! Tests migrations that are blocked by a session which is idle in a transaction.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use antifreeze_migrate::{ErrorKind, Event};

use crate::common::{LOCK_TIMEOUT, Log, SEEN, TIMEOUT, lab};

const UNIQUE: &str = "alter table partners add constraint partners_name unique (name)";

fn is_blocked(event: &Event) -> bool {
    matches!(event, Event::Blocked(_))
}

fn is_retry(event: &Event) -> bool {
    matches!(event, Event::Retrying { .. })
}

#[tokio::test]
async fn readers_continue_and_the_blocker_is_named() {
    let lab = lab().await;
    let forgetful = lab.idle_in_transaction().await;
    let (reader, _) = lab.session("reader").await;
    // Far less than the idle session blocks, which is until the end.
    let limit = LOCK_TIMEOUT * 10;
    let set = format!("set statement_timeout = {}", limit.as_millis());
    reader.batch_execute(&set).await.expect("a setting");
    let reads = Arc::new(AtomicU32::new(0));
    let counter = Arc::clone(&reads);
    let reading = tokio::spawn(async move {
        loop {
            reader
                .batch_execute("select count(*) from partners")
                .await?;
            counter.fetch_add(1, Ordering::SeqCst);
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        #[allow(unreachable_code)]
        Ok::<_, tokio_postgres::Error>(())
    });

    let (runner, mut log) = Log::of(lab.runner(&[("V1__unique", UNIQUE)]).attempts(100));
    let running = tokio::spawn(runner.run());
    let event = log.until("the blocking session", is_blocked).await;
    let Event::Blocked(blocked) = &event else {
        unreachable!()
    };
    assert_eq!(blocked.relation.as_deref(), Some("partners"));
    assert_eq!(blocked.line, Some(1));
    // The reader may be at it, too.
    let mut by = blocked.by.iter();
    let guilty = by.find(|by| by.application.as_deref() == Some("forgetful"));
    let guilty = guilty.expect("the guilty one");
    assert_eq!(guilty.user.as_deref(), Some("postgres"));
    assert_eq!(guilty.state.as_deref(), Some("idle in transaction"));
    assert!(guilty.since.is_some());
    let line = event.to_string();
    assert!(
        line.contains("V1__unique (line 1) waits for a lock on partners, blocked by pid"),
        "{line}"
    );

    // It is retried, and the readers continue between the attempts.
    for _ in 0..3 {
        log.until("a retry", is_retry).await;
        let before = reads.load(Ordering::SeqCst);
        while reads.load(Ordering::SeqCst) == before {
            assert!(!reading.is_finished(), "a reader waited for {limit:?}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
    forgetful
        .batch_execute("rollback")
        .await
        .expect("remembered");
    let report = running.await.expect("no panic").expect("the lock is free");
    assert!(report.retries >= 3 && report.applied[0].attempts == report.retries + 1);
    assert_eq!(
        report.blocked[0].by[0].application.as_deref(),
        Some("forgetful")
    );
    assert!(report.terminated.is_empty());
    assert!(!reading.is_finished(), "a reader waited for {limit:?}");
    reading.abort();
    lab.assert_gone().await;
}

/// Without a lock timeout, the statement waits forever, and the reader queues behind it.
#[tokio::test]
async fn readers_queue_without_a_lock_timeout() {
    let lab = lab().await;
    let forgetful = lab.idle_in_transaction().await;
    let (migration, _) = lab.session("plain migration").await;
    let altering = tokio::spawn(async move { migration.batch_execute(UNIQUE).await });
    let waiting = "select count(*) from pg_stat_activity where wait_event_type = 'Lock' \
                   and datname = current_database()";
    lab.eventually(waiting, "1").await;
    let (reader, _) = lab.session("reader").await;
    reader
        .batch_execute("set statement_timeout = '700ms'")
        .await
        .expect("a setting");
    let read = "select count(*) from partners";
    let stopped = reader.batch_execute(read).await.expect_err("it waits");
    assert_eq!(stopped.code().map(|code| code.code()), Some("57014"));
    assert!(!altering.is_finished());
    forgetful
        .batch_execute("rollback")
        .await
        .expect("remembered");
    altering.await.expect("no panic").expect("at last");
    reader.batch_execute(read).await.expect("it reads");
}

/// With the layer, no session stays in a transaction.
#[tokio::test]
async fn layer_leaves_no_blocking_session() {
    let lab = lab().await;
    for _ in 0..3 {
        let handler = async {
            let connection = antifreeze::connection().await?;
            let begin = "begin; select count(*) from partners";
            connection.batch_execute(begin).await?;
            Ok::<_, antifreeze::Error>(())
        };
        let invocation = lab.database.invocation(TIMEOUT, handler);
        invocation.await.expect("it returns");
    }
    let runner = lab.runner(&[("V1__unique", UNIQUE)]).attempts(1);
    let report = runner.run().await.expect("no session blocks it");
    assert!(report.blocked.is_empty(), "{report:?}");
}

#[tokio::test]
async fn last_attempt_names_the_blocker() {
    let lab = lab().await;
    let _forgetful = lab.idle_in_transaction().await;
    let runner = lab.runner(&[("V1__unique", UNIQUE)]).attempts(2);
    let error = runner.lock_timeout(SEEN).run().await.expect_err("blocked");
    assert_eq!(error.kind(), ErrorKind::Blocked);
    let line = error.to_string();
    assert!(
        line.contains("2 attempts") && line.contains("(forgetful, postgres"),
        "{line}"
    );
    assert_eq!(
        (error.report().retries, error.report().blocked.len()),
        (1, 2)
    );
    assert_eq!(error.report().pending, ["V1__unique"]);
    lab.assert_gone().await;
}

#[tokio::test]
async fn idle_blockers_are_ended_and_named() {
    let lab = lab().await;
    let forgetful = lab.idle_in_transaction().await;
    let files = [("V1__unique", UNIQUE)];
    let runner = lab
        .runner(&files)
        .terminate_idle_in_transaction(Duration::from_millis(300));
    let report = runner.run().await.expect("the way is free");
    assert_eq!(report.terminated.len(), 1, "{report:?}");
    assert_eq!(
        report.terminated[0].application.as_deref(),
        Some("forgetful")
    );
    assert_eq!(lab.applied().await, "1 unique");
    let gone = forgetful.batch_execute("select 1").await;
    assert!(gone.is_err(), "its session was ended");
}

#[tokio::test]
async fn other_sessions_are_not_ended() {
    let lab = lab().await;
    // An active session, one that is idle for less long, and one that blocks nothing.
    let (working, _) = lab.session("working").await;
    let work = tokio::spawn(async move {
        working
            .batch_execute("begin; select count(*) from partners; select pg_sleep(3600)")
            .await
    });
    let young = lab.idle_in_transaction().await;
    let (aside, _) = lab.session("aside").await;
    aside
        .batch_execute("begin; select 1")
        .await
        .expect("a transaction");
    let sleeping = "select count(*) from pg_stat_activity where application_name = 'working' \
                    and wait_event = 'PgSleep' and datname = current_database()";
    lab.eventually(sleeping, "1").await;
    let hour = Duration::from_secs(3600);
    let runner = lab
        .runner(&[("V1__unique", UNIQUE)])
        .attempts(1)
        .lock_timeout(SEEN)
        .terminate_idle_in_transaction(hour);
    let error = runner.run().await.expect_err("blocked");
    let report = error.report();
    assert!(report.terminated.is_empty(), "{report:?}");
    assert_eq!(report.blocked[0].by.len(), 2, "{report:?}");
    young.batch_execute("select 1").await.expect("it lives");
    young.batch_execute("rollback").await.expect("it is done");

    // An active session is not ended, whatever its age.
    let any = Duration::ZERO;
    let runner = lab
        .runner(&[("V1__unique", UNIQUE)])
        .attempts(1)
        .terminate_idle_in_transaction(any);
    let error = runner.run().await.expect_err("blocked");
    assert!(error.report().terminated.is_empty(), "{:?}", error.report());
    aside.batch_execute("select 1").await.expect("it lives");
    assert!(!work.is_finished());
    work.abort();
}

#[tokio::test]
async fn indirect_blockers_are_named() {
    let lab = lab().await;
    let forgetful = lab.idle_in_transaction().await;
    let (other, _) = lab.session("other migration").await;
    let waits = tokio::spawn(async move {
        other
            .batch_execute("alter table partners add column other int")
            .await
    });
    let waiting = "select count(*) from pg_stat_activity where application_name = 'other migration' \
                   and wait_event_type = 'Lock'";
    lab.eventually(waiting, "1").await;
    // Only a row lock: the other migration is what blocks.
    let (runner, mut log) =
        Log::of(lab.runner(&[("V1__row", "update partners set name = 'x' where id = 1")]));
    let running = tokio::spawn(runner.run());
    let Event::Blocked(blocked) = log.until("the blocking session", is_blocked).await else {
        unreachable!()
    };
    let by: Vec<_> = blocked
        .by
        .iter()
        .map(|one| (one.application.as_deref(), one.waits))
        .collect();
    assert_eq!(
        by,
        [(Some("forgetful"), false), (Some("other migration"), true)]
    );
    forgetful
        .batch_execute("rollback")
        .await
        .expect("remembered");
    waits.await.expect("no panic").expect("it went on");
    let _ = running.await.expect("no panic").expect("so did we");
}

/// A role that may not see the state of other sessions can see their locks.
#[tokio::test]
async fn every_role_sees_waiting_sessions() {
    let postgres = lab::postgres::Postgres::start().await.expect("a cluster");
    postgres.create_role("migrator").await.expect("a role");
    postgres
        .execute(
            "create table partners (id int, name text); \
             grant select, update on partners to migrator; \
             grant create on schema public to migrator",
        )
        .await
        .expect("a table");
    let session = async || {
        let connected = tokio_postgres::connect(&postgres.url(), tokio_postgres::NoTls).await;
        let (client, connection) = connected.expect("a session");
        tokio::spawn(connection);
        client
    };
    let (forgetful, other, look) = (session().await, session().await, session().await);
    let begin = "begin; select from partners";
    forgetful.batch_execute(begin).await.expect("begun");
    let alter = "alter table partners add column other int";
    let waits = tokio::spawn(async move { other.batch_execute(alter).await });
    let waiting = "select count(*) from pg_locks where not granted";
    while look
        .query_one(waiting, &[])
        .await
        .expect("a row")
        .get::<_, i64>(0)
        == 0
    {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let database = crate::common::over(&postgres.url_for("migrator", "postgres"));
    let migrations = crate::common::migrations(&[("V1__row", "update partners set name = 'x'")]);
    let (runner, mut log) = Log::of(migrations.runner(&database));
    let running = tokio::spawn(runner.run());
    let Event::Blocked(blocked) = log.until("the blocking session", is_blocked).await else {
        unreachable!()
    };
    let waits_too: Vec<_> = blocked.by.iter().map(|one| one.waits).collect();
    assert_eq!(waits_too, [false, true], "{:?}", blocked.by);
    forgetful.batch_execute("rollback").await.expect("over");
    waits.await.expect("no panic").expect("it went on");
    let _ = running.await.expect("no panic").expect("so did we");
}

#[tokio::test]
async fn statement_timeouts_are_not_retried() {
    let lab = lab().await;
    let slow = "create table slow (a int);\nselect pg_sleep(3600)";
    let runner = lab.runner(&[("V1__slow", slow)]).statement_timeout(SEEN);
    let error = runner.run().await.expect_err("too long");
    assert_eq!(error.kind(), ErrorKind::Timeout, "{error}");
    assert!(
        error
            .to_string()
            .starts_with("V1__slow (line 2) exceeded statement_timeout"),
        "{error}"
    );
    assert_eq!(error.report().retries, 0);
    assert_eq!(lab.value("select to_regclass('slow') is null").await, "t");
}

#[tokio::test]
async fn second_connection_is_optional() {
    let postgres = lab::postgres::Postgres::start().await.expect("a cluster");
    postgres
        .execute("create role one login superuser connection limit 1")
        .await
        .expect("a role");
    postgres.create_role("alone").await.expect("a role");
    postgres
        .execute("alter role alone connection limit 1; grant create on schema public to alone")
        .await
        .expect("a limit");
    let database = crate::common::over(&postgres.url_for("alone", "postgres"));
    let runner =
        crate::common::migrations(&[("V1__a", "create table a (a int)")]).runner(&database);
    let (runner, log) = Log::of(runner);
    let _ = runner.run().await.expect("fine");
    assert!(
        log.text().contains("no second connection"),
        "{}",
        log.text()
    );
}
