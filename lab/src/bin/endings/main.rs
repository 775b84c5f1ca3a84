//! A function that ends in every way that a function can end, in every shape that
//! the layer takes. The tests run it, freeze it, and look at the server meanwhile.
//!
//! | variable | meaning |
//! | --- | --- |
//! | `SHAPE` | `lambda_http`, `event`, `axum`, `vercel`, `concurrent`, `streaming`, or `server` for a plain one |
//! | `SHUTDOWN` | if set, connections are closed when the host ends the process |
//! | `PORT` | of a plain server; it says `listening` when it does |
//! | `MAX_CONNECTIONS` | how many connections at most (default 2) |
//! | `LIFETIME` | `per_invocation`, or `per_event_loop` (default) |
//! | `RUNTIME` | `current_thread`, or `multi_thread` (default) |
//! | `DATABASE_URL` | the database |
//! | `ADMINISTRATOR_URL` | the same, for whoever ends sessions |
//! | `STALLED` | a file that is made when the network is stalled |
//! | `MAX_DURATION_MS` | how long a request may take on Vercel |
//! | `SERVER_TIMEOUTS_MS` | the server's own timeouts, where nothing else helps |

mod ending;
mod look;
mod sabotage;
mod shape;
mod stream;
mod task;

use std::time::Duration;

use antifreeze::config::ConnectionLifetime;
use antifreeze::{Config, Database, DatabaseLayer, shutdown};

type BoxError = Box<dyn std::error::Error + Send + Sync>;

fn main() -> Result<(), BoxError> {
    let mut runtime = match variable("RUNTIME").as_str() {
        "current_thread" => tokio::runtime::Builder::new_current_thread(),
        _ => tokio::runtime::Builder::new_multi_thread(),
    };
    runtime.enable_all().build()?.block_on(serve())
}

async fn serve() -> Result<(), BoxError> {
    let mut config = Config::from_env()?
        .application_name("endings")
        .max_connections(variable("MAX_CONNECTIONS").parse().unwrap_or(2));
    if variable("LIFETIME") == "per_invocation" {
        config = config.lifetime(ConnectionLifetime::PerInvocation);
    }
    if let Some(timeout) = milliseconds("SERVER_TIMEOUTS_MS") {
        config = config.idle_in_transaction_timeout(timeout);
        config = config.statement_timeout(timeout);
    }
    let database = Database::new(config)?.on_teardown(|teardown| {
        println!("teardown: {} in {:?}", teardown.outcome, teardown.elapsed);
    });
    database.warm_up().await?;
    let mut layer = DatabaseLayer::new(database.clone());
    if let Some(longest) = milliseconds("MAX_DURATION_MS") {
        layer = layer.max_duration(longest);
    }
    let stops = !variable("SHUTDOWN").is_empty();
    let shape = variable("SHAPE");
    match shape.as_str() {
        "server" => return shape::server(layer, &database).await,
        "vercel" if stops => return shutdown::around(&database, shape::vercel(layer)).await,
        _ if stops => shutdown::on_lambda(&database).await?,
        _ => {}
    }
    match shape.as_str() {
        "concurrent" => shape::concurrent(layer).await,
        "streaming" => shape::streaming(layer).await,
        "event" => shape::event(layer).await,
        "axum" => shape::axum(layer).await,
        "vercel" => shape::vercel(layer).await,
        _ => shape::lambda_http(layer).await,
    }
}

fn variable(name: &str) -> String {
    std::env::var(name).unwrap_or_default()
}

fn milliseconds(name: &str) -> Option<Duration> {
    variable(name).parse().ok().map(Duration::from_millis)
}
