//! Says whether the database answers, and what of `schema.sql` it lacks. To be invoked
//! by hand or by a pipeline, after a deployment and before traffic is let in:
//!
//! ```sh
//! aws lambda invoke --function-name antifreeze-health /dev/stdout
//! ```

use antifreeze::DatabaseLayer;
use lambda_runtime::{Error, LambdaEvent};
use serde_json::{Value, json};
use tower::ServiceBuilder;

/// What the functions need.
const TABLES: [&str; 2] = ["partners", "reports"];

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    let database = functions::start().await?;
    let service = ServiceBuilder::new()
        .layer(DatabaseLayer::new(database))
        .service_fn(look);
    lambda_runtime::run(service).await
}

/// An error is the function's: whoever invoked it sees `FunctionError`.
async fn look(_: LambdaEvent<Value>) -> Result<Value, Error> {
    let connection = antifreeze::connection().await?;
    let missing = "select name from unnest($1::text[]) as name where to_regclass(name) is null";
    let rows = connection.query(missing, &[&TABLES.as_slice()]).await?;
    let pending: Vec<String> = rows
        .iter()
        .map(|row| row.try_get(0))
        .collect::<Result<_, _>>()?;
    Ok(json!({ "healthy": pending.is_empty(), "pending": pending }))
}
