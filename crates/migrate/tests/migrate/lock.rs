//! Tests that one runner runs at a time.

use std::time::Duration;

use antifreeze_migrate::{ErrorKind, Event};

use crate::common::{Log, lab};

/// A migration that takes a while, and fails if another runs at the same time.
const ALONE: &str = "create table alone (a int); select pg_sleep(0.2)";

#[tokio::test]
async fn concurrent_runners_apply_each_migration_once() {
    let lab = lab().await;
    let files = [
        ("V1__alone", ALONE),
        ("V2__next", "create table next (a int)"),
    ];
    let runs = (0..10).map(|_| tokio::spawn(lab.runner(&files).run()));
    let reports = futures_util::future::join_all(runs).await;
    let reports: Vec<_> = reports
        .into_iter()
        .map(|report| report.expect("no panic").expect("each is fine"))
        .collect();
    let applied: usize = reports.iter().map(|report| report.applied.len()).sum();
    assert_eq!(applied, 2, "{reports:?}");
    assert_eq!(
        reports
            .iter()
            .filter(|report| !report.applied.is_empty())
            .count(),
        1
    );
    assert!(reports.iter().any(|report| !report.waited_for.is_empty()));
    assert_eq!(lab.applied().await, "1 alone, 2 next");
    lab.assert_gone().await;
    let locks = "select count(*) from pg_locks where locktype = 'advisory' and database = \
                 (select oid from pg_database where datname = current_database())";
    assert_eq!(lab.value(locks).await, "0");
}

#[tokio::test]
async fn lock_wait_is_bounded_and_names_the_holder() {
    let lab = lab().await;
    let slow = [("V1__slow", "select pg_sleep(60)")];
    let (runner, mut log) = Log::of(lab.runner(&slow).statement_timeout(Duration::ZERO));
    let first = tokio::spawn(runner.run());
    log.until("the start", |event| matches!(event, Event::Started { .. }))
        .await;
    let pid = "select pid from pg_stat_activity where state = 'active' and query like '%pg_sleep(60)' \
               and datname = current_database()";
    lab.eventually(&format!("select count(*) from ({pid}) x"), "1")
        .await;
    let holder = lab.value(pid).await;
    let second = lab
        .runner(&slow)
        .lock_wait(Duration::from_millis(300))
        .run()
        .await;
    let error = second.expect_err("busy");
    assert_eq!(error.kind(), ErrorKind::Busy);
    assert!(
        error
            .to_string()
            .contains(&format!("pid {holder} (migrate")),
        "{error}"
    );
    assert_eq!(error.report().waited_for[0].pid.to_string(), holder);
    first.abort();
    lab.assert_gone().await;
}

#[tokio::test]
async fn lost_locks_are_detected() {
    let lab = lab().await;
    // The migration releases the lock, as a DISCARD ALL of a pooler would.
    let files = [
        ("V1__unlocks", "select pg_advisory_unlock_all()"),
        ("V2__next", "create table next (a int)"),
    ];
    let error = lab.runner(&files).run().await.expect_err("noticed");
    assert_eq!(error.kind(), ErrorKind::Pooler, "{error}");
    assert!(error.report().lock_lost);
    assert_eq!(lab.applied().await, "1 unlocks");
}

#[tokio::test]
async fn lost_locks_are_detected_at_release() {
    let lab = lab().await;
    let files = [("V1__unlocks", "select pg_advisory_unlock_all()")];
    let report = lab.runner(&files).run().await.expect("it was run");
    assert!(report.lock_lost && report.applied.len() == 1, "{report:?}");
}
