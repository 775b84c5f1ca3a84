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
        use $crate::ending::{ENDLESS, Ending, FAILS, INSERT, LOCK, PATIENCE, SLEEP};

        let mut client = $client;
        let ending = $crate::ending::asked(&$event)?;
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
                // Prepared before: only the statement itself is given up.
                let slow = transaction.prepare(SLEEP).await?;
                let slow = transaction.execute(&slow, &[]);
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
        $crate::ending::ended()
    }};
}

mod antifreeze_layer;
mod bare;
mod deadpool;
mod ending;
mod sqlx_pool;
mod stop;

use ending::BoxError;

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

fn variable(name: &str) -> String {
    std::env::var(name).unwrap_or_default()
}
