//! GET counts the partners, POST stores the one that the body names.

use antifreeze::{Database, DatabaseLayer};
use lambda_http::{Body, Error, Request, Response, tracing};
use serde_json::{Value, json};
use sqlx::postgres::{PgPool, PgPoolOptions};

#[tokio::main]
async fn main() -> Result<(), Error> {
    // Writes the log, as JSON where the function is configured so (`LogFormat` in the template).
    tracing::init_default_subscriber();
    let database = Database::from_env()?; // DATABASE_URL
    // It connects inside the process; the connections to the server are antifreeze's.
    let pool = antifreeze::sqlx_hooks!(PgPoolOptions::new()).connect_lazy(&database.url()?)?;
    // They are closed when Lambda ends the process.
    antifreeze::shutdown::on_lambda(&database).await?;
    database.warm_up().await?; // after the URL: for sqlx
    let service = tower::ServiceBuilder::new()
        .layer(DatabaseLayer::new(database))
        .service_fn(move |request| {
            let pool = pool.clone();
            async move { answer(&pool, request).await }
        });
    lambda_http::run(service).await
}

async fn answer(pool: &PgPool, request: Request) -> Result<Response<Body>, Error> {
    let answered = match request.method().as_str() {
        "GET" => count(pool).await,
        "POST" => create(pool, std::str::from_utf8(request.body())?).await,
        _ => return Ok(Response::builder().status(405).body(Body::Empty)?),
    };
    let answered = match answered {
        Ok(said) => Response::builder()
            .header("content-type", "application/json")
            .body(said.to_string().into()),
        // A name that is there already.
        Err(sqlx::Error::Database(error)) if error.is_unique_violation() => {
            Response::builder().status(409).body(Body::Empty)
        }
        Err(error) => {
            tracing::error!(%error, "the database");
            Response::builder().status(500).body(Body::Empty)
        }
    };
    Ok(answered?)
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
