//! A scheduled event: counts the day's partners.
//!
//! EventBridge may deliver an event twice, and tries one that failed again: a report
//! belongs to the day that the event names, not to the day on which it is written.

use antifreeze::DatabaseLayer;
use aws_lambda_events::eventbridge::EventBridgeEvent;
use lambda_runtime::{Error, LambdaEvent};
use serde_json::{Value, json};
use tower::ServiceBuilder;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    let database = functions::start().await?;
    let service = ServiceBuilder::new()
        .layer(DatabaseLayer::new(database))
        .service_fn(report);
    lambda_runtime::run(service).await
}

/// `Ok` commits the invocation's transaction, `Err` rolls it back.
async fn report(event: LambdaEvent<EventBridgeEvent>) -> Result<Value, Error> {
    let time = event.payload.time.map(|time| time.to_rfc3339());
    let transaction = antifreeze::transaction().await?;
    let report = "insert into reports (day, partners) \
         select (coalesce($1::text::timestamptz, now()) at time zone 'UTC')::date, count(*) from partners \
         on conflict (day) do update set partners = excluded.partners \
         returning day::text, partners";
    let row = transaction.query_one(report, &[&time]).await?;
    let (day, partners): (String, i64) = (row.try_get(0)?, row.try_get(1)?);
    tracing::info!(day, partners, "reported");
    Ok(json!({ "day": day, "partners": partners }))
}
