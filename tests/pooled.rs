//! Behind a real PgBouncer, seen from a direct connection: what a task keeps beyond its
//! invocation, and calls of all kinds side by side.
//!
//! Like `tests/pgbouncer`, also run with a later PgBouncer: `LAB_PGBOUNCER`.

mod common;

use std::future::pending;
use std::iter::empty;
use std::pin::pin;
use std::time::Duration;

use antifreeze::teardown::Step;
use antifreeze::{Connection, connection};
use bytes::Bytes;
use common::pooled::{CLIENTS, MODES, assert_ends_at_rest, pooled, pooled_with};
use common::{BoxError, Lab, poll_at_most};
use futures_util::future::{join, join_all};
use futures_util::{SinkExt, StreamExt, TryStreamExt};
use lab::pgbouncer::Mode;
use tokio::time::timeout;
use tokio_postgres::types::Type;

/// More rows than any test reads, without delay from the first on.
const ENDLESS: &str = "select repeat('x', 1000) from pg_class a, pg_class b, pg_class c";

const SLEEP: &str = "select pg_sleep(60)";

/// An invocation that ends while a task has its connection, inside a transaction and
/// inside the statement that `busy` is a part of.
async fn left_to_a_task<F>(lab: &Lab, busy: &str, task: impl FnOnce(Connection) -> F)
where
    F: Future<Output = Result<(), BoxError>> + Send + 'static,
{
    lab.run(async {
        let connection = connection().await?;
        connection
            .batch_execute("begin; insert into t values (1)")
            .await?;
        tokio::spawn(task(connection));
        lab.eventually(busy, async |lab| is_busy(lab, busy).await)
            .await;
        Ok(())
    })
    .await
    .expect("fine");
}

async fn is_busy(lab: &Lab, statement: &str) -> bool {
    let rows = lab
        .server
        .query(&format!(
            "select 1 from pg_stat_activity where datname = current_database() \
             and state = 'active' and application_name <> 'lab' \
             and query like '%{statement}%'"
        ))
        .await;
    !rows.expect("activity").is_empty()
}

#[tokio::test]
async fn task_in_a_statement_leaves_no_answers() {
    assert_ends_at_rest("a task in a statement", async |lab| {
        left_to_a_task(lab, "pg_sleep", async |connection| {
            let _ = connection.batch_execute(SLEEP).await;
            pending().await
        })
        .await;
        0
    })
    .await;
}

/// A request is cancelled for the statement that runs, and not for those behind it.
#[tokio::test]
async fn task_in_a_pipeline_leaves_no_answers() {
    assert_ends_at_rest("a task in a pipeline", async |lab| {
        left_to_a_task(lab, "pg_sleep", async |connection| {
            let one = connection.batch_execute(SLEEP);
            let another = connection.batch_execute("select pg_sleep(61)");
            let _ = join(one, another).await;
            pending().await
        })
        .await;
        0
    })
    .await;
}

#[tokio::test]
async fn task_that_keeps_asking_leaves_no_answers() {
    assert_ends_at_rest("a task that asks on", async |lab| {
        left_to_a_task(lab, "pg_sleep", async |connection| {
            loop {
                let sleep = connection.batch_execute("begin; select pg_sleep(60)");
                let _ = timeout(Duration::from_millis(1), sleep).await;
                let _ = connection.batch_execute("insert into t values (2)").await;
            }
        })
        .await;
        0
    })
    .await;
}

#[tokio::test]
async fn task_in_a_copy_leaves_no_answers() {
    assert_ends_at_rest("a task in a COPY", async |lab| {
        left_to_a_task(lab, "copy t from", async |connection| {
            let sink = connection.copy_in::<_, Bytes>("copy t from stdin").await?;
            let mut sink = pin!(sink);
            sink.send(Bytes::from_static(b"1\n")).await?;
            pending().await
        })
        .await;
        0
    })
    .await;
}

/// As a simple query, which tokio-postgres cannot feed.
#[tokio::test]
async fn task_in_an_unfed_copy_leaves_no_answers() {
    assert_ends_at_rest("a task in a simple COPY", async |lab| {
        left_to_a_task(lab, "copy t from", async |connection| {
            let _ = connection.batch_execute("copy t from stdin").await;
            pending().await
        })
        .await;
        0
    })
    .await;
}

#[tokio::test]
async fn task_with_unread_rows_leaves_no_answers() {
    assert_ends_at_rest("rows that are not read", async |lab| {
        left_to_a_task(lab, "repeat", async |connection| {
            let mut rows = pin!(connection.query_raw(ENDLESS, empty::<i32>()).await?);
            rows.next().await.transpose()?;
            pending().await
        })
        .await;
        0
    })
    .await;
}

/// What the layer drops instead of ending it is brought to rest by a task.
#[tokio::test]
async fn dropped_invocation_leaves_no_answers() {
    for mode in MODES {
        let pooled = pooled(mode).await;
        let lab = &pooled.lab;
        {
            let work = lab.run(async {
                let connection = connection().await?;
                connection
                    .batch_execute("begin; insert into t values (1)")
                    .await?;
                Ok(connection.batch_execute(SLEEP).await?)
            });
            let busy = lab.eventually("busy", async |lab| is_busy(lab, "pg_sleep").await);
            tokio::select! {
                ended = work => panic!("{ended:?}"),
                () = busy => {}
            }
        }
        lab.eventually("at rest", async |_| {
            let servers = pooled.servers().await;
            servers.iter().all(|state| state == "idle")
        })
        .await;
        assert_eq!(lab.rows().await, 0);
    }
}

/// Calls of every kind, side by side on few servers: each gets its own answer.
#[tokio::test]
async fn mixed_clients_get_only_their_own_answers() {
    for servers in [1, 2] {
        let pooled = pooled_with(Mode::Transaction, servers, |config| {
            config.max_connections(CLIENTS)
        })
        .await;
        let lab = &pooled.lab;
        let clients = (0..CLIENTS as i32).map(async |client| {
            for round in 0..20 {
                let number = client * 1000 + round;
                lab.run(every_kind(number)).await.unwrap_or_else(|error| {
                    panic!("{number} on {servers}: {error:?}\n{}", pooled.pooler.log())
                });
            }
        });
        join_all(clients).await;
        let closed = |step: &Step| matches!(step, Step::Closed { .. });
        for teardown in lab.torn_down() {
            let steps = teardown.outcome.steps();
            assert!(!steps.iter().any(closed), "{teardown:?}");
        }
        // By the COPY, and by the transaction.
        assert_eq!(lab.rows().await, CLIENTS as i64 * 20 * 3);
        let servers = pooled.servers().await;
        assert!(servers.iter().all(|state| state == "idle"), "{servers:?}");
    }
}

async fn every_kind(number: i32) -> Result<(), BoxError> {
    let mut connection = connection().await?;
    let named = connection.query_one("select $1::int", &[&number]).await?;
    assert_eq!(named.get::<_, i32>(0), number);
    let cached = connection
        .query_one(
            &connection.prepare_cached("select $1::int + 1").await?,
            &[&number],
        )
        .await?;
    assert_eq!(cached.get::<_, i32>(0), number + 1);
    let typed = connection
        .query_typed("select $1 + 2", &[(&number, Type::INT4)])
        .await?;
    assert_eq!(typed[0].get::<_, i32>(0), number + 2);
    let simple = connection.simple_query(&format!("select {number}")).await?;
    assert_eq!(simple.len(), 3);
    {
        let mut sink = pin!(connection.copy_in("copy t from stdin").await?);
        sink.send(Bytes::from(format!("{number}\n{number}\n")))
            .await?;
        assert_eq!(sink.finish().await?, 2);
    }
    {
        let sink = connection.copy_in::<_, Bytes>("copy t from stdin").await?;
        let mut sink = pin!(sink);
        sink.send(Bytes::from_static(b"1\n")).await?;
    }
    let copy = format!("copy (select {number}) to stdout");
    let copied: Vec<Bytes> = connection.copy_out(&copy).await?.try_collect().await?;
    assert_eq!(copied.concat(), format!("{number}\n").as_bytes());
    let wrong = connection.query("select no_such_thing", &[]).await;
    let wrong = wrong.expect_err("no such thing");
    assert_eq!(wrong.code().map(|code| code.code()), Some("42703"));
    let transaction = connection.transaction().await?;
    let insert = transaction.prepare("insert into t values ($1)").await?;
    transaction.execute(&insert, &[&number]).await?;
    transaction.commit().await?;
    let dropped = connection.transaction().await?;
    dropped
        .execute("insert into t values ($1)", &[&number])
        .await?;
    drop(dropped);
    poll_at_most(
        2,
        connection.query_one("select 'dropped', $1::int", &[&number]),
    )
    .await;
    let (one, another) = join(
        connection.query_one("select $1::int + 3", &[&number]),
        connection.query_one("select $1::int + 4", &[&number]),
    )
    .await;
    assert_eq!(one?.get::<_, i32>(0), number + 3);
    assert_eq!(another?.get::<_, i32>(0), number + 4);
    Ok(())
}
