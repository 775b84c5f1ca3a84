//! sqlx, with its pool: alone, and behind the layer.

use antifreeze::{Database, DatabaseLayer};
use futures_util::StreamExt;
use lambda_runtime::{LambdaEvent, service_fn};
use serde_json::Value;
use sqlx::PgPool;
use sqlx::postgres::PgPoolOptions;
use tokio::sync::oneshot;
use tower::ServiceBuilder;

use crate::ending::{
    BoxError, ENDLESS, Ending, FAILS, INSERT, LOCK, PATIENCE, SLEEP, asked, ended,
};
use crate::stop::StopsWhenReturned;
use crate::variable;

pub async fn serve() -> Result<(), BoxError> {
    let options = PgPoolOptions::new().max_connections(1);
    let pool = options.connect(&variable("DATABASE_URL")).await?;
    let service = service_fn(move |event| {
        let pool = pool.clone();
        async move { handle(event, pool).await }
    });
    lambda_runtime::run(StopsWhenReturned(service)).await
}

/// The same handlers, with the pool at the private socket.
pub async fn serve_behind() -> Result<(), BoxError> {
    let database = Database::from_env()?;
    let options = antifreeze::sqlx_hooks!(PgPoolOptions::new().max_connections(1));
    let pool = options.connect(&database.url()?).await?;
    let service = ServiceBuilder::new()
        .layer(DatabaseLayer::new(database))
        .service_fn(move |event| {
            let pool = pool.clone();
            async move { handle(event, pool).await }
        });
    lambda_runtime::run(StopsWhenReturned(service)).await
}

async fn handle(event: LambdaEvent<Value>, pool: PgPool) -> Result<Value, BoxError> {
    let ending = asked(&event)?;
    match ending {
        Ending::Returns => {
            let mut transaction = pool.begin().await?;
            sqlx::query(INSERT).execute(&mut *transaction).await?;
            transaction.commit().await?;
            ending.is_reached();
        }
        Ending::TransactionDropped => {
            let mut transaction = pool.begin().await?;
            sqlx::query(INSERT).execute(&mut *transaction).await?;
            ending.is_reached();
            return Err("early".into());
        }
        Ending::Panics => {
            let mut transaction = pool.begin().await?;
            sqlx::query(INSERT).execute(&mut *transaction).await?;
            ending.is_reached();
            panic!("as it was asked to");
        }
        Ending::TransactionForgotten => {
            let mut transaction = pool.begin().await?;
            sqlx::query(INSERT).execute(&mut *transaction).await?;
            ending.is_reached();
            std::mem::forget(transaction);
        }
        Ending::BeginByHand => {
            let mut connection = pool.acquire().await?;
            sqlx::query("begin").execute(&mut *connection).await?;
            sqlx::query(INSERT).execute(&mut *connection).await?;
            ending.is_reached();
        }
        Ending::FailedStatement => {
            let mut connection = pool.acquire().await?;
            sqlx::query("begin").execute(&mut *connection).await?;
            sqlx::query(INSERT).execute(&mut *connection).await?;
            let failed = sqlx::query(FAILS).execute(&mut *connection).await;
            if failed.is_err() {
                ending.is_reached();
            }
        }
        Ending::TaskInTransaction => {
            let (begun, beginning) = oneshot::channel();
            tokio::spawn(async move {
                if let Ok(mut transaction) = pool.begin().await
                    && sqlx::query(INSERT).execute(&mut *transaction).await.is_ok()
                {
                    let _ = begun.send(());
                    std::future::pending::<()>().await;
                }
            });
            beginning.await?;
            ending.is_reached();
        }
        Ending::RowsDropped => {
            let mut connection = pool.acquire().await?;
            let mut rows = sqlx::query(ENDLESS).fetch(&mut *connection);
            if rows.next().await.transpose()?.is_some() {
                ending.is_reached();
            }
        }
        Ending::StatementTimedOut => {
            let mut transaction = pool.begin().await?;
            sqlx::query(INSERT).execute(&mut *transaction).await?;
            let slow = sqlx::query(SLEEP).execute(&mut *transaction);
            let slow = tokio::time::timeout(PATIENCE, slow).await;
            if slow.is_err() {
                ending.is_reached();
            }
            slow??;
        }
        Ending::AdvisoryLock => {
            let mut connection = pool.acquire().await?;
            sqlx::query(LOCK).execute(&mut *connection).await?;
            ending.is_reached();
        }
    }
    ended()
}
