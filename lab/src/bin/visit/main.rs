//! A function of which a fleet runs: each request is one visit, stored, and some work of
//! the server's. It does so with antifreeze, or with what a function would use instead.
//!
//! | variable | meaning |
//! | --- | --- |
//! | `DATABASE_URL` | the database, with the table `visits (at timestamptz)` |
//! | `LIBRARY` | one of [`serve`]; antifreeze, if it is not set |
//! | `WARM_UP` | if set: antifreeze connects in the init phase, and closes at the end |
//! | `WORK_MS` | how long the server works on each (default 50) |
//! | `PROBE_AFTER_MS` | `Config::test_after_idle` |
//!
//! `/slow` takes longer than any timeout, `/leave` leaves its transaction open.

mod client;
mod failure;
mod layered;
mod sqlx_pool;
mod work;

use std::time::Duration;

use lambda_http::Error;

/// Anything that can go wrong in a handler.
type BoxError = Box<dyn std::error::Error + Send + Sync>;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    serve(std::env::var("LIBRARY").ok().as_deref()).await
}

async fn serve(library: Option<&str>) -> Result<(), Error> {
    match library {
        None => layered::serve(false).await,
        Some("antifreeze") => layered::serve(true).await,
        Some("sqlx behind antifreeze") => layered::serve_sqlx().await,
        Some("OnceCell") => client::serve_once().await,
        Some("connect") => client::serve_connecting(false).await,
        Some("connect with retry") => client::serve_connecting(true).await,
        Some("deadpool") => client::serve_deadpool().await,
        Some("bb8") => client::serve_bb8().await,
        Some("sqlx") => sqlx_pool::serve().await,
        Some(other) => {
            Err(format!("LIBRARY is {other:?}, which this function does not know").into())
        }
    }
}

fn url() -> Result<String, Error> {
    Ok(std::env::var("DATABASE_URL")?)
}

fn milliseconds(name: &str) -> Option<Duration> {
    let text = std::env::var(name).ok()?;
    text.parse().ok().map(Duration::from_millis)
}
