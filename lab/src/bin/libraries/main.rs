//! The same handful of endings with what a user would take instead of the layer: each
//! library as its own documentation shows it.
//!
//! | variable | meaning |
//! | --- | --- |
//! | `LIBRARY` | `tokio-postgres`, `deadpool`, `sqlx` or `antifreeze` |
//! | `RUNTIME` | `current_thread`, or `multi_thread` (default) |
//! | `STOP` | if set: the process stops itself when the handler has returned |
//! | `DATABASE_URL` | the database |

/// The endings, for whatever has the methods of tokio-postgres's client.
macro_rules! end_with_tokio_postgres {
    ($event:expr, $client:expr) => {{
        use futures_util::StreamExt;
        use std::{iter::empty, pin::pin};
        use $crate::{ENDLESS, Ending, INSERT, PATIENCE, SLEEP};

        let mut client = $client;
        match $crate::asked(&$event)? {
            Ending::Returns => {
                let transaction = client.transaction().await?;
                transaction.execute(INSERT, &[]).await?;
                transaction.commit().await?;
            }
            Ending::TransactionDropped => {
                let transaction = client.transaction().await?;
                transaction.execute(INSERT, &[]).await?;
                return Err("early".into());
            }
            Ending::BeginByHand => {
                client.batch_execute("begin").await?;
                client.execute(INSERT, &[]).await?;
            }
            Ending::TaskInTransaction => {
                let (begun, beginning) = tokio::sync::oneshot::channel();
                tokio::spawn(async move {
                    if let Ok(transaction) = client.transaction().await {
                        let _ = transaction.execute(INSERT, &[]).await;
                        let _ = begun.send(());
                        std::future::pending::<()>().await;
                    }
                });
                beginning.await?;
            }
            Ending::RowsDropped => {
                let mut rows = pin!(client.query_raw(ENDLESS, empty::<i32>()).await?);
                rows.next().await.transpose()?;
            }
            Ending::StatementTimedOut => {
                let transaction = client.transaction().await?;
                transaction.execute(INSERT, &[]).await?;
                let slow = transaction.execute(SLEEP, &[]);
                tokio::time::timeout(PATIENCE, slow).await??;
            }
        }
        $crate::ended()
    }};
}

mod antifreeze_layer;
mod bare;
mod deadpool;
mod sqlx_pool;
mod stop;

use std::time::Duration;

use lambda_runtime::LambdaEvent;
use serde_json::{Value, json};

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// How a handler ends.
#[derive(Clone, Copy)]
enum Ending {
    /// As it should.
    Returns,
    /// By `?`, with a transaction of the library's open.
    TransactionDropped,
    /// After a BEGIN of its own.
    BeginByHand,
    /// With a task that is still inside its transaction.
    TaskInTransaction,
    /// With a large result dropped half-way.
    RowsDropped,
    /// With a statement that it gave up after a time-out.
    StatementTimedOut,
}

const INSERT: &str = "insert into t values (1)";
const SLEEP: &str = "select pg_sleep(600)";
const ENDLESS: &str = "select repeat('x', 1000) \
                       from pg_class a, pg_class b, pg_class c left join t on true";

/// When a statement is given up.
const PATIENCE: Duration = Duration::from_millis(20);

fn main() -> Result<(), BoxError> {
    let mut runtime = match variable("RUNTIME").as_str() {
        "current_thread" => tokio::runtime::Builder::new_current_thread(),
        _ => tokio::runtime::Builder::new_multi_thread(),
    };
    runtime.enable_all().build()?.block_on(serve())
}

async fn serve() -> Result<(), BoxError> {
    match variable("LIBRARY").as_str() {
        "antifreeze" => antifreeze_layer::serve().await,
        "deadpool" => deadpool::serve().await,
        "sqlx" => sqlx_pool::serve().await,
        _ => bare::serve().await,
    }
}

/// What an event asks for.
fn asked(event: &LambdaEvent<Value>) -> Result<Ending, BoxError> {
    Ok(match event.payload["ending"].as_str().unwrap_or_default() {
        "returns" => Ending::Returns,
        "transaction dropped" => Ending::TransactionDropped,
        "BEGIN by hand" => Ending::BeginByHand,
        "task in its transaction" => Ending::TaskInTransaction,
        "result dropped half-way" => Ending::RowsDropped,
        "statement timed out" => Ending::StatementTimedOut,
        other => return Err(format!("there is no ending {other:?}").into()),
    })
}

fn ended() -> Result<Value, BoxError> {
    Ok(json!("ended"))
}

fn variable(name: &str) -> String {
    std::env::var(name).unwrap_or_default()
}
