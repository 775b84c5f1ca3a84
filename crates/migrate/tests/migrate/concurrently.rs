//! Tests migrations without a transaction, and invalid indexes.

use std::time::Duration;

use antifreeze_migrate::{ErrorKind, Event};

use crate::common::{Log, lab};

const INDEX: (&str, &str) = (
    "V1__index",
    "create unique index concurrently partners_name on partners (name)",
);
const INVALID: &str = "select count(*) from pg_index where not indisvalid";

#[tokio::test]
async fn indexes_are_created_concurrently() {
    let lab = lab().await;
    let both = "-- both\ncreate index concurrently a on partners (id);\n\
                create index concurrently if not exists b on partners using btree (name desc);";
    let report = lab.runner(&[("V1__both", both)]).run().await.expect("fine");
    assert!(report.findings.is_empty(), "{report:?}");
    assert_eq!(
        lab.value("select count(*) from pg_indexes where tablename = 'partners'")
            .await,
        "2"
    );
    assert_eq!(lab.applied().await, "1 both");
}

#[tokio::test]
async fn invalid_indexes_are_reported_and_replaced() {
    let lab = lab().await;
    lab.server
        .execute("insert into partners values (1, 'partner 1')")
        .await
        .expect("a double");
    let error = lab.runner(&[INDEX]).run().await.expect_err("not unique");
    assert_eq!(error.kind(), ErrorKind::Statement);
    assert!(
        error
            .to_string()
            .starts_with("V1__index (line 1) failed (SQLSTATE 23505)"),
        "{error}"
    );
    let remove = "DROP INDEX CONCURRENTLY public.partners_name;";
    assert_eq!(error.report().invalid_indexes, [remove]);
    assert_eq!(lab.value(INVALID).await, "1");

    lab.server
        .execute("delete from partners where ctid in (select max(ctid) from partners where id = 1)")
        .await
        .expect("corrected");
    let (runner, log) = Log::of(lab.runner(&[INDEX]));
    let report = runner.run().await.expect("it is unique now");
    assert!(
        log.text()
            .contains("removed the invalid index public.partners_name"),
        "{}",
        log.text()
    );
    assert!(report.invalid_indexes.is_empty(), "{report:?}");
    assert_eq!(lab.value(INVALID).await, "0");
}

#[tokio::test]
async fn reported_statement_removes_the_index() {
    let lab = lab().await;
    lab.server
        .execute("create table \"Odd Name\" (a int); insert into \"Odd Name\" values (1), (1)")
        .await
        .expect("a table");
    let unnamed = (
        "V1__index",
        "create unique index concurrently on \"Odd Name\" (a)",
    );
    let error = lab.runner(&[unnamed]).run().await.expect_err("not unique");
    let lines = &error.report().invalid_indexes;
    assert_eq!(
        lines,
        &["DROP INDEX CONCURRENTLY public.\"Odd Name_a_idx\";"]
    );
    lab.server
        .execute(&lines[0])
        .await
        .expect("it is a statement");
    assert_eq!(lab.value(INVALID).await, "0");
}

#[tokio::test]
async fn foreign_invalid_indexes_are_reported_only() {
    let lab = lab().await;
    let index = "create index left_over on partners (id); \
                 update pg_index set indisvalid = false where indexrelid = 'left_over'::regclass";
    lab.server.execute(index).await.expect("an invalid index");
    let report = lab.runner(&[INDEX]).run().await.expect("fine");
    assert_eq!(
        report.invalid_indexes,
        ["DROP INDEX CONCURRENTLY public.left_over;"]
    );
    assert_eq!(lab.value(INVALID).await, "1");
}

#[tokio::test]
async fn concurrent_builds_wait_for_old_transactions() {
    let lab = lab().await;
    let forgetful = lab.idle_after_writing().await;
    let (runner, mut log) = Log::of(lab.runner(&[INDEX]));
    let running = tokio::spawn(runner.run());
    let event = log
        .until("the session waited for", |event| {
            matches!(event, Event::Blocked(_))
        })
        .await;
    assert!(event.to_string().contains("(forgetful"), "{event}");
    // Longer than lock_timeout: it blocks no other session.
    tokio::time::sleep(Duration::from_secs(1)).await;
    forgetful
        .batch_execute("rollback")
        .await
        .expect("remembered");
    let report = running.await.expect("no panic").expect("fine");
    assert_eq!((report.retries, report.applied[0].attempts), (0, 1));
}

#[tokio::test]
async fn recording_is_retried_after_lock_timeouts() {
    let lab = lab().await;
    let files = [
        ("V1__first", "create table first (a int)"),
        (
            "V2__index",
            "create index concurrently i on partners (name)",
        ),
    ];
    let _ = lab.runner(&files[..1]).run().await.expect("a history");
    let (holder, _) = lab.session("holder").await;
    let lock = "begin; lock table refinery_schema_history in share mode";
    holder.batch_execute(lock).await.expect("a lock");
    let (runner, mut log) = Log::of(lab.runner(&files).attempts(100));
    let running = tokio::spawn(runner.run());
    let blocked = log.until("the blocking session", |event| {
        matches!(event, Event::Blocked(_))
    });
    let line = blocked.await.to_string();
    let expected = "V2__index waits for a lock on refinery_schema_history, blocked by pid";
    assert!(line.starts_with(expected), "{line}");
    let retry = |event: &Event| matches!(event, Event::Retrying { .. });
    let _ = log.until("a retry", retry).await;
    let index = "select 'i'::regclass::oid";
    let before = lab.value(index).await;
    holder.batch_execute("rollback").await.expect("free");
    let report = running.await.expect("no panic").expect("it is written");
    assert!(report.retries >= 1, "{report:?}");
    assert_eq!(lab.applied().await, "1 first, 2 index");
    assert_eq!(lab.value(index).await, before, "it is not made twice");
}

#[tokio::test]
async fn indexes_with_another_definition_are_errors() {
    let lab = lab().await;
    lab.server
        .execute("create index partners_name on partners (id)")
        .await
        .expect("another");
    let error = lab.runner(&[INDEX]).run().await.expect_err("another");
    assert!(
        error
            .to_string()
            .contains("public.partners_name already exists"),
        "{error}"
    );
    assert!(error.to_string().contains("`resolve` version 1"), "{error}");
    assert_eq!(lab.applied().await, "");
}

#[tokio::test]
async fn directive_runs_without_a_transaction() {
    let lab = lab().await;
    lab.server
        .execute("create procedure p() language plpgsql as $$ begin commit; end $$")
        .await
        .expect("a procedure");
    let calls = (
        "V1__calls",
        "-- antifreeze: no-transaction\ncall p();\nvacuum partners;",
    );
    let _ = lab.runner(&[calls]).run().await.expect("fine");
    assert_eq!(lab.applied().await, "1 calls");
    let open = (
        "V2__open",
        "-- antifreeze: no-transaction\nbegin; create table never (a int)",
    );
    let error = lab
        .runner(&[calls, open])
        .run()
        .await
        .expect_err("left open");
    assert!(
        error.to_string().contains("leaves a transaction open"),
        "{error}"
    );
    assert_eq!(lab.value("select to_regclass('never') is null").await, "t");
    assert_eq!(lab.applied().await, "1 calls");
}

#[tokio::test]
async fn block_of_a_file_is_retried_as_a_whole() {
    let lab = lab().await;
    let block = (
        "V1__block",
        "-- antifreeze: no-transaction\nbegin;\ncreate table own (a int);\n\
         alter table partners add column b int;\ncommit;",
    );
    let forgetful = lab.idle_in_transaction().await;
    let (runner, mut log) = Log::of(lab.runner(&[block]).attempts(100));
    let running = tokio::spawn(runner.run());
    let retry = |event: &Event| matches!(event, Event::Retrying { .. });
    let _ = log.until("a retry", retry).await;
    forgetful.batch_execute("rollback").await.expect("free");
    let _ = running.await.expect("no panic").expect("the lock is free");
    let own = "select to_regclass('own') is not null";
    assert_eq!(lab.value(own).await, "t", "it was rolled back once");
    assert_eq!(lab.applied().await, "1 block");
}

#[tokio::test]
async fn procedures_that_commit_are_not_run_again() {
    const BODY: &str =
        "$$ begin insert into done values (1); commit; raise sqlstate '55P03'; end $$";
    let lab = lab().await;
    let setup =
        format!("create table done (a int); create procedure p() language plpgsql as {BODY}");
    lab.server.execute(&setup).await.expect("a procedure");
    for (at, sql) in [(1, "call p()".to_owned()), (2, format!("do {BODY}"))] {
        let sql = format!("-- antifreeze: no-transaction\n{sql}");
        let runner = lab.runner(&[("V1__commits", &sql)]).attempts(3);
        let error = runner.run().await.expect_err("it fails");
        assert_eq!(error.kind(), ErrorKind::Blocked, "{error}");
        assert!(error.to_string().contains("is not run again"), "{error}");
        assert_eq!(error.report().retries, 0);
        let done = lab.value("select count(*) from done").await;
        assert_eq!(done, at.to_string());
    }
}
