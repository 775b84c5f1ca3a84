//! An SQS consumer: each record is a transaction of its own, and those that failed are
//! delivered again, without the others (`ReportBatchItemFailures`).
//!
//! For a queue that is not FIFO. There, what follows a failed record has to be reported
//! with it, or it overtakes.

use std::time::Duration;

use antifreeze::DatabaseLayer;
use aws_lambda_events::sqs::{SqsBatchResponse, SqsEvent, SqsMessage};
use lambda_runtime::{Error, LambdaEvent};
use serde::Deserialize;
use tower::ServiceBuilder;

/// With less than this left, no further record is begun, and each that is may take so long.
const ENOUGH: Duration = Duration::from_secs(2);

/// Kept back for the answer. A batch that does not answer in time is delivered again as a
/// whole, and after a few deliveries its records are dead letters, the good ones too.
const ANSWER: Duration = Duration::from_millis(500);

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    let database = functions::start().await?;
    let service = ServiceBuilder::new()
        .layer(DatabaseLayer::new(database))
        .service_fn(consume);
    lambda_runtime::run(service).await
}

async fn consume(event: LambdaEvent<SqsEvent>) -> Result<SqsBatchResponse, Error> {
    let invocation = antifreeze::invocation()?;
    let mut response = SqsBatchResponse::default();
    let records = event.payload.records;
    for (message, to_do) in records.iter().zip((1..=records.len() as u32).rev()) {
        let stored = match share(invocation.remaining(), to_do) {
            Some(time) => in_time(time, store(message)).await,
            None => Err("there is no time left for it".into()),
        };
        if let Err(error) = stored {
            let id = message.message_id.clone().unwrap_or_default();
            tracing::warn!(message = %id, %error, "delivered again later");
            response.add_failure(id);
        }
    }
    Ok(response)
}

/// How long the first of `to_do` records may take: one that waits, as for a lock, takes
/// nothing from the others. `None` if it is not to be begun.
fn share(left: Option<Duration>, to_do: u32) -> Option<Duration> {
    let Some(left) = left else {
        return Some(Duration::MAX);
    };
    let share = (left / to_do).max(ENOUGH).min(left.saturating_sub(ANSWER));
    (left > ENOUGH).then_some(share)
}

/// What is not done in time is dropped: its statement is cancelled, its transaction rolled
/// back.
async fn in_time(
    time: Duration,
    work: impl Future<Output = Result<(), Error>>,
) -> Result<(), Error> {
    let done = tokio::time::timeout(time, work).await;
    done.map_err(|_| format!("it took longer than {time:.1?}"))?
}

#[derive(Deserialize)]
struct Partner {
    name: String,
}

/// What is delivered twice is stored once: SQS promises no less than one delivery, and
/// no more than that.
async fn store(message: &SqsMessage) -> Result<(), Error> {
    let partner: Partner = serde_json::from_str(message.body.as_deref().unwrap_or_default())?;
    // A kept connection, as a rule the same: it costs no round trip, and a record that
    // lost its connection does not take the next one with it.
    let mut connection = antifreeze::connection().await?;
    let transaction = connection.transaction().await?;
    let insert = "insert into partners (name) values ($1) on conflict do nothing";
    transaction.execute(insert, &[&partner.name]).await?;
    transaction.commit().await?;
    Ok(())
}
