//! Tests that a run can be repeated wherever it was interrupted.

use std::time::Duration;

use antifreeze_migrate::{ErrorKind, Event};
use lab::postgres::Postgres;

use crate::common::{Log, TIMEOUT, lab};

const SLOW: [(&str, &str); 2] = [
    ("V1__first", "create table first (a int)"),
    (
        "V2__slow",
        "create table slow (a int); select pg_sleep(3600)",
    ),
];
const QUICK: [(&str, &str); 2] = [SLOW[0], ("V2__slow", "create table slow (a int)")];
const SLEEPING: &str = "select count(*) from pg_stat_activity where wait_event = 'PgSleep' \
                        and datname = current_database()";

fn started(event: &Event) -> bool {
    matches!(event, Event::Started { migration, .. } if migration == "V2__slow")
}

#[tokio::test]
async fn dropping_cancels_on_the_server() {
    let lab = lab().await;
    let (runner, mut log) = Log::of(lab.runner(&SLOW).statement_timeout(Duration::ZERO));
    let running = tokio::spawn(runner.run());
    log.until("the start", started).await;
    lab.eventually(SLEEPING, "1").await;
    let pid = lab.value(&SLEEPING.replace("count(*)", "pid")).await;
    running.abort();
    assert!(running.await.is_err_and(|error| error.is_cancelled()));
    lab.assert_gone().await;
    // The statement was cancelled by a request, not by the check of the client connection.
    let log = Postgres::shared().await.expect("a server").log();
    let of_it: Vec<_> = log
        .lines()
        .filter(|line| line.contains(&format!("[{pid}]")))
        .collect();
    let cancelled = "canceling statement due to user request";
    assert!(
        of_it.iter().any(|line| line.contains(cancelled)),
        "{of_it:?}"
    );
    assert_eq!(lab.applied().await, "1 first");
    let report = lab.runner(&QUICK).run().await.expect("again");
    assert_eq!(report.applied.len(), 1);
}

#[tokio::test]
async fn dropping_is_safe_at_every_await() {
    // The future is dropped after each number of polls, so that every await is covered.
    for polls in [1, 3, 6, 10, 16, 25, 40] {
        let lab = lab().await;
        let mut future = Box::pin(lab.runner(&QUICK).run());
        let mut left = polls;
        let dropped = std::future::poll_fn(|cx| {
            left -= 1;
            match future.as_mut().poll(cx) {
                std::task::Poll::Ready(_) => std::task::Poll::Ready(false),
                std::task::Poll::Pending if left == 0 => std::task::Poll::Ready(true),
                std::task::Poll::Pending => std::task::Poll::Pending,
            }
        });
        let dropped = dropped.await;
        drop(future);
        lab.assert_gone().await;
        let report = lab.runner(&QUICK).run().await.expect("again");
        assert!(dropped || report.applied.is_empty(), "{polls}: {report:?}");
        assert_eq!(lab.applied().await, "1 first, 2 slow", "{polls}");
    }
}

#[tokio::test]
async fn stopping_returns_after_the_cancellation() {
    let lab = lab().await;
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let runner = lab.runner(&SLOW).statement_timeout(Duration::ZERO);
    let (runner, mut log) = Log::of(runner.stop_when(async {
        let _ = stopped.await;
    }));
    let running = tokio::spawn(runner.run());
    log.until("the start", started).await;
    lab.eventually(SLEEPING, "1").await;
    stop.send(()).expect("it listens");
    let error = running.await.expect("no panic").expect_err("stopped");
    assert_eq!(error.kind(), ErrorKind::Interrupted, "{error}");
    assert_eq!(error.report().applied.len(), 1);
    // The session has ended when the call returns.
    assert_eq!(lab.value(SLEEPING).await, "0");
    let _ = lab.runner(&QUICK).run().await.expect("again");
}

#[tokio::test]
async fn deadlines_are_met() {
    let lab = lab().await;
    let runner = lab.runner(&SLOW).statement_timeout(Duration::ZERO);
    let run = runner.deadline(Duration::from_secs(4)).run();
    let error = tokio::time::timeout(TIMEOUT, run)
        .await
        .expect("it ends")
        .expect_err("late");
    assert_eq!(error.kind(), ErrorKind::Interrupted, "{error}");
    assert!(
        error.to_string().starts_with("the deadline was near"),
        "{error}"
    );
    lab.assert_gone().await;
    let _ = lab.runner(&QUICK).run().await.expect("again");
}

#[tokio::test]
async fn interrupted_indexes_are_reported() {
    let lab = lab().await;
    let _forgetful = lab.idle_after_writing().await;
    let index = [("V1__index", "create index concurrently i on partners (id)")];
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let (runner, mut log) = Log::of(lab.runner(&index).stop_when(async {
        let _ = stopped.await;
    }));
    let running = tokio::spawn(runner.run());
    log.until("the wait", |event| matches!(event, Event::Blocked(_)))
        .await;
    stop.send(()).expect("it listens");
    let error = running.await.expect("no panic").expect_err("stopped");
    assert_eq!(
        error.report().invalid_indexes,
        ["DROP INDEX CONCURRENTLY public.i;"]
    );
}

#[tokio::test]
async fn lost_connections_are_errors_and_can_be_rerun() {
    let lab = lab().await;
    let (runner, mut log) = Log::of(lab.runner(&SLOW).statement_timeout(Duration::ZERO));
    let running = tokio::spawn(runner.run());
    log.until("the start", started).await;
    lab.eventually(SLEEPING, "1").await;
    let end = "select pg_terminate_backend(pid) from pg_stat_activity \
               where wait_event = 'PgSleep' and datname = current_database()";
    lab.server.execute(end).await.expect("an administrator");
    let error = running.await.expect("no panic").expect_err("lost");
    assert_eq!(error.kind(), ErrorKind::Connection, "{error}");
    assert!(
        error
            .to_string()
            .contains("V2__slow (line 1): run the migrations again"),
        "{error}"
    );
    let _ = lab.runner(&QUICK).run().await.expect("again");
    assert_eq!(lab.applied().await, "1 first, 2 slow");
}
