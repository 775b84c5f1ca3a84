//! The same handful of endings with what a user would take instead of the layer: each
//! library as its own documentation shows it.
//!
//! | variable | meaning |
//! | --- | --- |
//! | `LIBRARY` | `tokio-postgres`, `deadpool`, `sqlx`, `antifreeze` or `sqlx behind antifreeze` |
//! | `RUNTIME` | `current_thread`, or `multi_thread` (default) |
//! | `STOP` | if set: the process stops itself when the handler has returned |
//! | `DATABASE_URL` | the database |

/// The endings, for whatever has the methods of tokio-postgres's client.
macro_rules! end_with_tokio_postgres {
    ($event:expr, $client:expr) => {{
        use futures_util::StreamExt;
        use std::{iter::empty, pin::pin};
        use $crate::{ENDLESS, Ending, FAILS, INSERT, LOCK, PATIENCE, SLEEP};

        let mut client = $client;
        let ending = $crate::asked(&$event)?;
        match ending {
            Ending::Returns => {
                let transaction = client.transaction().await?;
                transaction.execute(INSERT, &[]).await?;
                transaction.commit().await?;
                ending.is_reached();
            }
            Ending::TransactionDropped => {
                let transaction = client.transaction().await?;
                transaction.execute(INSERT, &[]).await?;
                ending.is_reached();
                return Err("early".into());
            }
            Ending::Panics => {
                let transaction = client.transaction().await?;
                transaction.execute(INSERT, &[]).await?;
                ending.is_reached();
                panic!("as it was asked to");
            }
            Ending::TransactionForgotten => {
                let transaction = client.transaction().await?;
                transaction.execute(INSERT, &[]).await?;
                ending.is_reached();
                std::mem::forget(transaction);
            }
            Ending::BeginByHand => {
                client.batch_execute("begin").await?;
                client.execute(INSERT, &[]).await?;
                ending.is_reached();
            }
            Ending::FailedStatement => {
                client.batch_execute("begin").await?;
                client.execute(INSERT, &[]).await?;
                if client.batch_execute(FAILS).await.is_err() {
                    ending.is_reached();
                }
            }
            Ending::TaskInTransaction => {
                let (begun, beginning) = tokio::sync::oneshot::channel();
                tokio::spawn(async move {
                    if let Ok(transaction) = client.transaction().await
                        && transaction.execute(INSERT, &[]).await.is_ok()
                    {
                        let _ = begun.send(());
                        std::future::pending::<()>().await;
                    }
                });
                beginning.await?;
                ending.is_reached();
            }
            Ending::RowsDropped => {
                let mut rows = pin!(client.query_raw(ENDLESS, empty::<i32>()).await?);
                if rows.next().await.transpose()?.is_some() {
                    ending.is_reached();
                }
            }
            Ending::StatementTimedOut => {
                let transaction = client.transaction().await?;
                transaction.execute(INSERT, &[]).await?;
                let slow = transaction.execute(SLEEP, &[]);
                let slow = tokio::time::timeout(PATIENCE, slow).await;
                if slow.is_err() {
                    ending.is_reached();
                }
                slow??;
            }
            Ending::AdvisoryLock => {
                client.execute(LOCK, &[]).await?;
                ending.is_reached();
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
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ending {
    /// As it should.
    Returns,
    /// By `?`, with a transaction of the library's open.
    TransactionDropped,
    /// By a panic, inside one.
    Panics,
    /// With one that is never dropped.
    TransactionForgotten,
    /// After a BEGIN of its own.
    BeginByHand,
    /// After a BEGIN of its own and a statement that failed.
    FailedStatement,
    /// With a task that is still inside its transaction.
    TaskInTransaction,
    /// With a large result dropped half-way.
    RowsDropped,
    /// With a statement that it gave up after a timeout.
    StatementTimedOut,
    /// With a lock that belongs to the session.
    AdvisoryLock,
}

impl Ending {
    const ALL: [(Ending, &str); 10] = [
        (Ending::Returns, "returns"),
        (Ending::TransactionDropped, "transaction dropped"),
        (Ending::Panics, "panic in a transaction"),
        (Ending::TransactionForgotten, "transaction forgotten"),
        (Ending::BeginByHand, "BEGIN by hand"),
        (Ending::FailedStatement, "failed statement forgotten"),
        (Ending::TaskInTransaction, "task in its transaction"),
        (Ending::RowsDropped, "result dropped half-way"),
        (Ending::StatementTimedOut, "statement timed out"),
        (Ending::AdvisoryLock, "advisory lock"),
    ];

    /// Says that the handler has come as far as this: a failure before it would look
    /// like a session that nobody left stuck.
    fn is_reached(self) {
        let mut names = Ending::ALL.iter().filter(|(ending, _)| *ending == self);
        println!("reached: {}", names.next().map_or("", |(_, name)| name));
    }
}

const INSERT: &str = "insert into t values (1)";
const FAILS: &str = "select 1 / 0";
const LOCK: &str = "select pg_advisory_lock(1)";
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
        "sqlx behind antifreeze" => sqlx_pool::serve_behind().await,
        _ => bare::serve().await,
    }
}

/// What an event asks for.
fn asked(event: &LambdaEvent<Value>) -> Result<Ending, BoxError> {
    let asked = event.payload["ending"].as_str().unwrap_or_default();
    let mut endings = Ending::ALL.iter().filter(|(_, name)| *name == asked);
    let ending = endings.next().map(|(ending, _)| *ending);
    ending.ok_or_else(|| format!("there is no ending {asked:?}").into())
}

fn ended() -> Result<Value, BoxError> {
    Ok(json!("ended"))
}

fn variable(name: &str) -> String {
    std::env::var(name).unwrap_or_default()
}
