//! The handlers of the table, one for each row.

use std::mem::forget;
use std::pin::pin;
use std::time::Duration;

use antifreeze::connection;
use bytes::Bytes;
use futures_util::{FutureExt, SinkExt, StreamExt};
use tokio::time::timeout;

use crate::common::BoxError;

type Result = std::result::Result<(), BoxError>;

const INSERT: &str = "insert into t values (1)";
const SLEEP: &str = "select pg_sleep(60)";

/// More rows than any test reads.
const ENDLESS: &str = "select repeat('x', 1000) from pg_class a, pg_class b, pg_class c";

pub async fn committed() -> Result {
    connection().await?.execute(INSERT, &[]).await?;
    Ok(())
}

/// tokio-postgres queues a ROLLBACK, which is sent and waited for.
pub async fn early_return() -> Result {
    let mut connection = connection().await?;
    let transaction = connection.transaction().await?;
    transaction.execute(INSERT, &[]).await?;
    transaction
        .query_one("select no_such_function()", &[])
        .await?;
    transaction.commit().await?;
    Ok(())
}

pub async fn transaction_forgotten() -> Result {
    let mut connection = connection().await?;
    let transaction = connection.transaction().await?;
    transaction.execute(INSERT, &[]).await?;
    forget(transaction);
    Ok(())
}

pub async fn begin_by_hand() -> Result {
    let begin = format!("begin; {INSERT}");
    connection().await?.batch_execute(&begin).await?;
    Ok(())
}

pub async fn savepoint_forgotten() -> Result {
    let mut connection = connection().await?;
    let mut transaction = connection.transaction().await?;
    let savepoint = transaction.savepoint("here").await?;
    savepoint.execute(INSERT, &[]).await?;
    forget(savepoint);
    forget(transaction);
    Ok(())
}

pub async fn failed_statement() -> Result {
    let connection = connection().await?;
    connection.batch_execute("begin").await?;
    assert!(connection.batch_execute("select 1 / 0").await.is_err());
    Ok(())
}

/// The server answers ROLLBACK, and tokio-postgres says nothing of it.
pub async fn commit_of_an_aborted() -> Result {
    let mut connection = connection().await?;
    let transaction = connection.transaction().await?;
    transaction.execute(INSERT, &[]).await?;
    assert!(transaction.batch_execute("select 1 / 0").await.is_err());
    transaction.commit().await?;
    Ok(())
}

pub async fn panic() -> Result {
    let mut connection = connection().await?;
    let transaction = connection.transaction().await?;
    transaction.execute(INSERT, &[]).await?;
    assert!(transaction.client().is_closed(), "as it must");
    Ok(())
}

pub async fn deadline_in_a_statement() -> Result {
    let mut connection = connection().await?;
    let transaction = connection.transaction().await?;
    transaction.execute(INSERT, &[]).await?;
    transaction.execute(SLEEP, &[]).await?;
    Ok(())
}

pub async fn deadline_between_statements() -> Result {
    let mut connection = connection().await?;
    let transaction = connection.transaction().await?;
    transaction.execute(INSERT, &[]).await?;
    std::future::pending::<()>().await;
    Ok(())
}

pub async fn statement_dropped() -> Result {
    let connection = connection().await?;
    let text = format!("begin; {SLEEP}");
    let slow = connection.batch_execute(&text);
    assert!(timeout(Duration::from_millis(20), slow).await.is_err());
    Ok(())
}

/// Polled once: the request is queued, and its answer is not awaited.
pub async fn begin_dropped() -> Result {
    let mut connection = connection().await?;
    let begin = connection.build_transaction().start();
    assert!(begin.now_or_never().is_none());
    Ok(())
}

pub async fn begin_text_dropped() -> Result {
    let connection = connection().await?;
    assert!(connection.batch_execute("begin").now_or_never().is_none());
    Ok(())
}

pub async fn copy_in_dropped() -> Result {
    let connection = connection().await?;
    let mut sink = pin!(connection.copy_in("copy t from stdin").await?);
    sink.send(Bytes::from_static(b"1\n")).await?;
    Ok(())
}

/// The COPY is never ended.
pub async fn copy_in_kept() -> Result {
    let connection = connection().await?;
    forget(connection.copy_in::<_, Bytes>("copy t from stdin").await?);
    Ok(())
}

/// tokio-postgres cannot even begin to end it.
pub async fn copy_in_by_simple_protocol() -> Result {
    let connection = connection().await?;
    assert!(connection.batch_execute("copy t from stdin").await.is_err());
    Ok(())
}

pub async fn copy_in_of_bad_data() -> Result {
    let connection = connection().await?;
    let statement = connection.prepare("copy t from stdin").await?;
    let mut sink = pin!(connection.copy_in(&statement).await?);
    sink.send(Bytes::from_static(b"no number\n")).await?;
    assert!(sink.finish().await.is_err());
    Ok(())
}

/// It fails once it has begun, before the server reads anything. A statement is sent behind it.
pub async fn copy_in_refused_by_a_trigger() -> Result {
    const REFUSED: &str = "create table refused (a int); \
        create function refuse() returns trigger language plpgsql as \
        $$ begin perform pg_sleep(0.2); raise exception 'refused'; end $$; \
        create trigger refuses before insert on refused execute function refuse()";
    let connection = connection().await?;
    connection.batch_execute(REFUSED).await?;
    let mut sink = pin!(connection.copy_in("copy refused from stdin").await?);
    let copy = async {
        sink.send(Bytes::from_static(b"1\n")).await?;
        sink.finish().await
    };
    let behind = connection.batch_execute("begin");
    let (copied, begun) = tokio::join!(copy, behind);
    assert!(copied.is_err());
    begun?;
    Ok(())
}

/// tokio-postgres sends an unneeded CopyFail, does not expect the answer to it, and abandons
/// the connection.
pub async fn copy_in_to_no_table() -> Result {
    let connection = connection().await?;
    let copy = connection.copy_in::<_, Bytes>("copy no_table from stdin");
    assert!(copy.await.is_err());
    // Only then has it been abandoned.
    assert!(connection.batch_execute("select 1").await.is_err());
    Ok(())
}

pub async fn copy_out_dropped() -> Result {
    let connection = connection().await?;
    let copy = format!("copy ({ENDLESS}) to stdout");
    let mut stream = pin!(connection.copy_out(&copy).await?);
    assert!(stream.next().await.is_some_and(|chunk| chunk.is_ok()));
    Ok(())
}

pub async fn copy_out_kept() -> Result {
    let connection = connection().await?;
    let copy = format!("copy ({ENDLESS}) to stdout");
    let mut stream = Box::pin(connection.copy_out(&copy).await?);
    assert!(stream.next().await.is_some_and(|chunk| chunk.is_ok()));
    forget(stream);
    Ok(())
}

pub async fn rows_dropped() -> Result {
    let connection = connection().await?;
    let none = std::iter::empty::<i32>();
    let mut rows = pin!(connection.query_raw(ENDLESS, none).await?);
    assert!(rows.next().await.is_some_and(|row| row.is_ok()));
    Ok(())
}

pub async fn rows_kept() -> Result {
    let connection = connection().await?;
    let none = std::iter::empty::<i32>();
    let mut rows = Box::pin(connection.query_raw(ENDLESS, none).await?);
    assert!(rows.next().await.is_some_and(|row| row.is_ok()));
    forget(rows);
    Ok(())
}
