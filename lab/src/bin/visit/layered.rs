//! The layer, with its own client and with sqlx at its private socket.

use antifreeze::{Config, Database, DatabaseLayer};
use bytes::Bytes;
use lambda_http::tower::ServiceBuilder;
use lambda_http::{Body, Error, Request, Response};
use sqlx::postgres::PgPoolOptions;

use crate::work::{VISIT, Work, seconds};
use crate::{milliseconds, sqlx_pool};

/// With `typed` as the README does it; without, it prepares its statement first, as the tests
/// that count round trips expect.
pub async fn serve(typed: bool) -> Result<(), Error> {
    let database = database().await?;
    let service = ServiceBuilder::new()
        .layer(DatabaseLayer::new(database))
        .service_fn(move |request: Request| async move {
            let done = if typed {
                work(Work::of(&request)).await
            } else {
                visit().await
            };
            Ok::<_, Error>(match done {
                Ok(visits) => Response::new(Body::Text(visits.to_string())),
                Err(error) => Response::<Bytes>::from(&error).map(|body| Body::Binary(body.into())),
            })
        });
    lambda_http::run(service).await
}

pub async fn serve_sqlx() -> Result<(), Error> {
    let database = database().await?;
    let options = antifreeze::sqlx_hooks!(PgPoolOptions::new().max_connections(1));
    let pool = options.connect_lazy(&database.url()?)?;
    let service = ServiceBuilder::new()
        .layer(DatabaseLayer::new(database))
        .service_fn(move |request| sqlx_pool::handle(pool.clone(), request));
    lambda_http::run(service).await
}

async fn database() -> Result<Database, Error> {
    let mut config = Config::from_env()?;
    if let Some(after) = milliseconds("PROBE_AFTER_MS") {
        config = config.test_after_idle(after);
    }
    let database = Database::new(config)?;
    if std::env::var_os("WARM_UP").is_some() {
        antifreeze::shutdown::on_lambda(&database).await?;
        database.warm_up().await?;
    }
    Ok(database)
}

async fn work(work: Work) -> Result<i64, antifreeze::Error> {
    let connection = antifreeze::connection().await?;
    Ok(work.with(&connection).await?)
}

async fn visit() -> Result<i64, antifreeze::Error> {
    let connection = antifreeze::connection().await?;
    let row = connection.query_one(VISIT, &[&seconds()]).await?;
    Ok(row.get(0))
}
