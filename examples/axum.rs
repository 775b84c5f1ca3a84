//! An axum router, on Lambda or on a plain server.
//!
//! ```sh
//! # create table partners (name text unique)
//! DATABASE_URL=postgres://... cargo run --example axum --features lambda,axum
//! curl -X POST localhost:3000/partners/acme
//! ```

use antifreeze::{Connection, Database, DatabaseLayer, Result, Transaction};
use axum::Router;
use axum::extract::Path;
use axum::http::StatusCode;
use axum::routing::{get, post};

#[tokio::main]
async fn main() -> std::result::Result<(), lambda_http::Error> {
    // On stderr, as JSON if the function is configured so.
    lambda_http::tracing::init_default_subscriber_with_writer(std::io::stderr);
    let database = Database::from_env()?;
    database.warm_up().await?;
    let router = Router::new()
        .route("/partners", get(count))
        .route("/partners/{name}", post(create))
        .layer(DatabaseLayer::new(database));

    if std::env::var_os("AWS_LAMBDA_RUNTIME_API").is_some() {
        return lambda_http::run(router).await;
    }
    let port = std::env::var("PORT").unwrap_or_else(|_| "3000".into());
    let listener = tokio::net::TcpListener::bind(format!("127.0.0.1:{port}")).await?;
    println!("listening on {}", listener.local_addr()?);
    axum::serve(listener, router).await?;
    Ok(())
}

/// A connection for a single statement.
async fn count(connection: Connection) -> Result<String> {
    let row = connection
        .query_one("select count(*) from partners", &[])
        .await?;
    Ok(format!("{}\n", row.get::<_, i64>(0)))
}

/// The request's transaction: begun with the first statement, committed because the
/// response is a success, rolled back if it were none.
async fn create(transaction: Transaction, Path(name): Path<String>) -> Result<StatusCode> {
    let insert = "insert into partners (name) values ($1) on conflict do nothing";
    match transaction.execute(insert, &[&name]).await? {
        1 => Ok(StatusCode::CREATED),
        _ => Ok(StatusCode::CONFLICT),
    }
}
