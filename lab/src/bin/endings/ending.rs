//! The endings.

use std::future::pending;
use std::iter::empty;
use std::pin::pin;
use std::time::Duration;

use antifreeze::{Connection, connection, invocation, transaction};
use bytes::Bytes;
use futures_util::{FutureExt, SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::sync::oneshot;
use tokio_postgres::{Client, NoTls};

use crate::BoxError;
use crate::look::look;
use crate::sabotage::INSIDE;
use crate::task::{keep, spawn, spawn_blocking};

const INSERT: &str = "insert into t values (1)";
const SLEEP: &str = "select pg_sleep(600)";

/// More rows than anybody reads, from the first on without delay.
pub const ENDLESS: &str = "select repeat('x', 1000) from pg_class a, pg_class b, pg_class c";

/// Ends as it is told.
pub async fn end(ending: &str, told: &str) -> Result<Value, BoxError> {
    match ending {
        "look" => return look().await,
        "returns" => {
            let mut connection = connection().await?;
            let transaction = connection.transaction().await?;
            transaction.execute(INSERT, &[]).await?;
            transaction.commit().await?;
        }
        "other_driver" => {
            let url = invocation()?.url()?;
            let (client, connection) = tokio_postgres::connect(&url, NoTls).await?;
            tokio::spawn(connection);
            client.batch_execute(INSERT).await?;
        }
        "returns_lazily" => {
            let transaction = transaction().await?;
            transaction.execute(INSERT, &[]).await?;
        }
        "fails_lazily" => {
            let transaction = transaction().await?;
            transaction.execute(INSERT, &[]).await?;
            return Err("a failure".into());
        }
        "early_return" => {
            let mut connection = connection().await?;
            let transaction = connection.transaction().await?;
            transaction.execute(INSERT, &[]).await?;
            transaction
                .execute("select no_such_function()", &[])
                .await?;
            transaction.commit().await?;
        }
        "transaction_forgotten" => {
            let mut connection = connection().await?;
            let transaction = connection.transaction().await?;
            transaction.execute(INSERT, &[]).await?;
            std::mem::forget(transaction);
        }
        "connection_forgotten" => {
            let connection = connection().await?;
            begin(&connection).await?;
            std::mem::forget(connection);
        }
        "begin_by_hand" => begin(&*connection().await?).await?,
        "savepoints" => {
            let connection = connection().await?;
            begin(&connection).await?;
            connection
                .batch_execute("savepoint a; insert into t values (2); savepoint b")
                .await?;
        }
        "failed_statement" => {
            let connection = connection().await?;
            begin(&connection).await?;
            let _ = connection.batch_execute("select 1 / 0").await;
        }
        "commit_of_an_aborted" => {
            let mut connection = connection().await?;
            let transaction = connection.transaction().await?;
            transaction.execute(INSERT, &[]).await?;
            let _ = transaction.batch_execute("select 1 / 0").await;
            transaction.commit().await?;
        }
        "panic" => {
            let mut connection = connection().await?;
            let transaction = connection.transaction().await?;
            transaction.execute(INSERT, &[]).await?;
            assert!(transaction.client().is_closed(), "as it was asked to");
        }
        "slow_statement" => {
            let mut connection = connection().await?;
            let transaction = connection.transaction().await?;
            transaction.execute(INSERT, &[]).await?;
            transaction.execute(SLEEP, &[]).await?;
        }
        "slow_between_statements" => {
            let mut connection = connection().await?;
            let transaction = connection.transaction().await?;
            transaction.execute(INSERT, &[]).await?;
            pending::<()>().await;
        }
        "dropped_from_outside" => {
            // By hand: a `Transaction` that is dropped sends its ROLLBACK, and the answer may
            // come in time for the connection to be kept.
            let connection = connection().await?;
            begin(&connection).await?;
            INSIDE.notify_one();
            pending::<()>().await;
        }
        "statement_timed_out" => {
            let connection = connection().await?;
            begin(&connection).await?;
            let slow = connection.batch_execute(SLEEP);
            let _ = tokio::time::timeout(Duration::from_millis(20), slow).await;
        }
        "begin_dropped" => {
            let mut connection = connection().await?;
            let _ = connection.build_transaction().start().now_or_never();
            let _ = connection.batch_execute("begin").now_or_never();
        }
        "copies" => copies(&*connection().await?).await?,
        "copy_in_dropped" => {
            let connection = connection().await?;
            begin(&connection).await?;
            let mut sink = pin!(connection.copy_in("copy t from stdin").await?);
            sink.send(Bytes::from_static(b"1\n")).await?;
        }
        "copy_in_kept" => {
            let connection = connection().await?;
            begin(&connection).await?;
            let sink = connection.copy_in::<_, Bytes>("copy t from stdin").await?;
            std::mem::forget(sink);
        }
        "copy_out_dropped" => {
            let connection = connection().await?;
            begin(&connection).await?;
            let copy = format!("copy ({ENDLESS}) to stdout");
            let mut stream = pin!(connection.copy_out(&copy).await?);
            stream.next().await.transpose()?;
        }
        "copy_out_kept" => {
            let connection = connection().await?;
            begin(&connection).await?;
            let copy = format!("copy ({ENDLESS}) to stdout");
            let mut stream = Box::pin(connection.copy_out(&copy).await?);
            stream.next().await.transpose()?;
            std::mem::forget(stream);
        }
        "rows_dropped" => {
            let connection = connection().await?;
            begin(&connection).await?;
            let mut rows = pin!(connection.query_raw(ENDLESS, empty::<i32>()).await?);
            rows.next().await.transpose()?;
        }
        "rows_kept" => {
            let connection = connection().await?;
            begin(&connection).await?;
            let mut rows = Box::pin(connection.query_raw(ENDLESS, empty::<i32>()).await?);
            rows.next().await.transpose()?;
            std::mem::forget(rows);
        }
        "task_idle" => keep(connection().await?, None, spawn).await?,
        "task_busy" => keep(connection().await?, Some(SLEEP), spawn).await?,
        "own_task" => {
            let connection = connection().await?;
            let (begun, beginning) = oneshot::channel();
            invocation()?.spawn(async move {
                let _ = begin(&connection).await;
                let _ = begun.send(());
                let _ = connection.batch_execute(SLEEP).await;
            });
            beginning.await?;
        }
        "half_done_task" => half_done().await?,
        "half_done_clean_up" => {
            let invocation = invocation()?;
            invocation.defer(async {
                let transaction = transaction();
                if let Ok(transaction) = transaction.await {
                    let _ = transaction.execute(INSERT, &[]).await;
                    pending::<()>().await;
                }
            });
        }
        "blocking_idle" => keep(connection().await?, None, spawn_blocking).await?,
        "blocking_busy" => keep(connection().await?, Some(SLEEP), spawn_blocking).await?,
        "two_leases" => {
            let (first, second) = (connection().await?, connection().await?);
            begin(&first).await?;
            begin(&second).await?;
        }
        "session_state" => connection().await?.batch_execute(told_sql(told)).await?,
        "killed" => {
            let connection = connection().await?;
            begin(&connection).await?;
            end_backend(&connection).await?;
            let _ = connection.query("select 1", &[]).await;
        }
        "killed_during_commit" => {
            let mut connection = connection().await?;
            let pid = connection.process_id();
            let transaction = connection.transaction().await?;
            transaction
                .execute("insert into slow_to_commit values (1)", &[])
                .await?;
            let (_, killed) = futures_util::join!(transaction.commit(), kill_in_commit(pid));
            killed?;
        }
        "waits_for_a_restart" => {
            let connection = connection().await?;
            begin(&connection).await?;
            while !connection.is_closed() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
        "stalled_in_the_handler" => {
            let connection = connection().await?;
            begin(&connection).await?;
            stalled().await;
            connection.query("select 1", &[]).await?;
        }
        "stalled_in_teardown" => {
            let connection = connection().await?;
            begin(&connection).await?;
            stalled().await;
        }
        other => return Err(format!("there is no ending {other:?}").into()),
    }
    if told == "stay" {
        // What is left is left as it is, and the handler goes on for ever.
        println!("staying");
        pending::<()>().await;
    }
    Ok(json!("ended"))
}

pub async fn begin(client: &Client) -> Result<(), BoxError> {
    let begin = format!("begin; {INSERT}");
    Ok(client.batch_execute(&begin).await?)
}

/// A task of the invocation that is in the middle of its transaction, and that nobody
/// joins.
async fn half_done() -> Result<(), BoxError> {
    let (begun, beginning) = oneshot::channel();
    let transaction = transaction().await?;
    invocation()?.spawn(async move {
        let _ = transaction.execute(INSERT, &[]).await;
        let _ = begun.send(());
        pending::<()>().await;
    });
    Ok(beginning.await?)
}

/// COPY after COPY by statements that are dropped, some of them half-way, and questions
/// whose answers show that they are one's own.
async fn copies(client: &Client) -> Result<(), BoxError> {
    for number in 0..20 {
        {
            let mut sink = pin!(client.copy_in("copy copied from stdin").await?);
            sink.send(Bytes::from_static(b"1\n")).await?;
            if number % 2 == 0 {
                sink.finish().await?;
            }
        }
        let row = client.query_one("select $1::int", &[&number]).await?;
        if row.try_get::<_, i32>(0)? != number {
            return Err("somebody else's answer".into());
        }
    }
    Ok(())
}

/// The session state that is to be left behind.
fn told_sql(told: &str) -> &'static str {
    match told {
        "listen" => "listen something",
        "listen_in_do" => "do $$ begin execute 'listen something'; end $$",
        "advisory_lock" => "select pg_advisory_lock(1)",
        "advisory_lock_in_do" => "do $$ begin perform pg_advisory_lock(2); end $$",
        "set" => "set work_mem = '7MB'",
        "set_in_do" => "do $$ begin set work_mem = '7MB'; end $$",
        "set_config" => "select set_config('app.user', 'mallory', false)",
        "set_config_in_do" => "do $$ begin perform set_config('app.user', 'm', false); end $$",
        "temp_table" => "create temp table left_behind (a int)",
        "temp_table_in_do" => "do $$ begin create temp table left_behind (a int); end $$",
        "temp_table_by_select" => "select 1 as a into temp left_behind",
        _ => "select state_that_nobody_knows()",
    }
}

/// Somebody else's connection: an administrator's.
async fn administrator() -> Result<Client, BoxError> {
    let url = std::env::var("ADMINISTRATOR_URL")?;
    let (client, connection) = tokio_postgres::connect(&url, NoTls).await?;
    tokio::spawn(connection);
    Ok(client)
}

async fn end_backend(connection: &Connection) -> Result<(), BoxError> {
    let administrator = administrator().await?;
    let pid = connection.process_id();
    administrator
        .execute("select pg_terminate_backend($1, 5000)", &[&pid])
        .await?;
    Ok(())
}

/// Ends a session while it commits.
async fn kill_in_commit(pid: i32) -> Result<(), BoxError> {
    let administrator = administrator().await?;
    loop {
        let row = administrator
            .query_one(
                "select count(*) from pg_stat_activity \
                 where pid = $1 and state = 'active' and query = 'COMMIT'",
                &[&pid],
            )
            .await?;
        if row.get::<_, i64>(0) == 1 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    administrator
        .execute("select pg_terminate_backend($1, 5000)", &[&pid])
        .await?;
    Ok(())
}

/// Waits until somebody says that the network is stalled, by a file.
async fn stalled() {
    let file = std::env::var_os("STALLED").unwrap_or_default();
    while !std::path::Path::new(&file).exists() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
