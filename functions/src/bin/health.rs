//! Says how the server is, and which migrations it still waits for: the library's own health
//! report. To be invoked by hand or by a pipeline, after a deployment and before traffic is
//! let in:
//!
//! ```sh
//! aws lambda invoke --function-name antifreeze-health /dev/stdout
//! ```

use antifreeze::Database;
use antifreeze::health::{Health, Reachability};
use lambda_runtime::{Error, LambdaEvent, service_fn};
use serde_json::Value;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    let database = functions::start()
        .await?
        .expect_migrations(functions::migrations()?);
    lambda_runtime::run(service_fn(move |_: LambdaEvent<Value>| {
        look(database.clone())
    }))
    .await
}

/// An error is the function's: whoever invoked it sees `FunctionError`.
async fn look(database: Database) -> Result<Health, Error> {
    let health = database.health().await;
    match health.database {
        Reachability::Connected => Ok(health),
        _ => Err(format!("the database was not reached: {}", health.database).into()),
    }
}
