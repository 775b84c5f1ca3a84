//! tokio-postgres, with one client for the process and its connection on a task.

use std::sync::Arc;

use lambda_runtime::{LambdaEvent, service_fn};
use serde_json::Value;
use tokio::sync::{Mutex, OwnedMutexGuard};
use tokio_postgres::{Client, NoTls};

use crate::ending::BoxError;
use crate::stop::StopsWhenReturned;
use crate::variable;

pub async fn serve() -> Result<(), BoxError> {
    let (client, connection) = tokio_postgres::connect(&variable("DATABASE_URL"), NoTls).await?;
    tokio::spawn(connection);
    let client = Arc::new(Mutex::new(client));
    let service = service_fn(move |event| {
        let client = Arc::clone(&client);
        async move { handle(event, client.lock_owned().await).await }
    });
    lambda_runtime::run(StopsWhenReturned(service)).await
}

async fn handle(
    event: LambdaEvent<Value>,
    client: OwnedMutexGuard<Client>,
) -> Result<Value, BoxError> {
    end_with_tokio_postgres!(event, client)
}
