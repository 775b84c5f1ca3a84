//! The endings.

use std::future::{Future, pending};
use std::iter::empty;
use std::ops::Deref;
use std::pin::pin;
use std::time::Duration;

use futures_util::StreamExt;
use tokio::sync::oneshot;
use tokio_postgres::{Client, Transaction};

pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// The names of the endings, and what the handler does then, in at most 26 letters.
pub const ENDINGS: [(&str, &str); 12] = [
    ("returns", "commits and returns"),
    ("dropped", "drops its transaction"),
    ("forgotten", "leaks its transaction"),
    ("begin", "forgets its own BEGIN"),
    ("failed", "the same, after an error"),
    ("task", "a task keeps a transaction"),
    ("rows", "drops rows half-way"),
    ("timeout", "gives a statement up"),
    ("panic", "panics in its transaction"),
    ("slow", "is slower than its timeout"),
    ("advisory", "keeps an advisory lock"),
    ("state", "keeps a temporary table"),
];

/// What the handler needs of a connection: the layer's, or a bare client.
pub trait Connection: Deref<Target = Client> + Send + 'static {
    fn transaction(
        &mut self,
    ) -> impl Future<Output = Result<Transaction<'_>, tokio_postgres::Error>> + Send;
}

impl Connection for antifreeze::Connection {
    async fn transaction(&mut self) -> Result<Transaction<'_>, tokio_postgres::Error> {
        self.transaction().await
    }
}

/// When the handler gives a statement up.
const PATIENCE: Duration = Duration::from_millis(100);

/// Ends as `ending` says. Each statement that may be the last of a session has the tag in a
/// comment, by which the session is found from outside. The row that each ending inserts first
/// moves the sequence of the table, also if it is rolled back.
pub async fn end(ending: &str, tag: u64, mut connection: impl Connection) -> Result<(), BoxError> {
    let comment = format!("/* antifreeze prove {tag:016x} */");
    let insert = format!("insert into antifreeze_prove default values {comment}");
    // Ends by itself, should nothing end it before.
    let sleep = format!("select pg_sleep(120) {comment}");
    let begin = format!("begin; {insert}");
    match ending {
        "returns" => {
            let transaction = connection.transaction().await?;
            transaction.batch_execute(&insert).await?;
            transaction.commit().await?;
        }
        "dropped" => {
            let transaction = connection.transaction().await?;
            transaction.batch_execute(&insert).await?;
        }
        "forgotten" => {
            let transaction = connection.transaction().await?;
            transaction.batch_execute(&insert).await?;
            std::mem::forget(transaction);
        }
        "begin" => connection.batch_execute(&begin).await?,
        "failed" => {
            connection.batch_execute(&begin).await?;
            let fails = format!("select 1 / 0 {comment}");
            if connection.batch_execute(&fails).await.is_ok() {
                return Err("the statement did not fail".into());
            }
        }
        "task" => {
            let (begun, beginning) = oneshot::channel();
            tokio::spawn(async move {
                let _ = begun.send(connection.batch_execute(&begin).await);
                pending::<()>().await;
                drop(connection);
            });
            beginning.await??;
        }
        "rows" => {
            connection.batch_execute(&insert).await?;
            let endless = format!(
                "select repeat('x', 1000) from pg_class a, pg_class b, pg_class c \
                 left join antifreeze_prove on true {comment}"
            );
            let rows = connection.query_raw(&endless, empty::<i32>()).await?;
            pin!(rows).next().await.transpose()?;
        }
        "timeout" => {
            connection.batch_execute(&begin).await?;
            let slow = connection.batch_execute(&sleep);
            if tokio::time::timeout(PATIENCE, slow).await.is_ok() {
                return Err("the statement did not take long".into());
            }
        }
        "panic" => {
            let transaction = connection.transaction().await?;
            transaction.batch_execute(&insert).await?;
            panic!("as it was asked to");
        }
        "slow" => {
            let transaction = connection.transaction().await?;
            transaction.batch_execute(&insert).await?;
            // The server may end it first, by its own timeout.
            let _ = transaction.batch_execute(&sleep).await;
        }
        "advisory" => {
            let lock = format!(
                "{insert}; select pg_advisory_lock({}) {comment}",
                tag as i64
            );
            connection.batch_execute(&lock).await?;
        }
        "state" => {
            let table = format!("{insert}; create temp table antifreeze_prove_left () {comment}");
            connection.batch_execute(&table).await?;
        }
        _ => return Err(format!("there is no ending {ending:?}").into()),
    }
    Ok(())
}
