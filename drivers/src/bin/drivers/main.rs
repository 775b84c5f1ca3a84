//! A function that ends in every way that a function can end, with each driver. The tests run
//! it, freeze it, and look at the server meanwhile.
//!
//! | variable | meaning |
//! | --- | --- |
//! | `DRIVER` | the name of a [`Driver`] |
//! | `ALONE` | if set: without antifreeze |
//! | `HOST` | `vercel`, where the ending is the path; or Lambda (default) |
//! | `LIFETIME` | `per_invocation`, or `per_event_loop` (default) |
//! | `RUNTIME` | `current_thread`, or `multi_thread` (default) |
//! | `MAX_CONNECTIONS` | how many connections antifreeze opens at most (default 2) |
//! | `DATABASE_URL` | the database |

mod diesel_async;
mod diesel_sync;
mod sea_orm;
mod source;
mod sqlx;

use std::time::Duration;

use antifreeze::config::ConnectionLifetime;
use antifreeze::{Config, Database, DatabaseLayer};
use drivers::Driver;
use futures_util::FutureExt;
use lambda_runtime::{LambdaEvent, run_concurrent, service_fn};
use serde_json::{Value, json};
use tower::{ServiceBuilder, ServiceExt};

type BoxError = Box<dyn std::error::Error + Send + Sync>;

const INSERT: &str = "insert into t values (1)";
const BEGIN: &str = "begin; insert into t values (1)";
const FAILS: &str = "select 1 / 0";
const SLEEP: &str = "select pg_sleep(600)";
const SAVEPOINTS: &str = "savepoint a; insert into t values (2); savepoint b";
const KILL: &str = "select pg_terminate_backend(pg_backend_pid())";
/// More rows than a handler reads, from the first on without delay.
const ENDLESS: &str = "select repeat('x', 1000) as a from pg_class a, pg_class b, pg_class c";
/// Vercel does not tell it to the process.
const MAX_DURATION: Duration = Duration::from_secs(2);
/// When a statement is given up.
const PATIENCE: Duration = Duration::from_millis(20);

fn main() -> Result<(), BoxError> {
    let mut runtime = match variable("RUNTIME").as_str() {
        "current_thread" => tokio::runtime::Builder::new_current_thread(),
        _ => tokio::runtime::Builder::new_multi_thread(),
    };
    runtime.enable_all().build()?.block_on(serve())
}

async fn serve() -> Result<(), BoxError> {
    let name = variable("DRIVER");
    let driver = Driver::named(&name).ok_or_else(|| format!("there is no driver {name:?}"))?;
    let handler = service_fn(move |event: LambdaEvent<Value>| async move {
        let ending = event.payload["ending"].as_str().unwrap_or_default();
        end(driver, ending).await
    });
    if source::is_alone() {
        return run_concurrent(handler).await;
    }
    let mut config =
        Config::from_env()?.max_connections(variable("MAX_CONNECTIONS").parse().unwrap_or(2));
    if variable("LIFETIME") == "per_invocation" {
        config = config.lifetime(ConnectionLifetime::PerInvocation);
    }
    let database = Database::new(config)?;
    source::set(database.clone());
    let layer = DatabaseLayer::new(database);
    if variable("HOST") == "vercel" {
        return vercel(driver, layer.max_duration(MAX_DURATION)).await;
    }
    let service = ServiceBuilder::new().layer(layer).service(handler);
    run_concurrent(service.map_err(BoxError::from)).await
}

async fn vercel(driver: Driver, layer: DatabaseLayer) -> Result<(), BoxError> {
    // Boxed: the types of all endings are deep.
    let handler = move |request: vercel_runtime::Request| {
        let ending = request.uri().path().trim_start_matches('/').to_owned();
        async move { end(driver, &ending).await }.boxed()
    };
    let service = ServiceBuilder::new()
        .layer(layer)
        .service(vercel_runtime::service_fn(handler));
    vercel_runtime::run(service).await
}

/// Ends as it is told.
async fn end(driver: Driver, ending: &str) -> Result<Value, BoxError> {
    let end = match driver {
        Driver::SqlxPool | Driver::SqlxConnection => sqlx::end(driver, ending).await,
        Driver::SeaOrm => sea_orm::end(ending).await,
        Driver::Diesel => diesel_sync::end(driver, ending),
        Driver::DieselBlocking | Driver::DieselR2d2 => {
            diesel_sync::end_blocking(driver, ending).await
        }
        Driver::DieselAsync | Driver::DieselDeadpool | Driver::DieselBb8 => {
            diesel_async::end(driver, ending).await
        }
    };
    end.inspect_err(|error| println!("the handler failed: {error}"))
}

/// What the next invocation may find of the last one: a boolean column for each.
const LOOK: &str = "select current_setting('work_mem') = '7MB' as a, \
     coalesce(current_setting('app.user', true), '') <> '' as b, \
     exists (select from pg_listening_channels()) as c, \
     exists (select from pg_locks where locktype = 'advisory' and pid = pg_backend_pid()) as d, \
     to_regclass('pg_temp.left_behind') is not null as e, \
     pg_current_xact_id_if_assigned() is not null as f";

/// What [`LOOK`] has found.
fn seen(found: impl IntoIterator<Item = [bool; 6]>) -> Value {
    let names = [
        "work_mem",
        "app.user",
        "listening",
        "advisory lock",
        "temp table",
        "transaction",
    ];
    let seen: Vec<&str> = found
        .into_iter()
        .flat_map(|row| names.into_iter().zip(row))
        .filter_map(|(name, found)| found.then_some(name))
        .collect();
    json!({ "seen": seen })
}

/// The statement that leaves state of the session.
fn state(ending: &str) -> Result<&'static str, BoxError> {
    Ok(match ending {
        "listen" => "listen something",
        "set" => "set work_mem = '7MB'",
        "set_config" => "select set_config('app.user', 'mallory', false)",
        "advisory_lock" => "select pg_advisory_lock(1)",
        "temp_table" => "create temp table left_behind (a int)",
        _ => return Err(format!("there is no ending {ending:?}").into()),
    })
}

fn ended() -> Result<Value, BoxError> {
    Ok(json!("ended"))
}

fn variable(name: &str) -> String {
    std::env::var(name).unwrap_or_default()
}
