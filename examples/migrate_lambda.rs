//! A Lambda function for deployments: runs what is pending in `migrations/`, and answers
//! with the report, or fails and logs it.
//!
//! Invoke it once for each deployment, before the new code gets traffic. `{"dry_run": true}`
//! says what would be run.

use std::error::Error as _;
use std::time::SystemTime;

use antifreeze::Database;
use antifreeze_migrate::{Migrations, Report};
use lambda_runtime::{Error, LambdaEvent, service_fn};
use serde_json::Value;

#[tokio::main]
async fn main() -> Result<(), Error> {
    lambda_runtime::tracing::init_default_subscriber(); // JSON, if the function logs it
    let database = Database::from_env()?;
    lambda_runtime::run(service_fn(move |event| migrate(database.clone(), event))).await
}

async fn migrate(database: Database, event: LambdaEvent<Value>) -> Result<Report, Error> {
    let left = event.context.deadline().duration_since(SystemTime::now())?;
    let directory = std::env::var("MIGRATIONS").unwrap_or_else(|_| "migrations".to_owned());
    let runner = Migrations::from_dir(directory)?
        .runner(&database)
        .deadline(left);
    let ended = match event.payload["dry_run"].as_bool() {
        Some(true) => runner.dry_run().await,
        _ => runner.run().await,
    };
    if let Err(error) = &ended {
        println!("{}", serde_json::to_string(error.report())?);
        // The server's own words, for whoever reads the log of a deployment.
        let mut source = error.source();
        while let Some(cause) = source {
            // As one line, whatever it quotes.
            println!("{:?}", cause.to_string());
            source = cause.source();
        }
    }
    Ok(ended?)
}
