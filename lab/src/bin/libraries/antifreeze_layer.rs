//! The layer, for comparison.

use antifreeze::{Database, DatabaseLayer, connection};
use lambda_runtime::LambdaEvent;
use serde_json::Value;
use tower::ServiceBuilder;

use crate::ending::BoxError;
use crate::stop::StopsWhenReturned;

pub async fn serve() -> Result<(), BoxError> {
    let database = Database::from_env()?;
    database.warm_up().await?;
    let service = ServiceBuilder::new()
        .layer(DatabaseLayer::new(database))
        .service_fn(handle);
    lambda_runtime::run(StopsWhenReturned(service)).await
}

async fn handle(event: LambdaEvent<Value>) -> Result<Value, BoxError> {
    let client = connection().await?;
    end_with_tokio_postgres!(event, client)
}
