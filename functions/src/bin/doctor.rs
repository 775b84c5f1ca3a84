//! Examines the way to the database and the database itself, for one that only the VPC
//! reaches, and answers with what it found and what to do about it. To be invoked by hand.
//!
//! ```sh
//! aws lambda invoke --function-name antifreeze-doctor /dev/stdout
//! ```

use antifreeze_doctor::{Options, Routes, examine};
use lambda_runtime::{Error, LambdaEvent, service_fn, tracing};
use serde_json::{Value, json};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    tracing::init_default_subscriber();
    lambda_runtime::run(service_fn(look)).await
}

async fn look(_: LambdaEvent<Value>) -> Result<Value, Error> {
    let routes = Routes::new(functions::config()?)?;
    let report = examine(&routes, &Options::default(), &mut |_| {}).await;
    Ok(json!({ "verdict": report.verdict(), "checks": report.checks }))
}
