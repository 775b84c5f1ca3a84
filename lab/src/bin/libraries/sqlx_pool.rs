//! sqlx, with its pool.

use futures_util::StreamExt;
use lambda_runtime::{LambdaEvent, service_fn};
use serde_json::Value;
use sqlx::PgPool;
use sqlx::postgres::PgPoolOptions;
use tokio::sync::oneshot;

use crate::stop::StopsWhenReturned;
use crate::{BoxError, ENDLESS, Ending, INSERT, PATIENCE, SLEEP, asked, ended, variable};

pub async fn serve() -> Result<(), BoxError> {
    let options = PgPoolOptions::new().max_connections(1);
    let pool = options.connect(&variable("DATABASE_URL")).await?;
    let service = service_fn(move |event| {
        let pool = pool.clone();
        async move { handle(event, pool).await }
    });
    lambda_runtime::run(StopsWhenReturned(service)).await
}

async fn handle(event: LambdaEvent<Value>, pool: PgPool) -> Result<Value, BoxError> {
    match asked(&event)? {
        Ending::Returns => {
            let mut transaction = pool.begin().await?;
            sqlx::query(INSERT).execute(&mut *transaction).await?;
            transaction.commit().await?;
        }
        Ending::TransactionDropped => {
            let mut transaction = pool.begin().await?;
            sqlx::query(INSERT).execute(&mut *transaction).await?;
            return Err("early".into());
        }
        Ending::BeginByHand => {
            let mut connection = pool.acquire().await?;
            sqlx::query("begin").execute(&mut *connection).await?;
            sqlx::query(INSERT).execute(&mut *connection).await?;
        }
        Ending::TaskInTransaction => {
            let (begun, beginning) = oneshot::channel();
            tokio::spawn(async move {
                if let Ok(mut transaction) = pool.begin().await {
                    let _ = sqlx::query(INSERT).execute(&mut *transaction).await;
                    let _ = begun.send(());
                    std::future::pending::<()>().await;
                }
            });
            beginning.await?;
        }
        Ending::RowsDropped => {
            let mut connection = pool.acquire().await?;
            let mut rows = sqlx::query(ENDLESS).fetch(&mut *connection);
            rows.next().await.transpose()?;
        }
        Ending::StatementTimedOut => {
            let mut transaction = pool.begin().await?;
            sqlx::query(INSERT).execute(&mut *transaction).await?;
            let slow = sqlx::query(SLEEP).execute(&mut *transaction);
            tokio::time::timeout(PATIENCE, slow).await??;
        }
    }
    ended()
}
