//! A function on Lambda with sqlx's pool.

use antifreeze::{Database, DatabaseLayer};
use lambda_runtime::{Error, LambdaEvent};
use serde_json::{Value, json};
use sqlx::PgPool;
use sqlx::postgres::PgPoolOptions;
use tower::ServiceBuilder;

#[tokio::main]
async fn main() -> Result<(), Error> {
    let database = Database::from_env()?; // DATABASE_URL
    // It connects inside the process; the connections to the server are antifreeze's.
    let pool = antifreeze::sqlx_hooks!(PgPoolOptions::new()).connect_lazy(&database.url()?)?;
    antifreeze::shutdown::on_lambda(&database).await?;
    database.warm_up().await?; // after the URL: for sqlx
    let service = ServiceBuilder::new()
        .layer(DatabaseLayer::new(database))
        .service_fn(move |event: LambdaEvent<Value>| {
            let pool = pool.clone();
            async move { create_partner(&pool, event.payload).await }
        });
    lambda_runtime::run(service).await
}

async fn create_partner(pool: &PgPool, event: Value) -> Result<Value, Error> {
    let name = event["name"].as_str().unwrap_or("acme").to_owned();
    let mut transaction = pool.begin().await?;
    sqlx::query("insert into partners (name) values ($1)")
        .bind(&name)
        .execute(&mut *transaction)
        .await?;
    transaction.commit().await?;
    Ok(json!({ "created": name }))
}
