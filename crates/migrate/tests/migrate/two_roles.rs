//! Tests migrations of a role that may not see the state of other sessions.

use std::time::Duration;

use antifreeze_migrate::{ErrorKind, Event, Runner};
use lab::postgres::Postgres;
use tokio::task::JoinHandle;

use crate::common::{LOCK_TIMEOUT, Lab, Log, TIMEOUT, lab, migrations, over};

/// Creates the role that owns the tables.
async fn migrator(lab: &Lab) -> String {
    let role = format!("migrator_of_{}", lab.server.name);
    let server = Postgres::shared().await.expect("a server");
    server.create_role(&role).await.expect("a role");
    let rights = format!(
        "create table others (id int); alter table others owner to {role}; \
         alter table partners owner to {role}; grant all on schema public to {role}"
    );
    lab.server.execute(&rights).await.expect("rights");
    role
}

fn runner(lab: &Lab, role: &str, files: &[(&str, &str)]) -> Runner {
    let short = Duration::from_millis(100);
    migrations(files)
        .runner(&over(&lab.server.url_for(role)))
        .lock_timeout(LOCK_TIMEOUT)
        .backoff(short, short)
}

/// Builds the index `name` on `table` as superuser; it waits for sessions that have written.
async fn builds(lab: &Lab, name: &str, table: &str) -> JoinHandle<()> {
    let (builder, _) = lab.session("builder").await;
    let index = format!("create index concurrently {name} on {table} (id)");
    let building = tokio::spawn(async move {
        builder.batch_execute(&index).await.expect("it is built");
    });
    let waits = format!(
        "select count(*) from pg_index where indexrelid = to_regclass('{name}') and not indisvalid"
    );
    lab.eventually(&waits, "1").await;
    building
}

/// Opens a session that is idle in a transaction after a write to `table`.
async fn wrote(lab: &Lab, table: &str) -> tokio_postgres::Client {
    let (writer, _) = lab.session("writer").await;
    let write = format!("begin; insert into {table} (id) values (0)");
    writer.batch_execute(&write).await.expect("written");
    writer
}

async fn is_valid(lab: &Lab, name: &str) -> String {
    let valid = "select indisvalid from pg_index where indexrelid = to_regclass";
    lab.value(&format!("{valid}('{name}')")).await
}

#[tokio::test]
async fn indexes_built_by_other_roles_are_waited_for() {
    let lab = lab().await;
    let role = migrator(&lab).await;
    let writer = wrote(&lab, "partners").await;
    let building = builds(&lab, "i", "partners").await;
    let before = lab.value("select 'i'::regclass::oid").await;

    let files = [("V1__i", "create index concurrently i on partners (id)")];
    let hasty = runner(&lab, &role, &files).retry_for(Duration::ZERO);
    let error = hasty.run().await.expect_err("not valid yet");
    assert_eq!(error.kind(), ErrorKind::Blocked, "{error}");
    assert!(error.to_string().contains("(builder, postgres)"), "{error}");
    assert!(error.report().invalid_indexes.is_empty(), "{error:?}");

    let (patient, mut log) = Log::of(runner(&lab, &role, &files));
    let running = tokio::spawn(patient.run());
    let blocked = log.until("the builder", |event| matches!(event, Event::Blocked(_)));
    let line = blocked.await.to_string();
    assert!(
        line.contains("waits for a lock on public.i, blocked by pid") && line.contains("(builder"),
        "{line}"
    );
    writer.batch_execute("rollback").await.expect("free");
    building.await.expect("it is not in its way");
    let report = running.await.expect("no panic").expect("it is there");
    assert!(log.text().contains("already exists"), "{}", log.text());
    assert!(report.invalid_indexes.is_empty(), "{report:?}");
    assert_eq!(lab.value("select 'i'::regclass::oid").await, before);
    assert_eq!(is_valid(&lab, "i").await, "t");
    assert_eq!(lab.applied().await, "1 i");
}

#[tokio::test]
async fn indexes_of_other_sessions_are_not_touched() {
    let lab = lab().await;
    let role = migrator(&lab).await;
    let files = [
        ("V1__first", "create table first (a int)"),
        ("V2__i", "create index concurrently i on partners (name)"),
    ];
    let _ = runner(&lab, &role, &files[..1]).run().await.expect("first");
    // V2 times out while recording itself in the history.
    let (holder, _) = lab.session("holder").await;
    let lock = "begin; lock table refinery_schema_history in share mode";
    holder.batch_execute(lock).await.expect("a lock");
    let (runner, mut log) = Log::of(runner(&lab, &role, &files).attempts(100));
    let running = tokio::spawn(runner.run());
    let is_blocked = |event: &Event| matches!(event, Event::Blocked(_));
    log.until("the blocking session", is_blocked).await;

    let writer = wrote(&lab, "others").await;
    let building = builds(&lab, "theirs", "others").await;
    // An invalid index of another session stays, also when no session builds it.
    let left = format!(
        "create table third (id int); alter table third owner to {role}; \
         create index left_over on third (id); \
         update pg_index set indisvalid = false where indexrelid = 'left_over'::regclass"
    );
    lab.server.execute(&left).await.expect("an invalid index");
    for _ in 0..2 {
        let again = |event: &Event| matches!(event, Event::Retrying { .. });
        log.until("another attempt", again).await;
    }
    holder.batch_execute("rollback").await.expect("free");
    let report = running.await.expect("no panic").expect("it is written");
    assert_eq!(
        report.invalid_indexes,
        ["DROP INDEX CONCURRENTLY public.left_over;"]
    );
    assert_eq!(is_valid(&lab, "theirs").await, "f");
    assert_eq!(is_valid(&lab, "left_over").await, "f");
    writer.batch_execute("rollback").await.expect("free");
    let built = tokio::time::timeout(TIMEOUT, building).await;
    built.expect("in time").expect("it is built");
    assert_eq!(is_valid(&lab, "theirs").await, "t");
}

#[tokio::test]
async fn invalid_indexes_are_removed_with_lock_timeout() {
    let lab = lab().await;
    let role = migrator(&lab).await;
    let left = format!(
        "create schema shop authorization {role}; alter table partners set schema shop; \
         create index i on shop.partners (id); \
         update pg_index set indisvalid = false where indexrelid = 'shop.i'::regclass"
    );
    lab.server.execute(&left).await.expect("an invalid index");
    // DROP INDEX waits for sessions that use the table.
    let (reader, _) = lab.session("forgetful").await;
    let begin = "begin; select count(*) from shop.partners";
    reader.batch_execute(begin).await.expect("a transaction");
    // Settings of the file apply to each attempt.
    let files = [(
        "V1__i",
        "set search_path = shop; create index concurrently i on partners (id)",
    )];
    let (runner, mut log) = Log::of(runner(&lab, &role, &files).attempts(100));
    let running = tokio::spawn(runner.run());
    let again = |event: &Event| matches!(event, Event::Retrying { .. });
    let line = log.until("another attempt", again).await.to_string();
    assert!(line.contains("55P03"), "{line}");
    reader.batch_execute("rollback").await.expect("free");
    let report = running.await.expect("no panic").expect("it is made");
    assert!(report.invalid_indexes.is_empty(), "{report:?}");
    assert!(
        log.text().contains("removed the invalid index shop.i"),
        "{}",
        log.text()
    );
    assert_eq!(is_valid(&lab, "shop.i").await, "t");
}
