//! deadpool-postgres, with its default recycling.

use deadpool_postgres::{Manager, Object, Pool};
use lambda_runtime::{LambdaEvent, service_fn};
use serde_json::Value;
use tokio_postgres::NoTls;

use crate::ending::BoxError;
use crate::stop::StopsWhenReturned;
use crate::variable;

pub async fn serve() -> Result<(), BoxError> {
    let manager = Manager::new(variable("DATABASE_URL").parse()?, NoTls);
    let pool = Pool::builder(manager).max_size(1).build()?;
    let service = service_fn(move |event| {
        let pool = pool.clone();
        async move { handle(event, pool.get().await?).await }
    });
    lambda_runtime::run(StopsWhenReturned(service)).await
}

async fn handle(event: LambdaEvent<Value>, client: Object) -> Result<Value, BoxError> {
    end_with_tokio_postgres!(event, client)
}
