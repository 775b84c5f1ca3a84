//! A function of which a fleet runs: each request is one visit, stored, and some work of
//! the server's.
//!
//! | variable | meaning |
//! | --- | --- |
//! | `DATABASE_URL` | the database, with the table `visits (at timestamptz)` |
//! | `WORK_MS` | how long the server works on each (default 50) |
//! | `PROBE_AFTER_MS` | `Config::test_after_idle` |

use std::time::Duration;

use antifreeze::{Config, Database, DatabaseLayer};
use bytes::Bytes;
use lambda_http::{Body, Error, Request, Response, tower::ServiceBuilder};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    let mut config = Config::from_env()?;
    if let Some(after) = milliseconds("PROBE_AFTER_MS") {
        config = config.test_after_idle(after);
    }
    let layer = DatabaseLayer::new(Database::new(config)?);
    let service = ServiceBuilder::new().layer(layer).service_fn(visit);
    lambda_http::run(service).await
}

async fn visit(_: Request) -> Result<Response<Body>, Error> {
    Ok(match store().await {
        Ok(visits) => Response::new(Body::Text(visits.to_string())),
        Err(error) => Response::<Bytes>::from(&error).map(|body| Body::Binary(body.into())),
    })
}

async fn store() -> Result<i64, antifreeze::Error> {
    let work = milliseconds("WORK_MS").unwrap_or(Duration::from_millis(50));
    let connection = antifreeze::connection().await?;
    let sql = "with stored as (insert into visits values (now()) returning at) \
               select count(at) from stored, pg_sleep($1)";
    let row = connection.query_one(sql, &[&work.as_secs_f64()]).await?;
    Ok(row.get(0))
}

fn milliseconds(name: &str) -> Option<Duration> {
    let text = std::env::var(name).ok()?;
    text.parse().ok().map(Duration::from_millis)
}
