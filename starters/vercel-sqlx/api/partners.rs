//! `/api/partners`: GET counts the partners, POST stores the one that the body names.

use std::time::Duration;

use antifreeze::{Database, DatabaseLayer, shutdown};
use http_body_util::{BodyExt, Limited};
use serde_json::{Value, json};
use sqlx::postgres::{PgPool, PgPoolOptions};
use tower::Layer;
use vercel_runtime::{Error, Request, Response, ResponseBody, run, service_fn};

/// `maxDuration` in vercel.json: Vercel does not tell it to the process.
const MAX_DURATION: Duration = Duration::from_secs(10);

#[tokio::main]
async fn main() -> Result<(), Error> {
    // Vercel keeps what is written as the function's log.
    tracing_subscriber::fmt()
        .with_ansi(false)
        .with_writer(std::io::stderr)
        .init();
    let database = Database::from_env()?; // DATABASE_URL
    // It connects inside the process; the connections to the server are antifreeze's.
    let pool = antifreeze::sqlx_hooks!(PgPoolOptions::new()).connect_lazy(&database.url()?)?;
    database.warm_up().await?; // after the URL: for sqlx
    // At SIGTERM a request that is under way may end.
    let close = database.close().within(MAX_DURATION);
    let layer = DatabaseLayer::new(database).max_duration(MAX_DURATION);
    let service = service_fn(move |request| {
        let pool = pool.clone();
        async move { answer(&pool, request).await }
    });
    shutdown::around(close, run(layer.layer(service))).await
}

async fn answer(pool: &PgPool, request: Request) -> Result<Response<ResponseBody>, Error> {
    let answered = match request.method().as_str() {
        "GET" => count(pool).await,
        "POST" => {
            let body = Limited::new(request.into_body(), 200).collect().await?;
            create(pool, std::str::from_utf8(&body.to_bytes())?).await
        }
        _ => return Ok(Response::builder().status(405).body(().into())?),
    };
    Ok(match answered {
        Ok(said) => Response::builder()
            .header("content-type", "application/json")
            .body(said.into())?,
        // A name that is there already.
        Err(sqlx::Error::Database(error)) if error.is_unique_violation() => {
            Response::builder().status(409).body(().into())?
        }
        Err(error) => {
            tracing::error!(%error, "the database");
            Response::builder().status(500).body(().into())?
        }
    })
}

async fn count(pool: &PgPool) -> sqlx::Result<Value> {
    let count = sqlx::query_scalar("select count(*) from partners");
    let partners: i64 = count.fetch_one(pool).await?;
    Ok(json!({ "partners": partners }))
}

/// In a transaction: one that is not committed is rolled back before the response leaves.
async fn create(pool: &PgPool, name: &str) -> sqlx::Result<Value> {
    let mut transaction = pool.begin().await?;
    let insert = sqlx::query_scalar("insert into partners (name) values ($1) returning id");
    let id: i64 = insert.bind(name).fetch_one(&mut *transaction).await?;
    transaction.commit().await?;
    Ok(json!({ "id": id }))
}
