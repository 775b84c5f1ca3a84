//! The doctor as a Lambda function, for a database that only the VPC reaches: invoke it by
//! hand, and read its JSON.
//!
//! The event may say from when on something is a finding:
//! `{"idle_in_transaction_seconds": 5, "transaction_seconds": 30}`. The function's timeout
//! should be longer than `connect_timeout`.

use std::time::Duration;

use antifreeze::Config;
use antifreeze_doctor::{Options, Routes, examine};
use lambda_runtime::{Error, LambdaEvent, service_fn};
use serde_json::{Value, json};

#[tokio::main]
async fn main() -> Result<(), Error> {
    lambda_runtime::tracing::init_default_subscriber(); // JSON, if the function logs it
    lambda_runtime::run(service_fn(handler)).await
}

async fn handler(event: LambdaEvent<Value>) -> Result<Value, Error> {
    let mut options = Options::default();
    let seconds = |name: &str| event.payload[name].as_u64().map(Duration::from_secs);
    if let Some(limit) = seconds("idle_in_transaction_seconds") {
        options.idle_in_transaction = limit;
    }
    if let Some(limit) = seconds("transaction_seconds") {
        options.transaction = limit;
    }
    let routes = Routes::new(Config::from_env()?)?;
    let report = examine(&routes, &options, &mut |_| {}).await;
    Ok(json!({ "verdict": report.verdict(), "checks": report.checks }))
}
