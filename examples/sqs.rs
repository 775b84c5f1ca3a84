//! An SQS consumer: each record is a transaction of its own, bounded by its share of the
//! time, and what failed, waited too long or was not begun is delivered again, without the
//! others (`ReportBatchItemFailures` of the event source mapping).
//!
//! A batch in one transaction, with `antifreeze::transaction`, would be stored or delivered
//! again as a whole: one record that waits for a lock then takes all the others with it, and
//! after a few deliveries to the dead letters.

use std::time::Duration;

use antifreeze::{Database, DatabaseLayer};
use aws_lambda_events::sqs::{SqsBatchResponse, SqsEvent};
use lambda_runtime::{Error, LambdaEvent};
use tokio::time::timeout;
use tower::ServiceBuilder;

/// Without so much, no further record is begun.
const ENOUGH: Duration = Duration::from_secs(1);

/// Kept back for the answer.
const ANSWER: Duration = Duration::from_millis(500);

#[tokio::main]
async fn main() -> Result<(), Error> {
    lambda_runtime::tracing::init_default_subscriber(); // JSON, if the function logs it
    let database = Database::from_env()?;
    database.warm_up().await?;
    let service = ServiceBuilder::new()
        .layer(DatabaseLayer::new(database))
        .service_fn(consume);
    lambda_runtime::run(service).await
}

async fn consume(event: LambdaEvent<SqsEvent>) -> Result<SqsBatchResponse, Error> {
    let invocation = antifreeze::invocation()?;
    let mut response = SqsBatchResponse::default();
    let mut to_do = event.payload.records.len() as u32;
    for message in event.payload.records {
        let left = invocation.remaining().unwrap_or(Duration::MAX);
        let share = (left / to_do).max(ENOUGH).min(left.saturating_sub(ANSWER));
        to_do -= 1;
        let name = message.body.unwrap_or_default();
        let stored = match left > ENOUGH {
            true => timeout(share, store(&name)).await.map_err(Error::from),
            false => Err("there is no time left for it".into()),
        };
        if let Err(error) = stored.and_then(|stored| Ok(stored?)) {
            let id = message.message_id.unwrap_or_default();
            lambda_runtime::tracing::warn!(message = %id, %error, "delivered again later");
            response.add_failure(id);
        }
    }
    Ok(response)
}

/// What is delivered twice is stored once.
async fn store(name: &str) -> antifreeze::Result<()> {
    let mut connection = antifreeze::connection().await?;
    let transaction = connection.transaction().await?;
    let insert = "insert into partners (name) values ($1) on conflict do nothing";
    transaction.execute(insert, &[&name]).await?;
    transaction.commit().await?;
    Ok(())
}
