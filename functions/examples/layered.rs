//! The same with antifreeze, and nothing else of it; the lab's `measure start` compares.

use antifreeze::{Database, DatabaseLayer};
use lambda_http::{Body, Error, Request, Response};
use tower::ServiceBuilder;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    lambda_http::tracing::init_default_subscriber();
    let database = Database::from_env()?;
    database.warm_up().await?;
    let service = ServiceBuilder::new()
        .layer(DatabaseLayer::new(database))
        .service_fn(count);
    lambda_http::run(service).await
}

async fn count(_: Request) -> Result<Response<Body>, Error> {
    let connection = antifreeze::connection().await?;
    let row = connection
        .query_one("select count(*) from partners", &[])
        .await?;
    Ok(Response::new(row.get::<_, i64>(0).to_string().into()))
}
