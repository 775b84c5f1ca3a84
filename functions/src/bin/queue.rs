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

/// With less than this left, no further record is begun. A batch that does not answer in
/// time is delivered again as a whole.
const ENOUGH: Duration = Duration::from_secs(2);

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
    for message in event.payload.records {
        let in_time = invocation.remaining().is_none_or(|left| left > ENOUGH);
        let stored = match in_time {
            true => store(&message).await,
            false => Err("there is no time left for it".into()),
        };
        if let Err(error) = stored {
            let id = message.message_id.unwrap_or_default();
            tracing::warn!(message = %id, %error, "delivered again later");
            response.add_failure(id);
        }
    }
    Ok(response)
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
