//! An SQS consumer: a batch in one transaction, or not at all.
//!
//! `Ok` commits the invocation's transaction and `Err` rolls it back, so that the
//! queue delivers the whole batch again.

use antifreeze::{Database, DatabaseLayer};
use aws_lambda_events::sqs::SqsEvent;
use lambda_runtime::{Error, LambdaEvent};
use tower::ServiceBuilder;

#[tokio::main]
async fn main() -> Result<(), Error> {
    let database = Database::from_env()?;
    database.warm_up().await?;
    let service = ServiceBuilder::new()
        .layer(DatabaseLayer::new(database))
        .service_fn(consume);
    lambda_runtime::run(service).await
}

async fn consume(event: LambdaEvent<SqsEvent>) -> Result<(), Error> {
    let transaction = antifreeze::transaction()?.await?;
    for message in event.payload.records {
        let name = message.body.ok_or("a message without a body")?;
        transaction
            .execute("insert into partners (name) values ($1)", &[&name])
            .await?;
    }
    Ok(())
}
