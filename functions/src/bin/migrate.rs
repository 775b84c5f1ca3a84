//! Runs what is pending of `migrations`, under a lock and timeouts, and answers with the
//! report. To be invoked once for each deployment, before the new code gets traffic; it says
//! what it would run if the event is `{"dry_run": true}`.
//!
//! ```sh
//! aws lambda invoke --function-name antifreeze-migrate /dev/stdout
//! ```

use std::error::Error as _;
use std::time::SystemTime;

use antifreeze::Database;
use antifreeze_migrate::Report;
use lambda_runtime::{Error, LambdaEvent, service_fn, tracing};
use serde_json::Value;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    tracing::init_default_subscriber();
    let database = Database::new(functions::config()?)?;
    lambda_runtime::run(service_fn(move |event| migrate(database.clone(), event))).await
}

/// An error is the function's: whoever invoked it sees `FunctionError`, and the log has the
/// report and the server's own words.
async fn migrate(database: Database, event: LambdaEvent<Value>) -> Result<Report, Error> {
    let left = event.context.deadline().duration_since(SystemTime::now())?;
    let runner = functions::migrations()?
        .runner(&database)
        .deadline(left)
        .on_event(|event| tracing::info!("{event}"));
    let ended = match event.payload["dry_run"].as_bool() {
        Some(true) => runner.dry_run().await,
        _ => runner.run().await,
    };
    if let Err(error) = &ended {
        tracing::error!("{}", serde_json::to_string(error.report())?);
        let mut source = error.source();
        while let Some(cause) = source {
            tracing::error!("{cause}");
            source = cause.source();
        }
    }
    Ok(ended?)
}
