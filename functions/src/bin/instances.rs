//! An HTTP API for Lambda Managed Instances: one process answers several requests at
//! once, as many as `AWS_LAMBDA_MAX_CONCURRENCY` says. On plain Lambda it answers one
//! after the other, as the others do.
//!
//! What is different: `run_concurrent`, and several threads. Each request is still an
//! invocation of its own, with connections of its own.

use antifreeze::{DatabaseLayer, Error};
use lambda_http::{Body, Request, Response};
use serde_json::json;
use tower::ServiceBuilder;

#[tokio::main]
async fn main() -> Result<(), lambda_http::Error> {
    let database = functions::start().await?;
    let service = ServiceBuilder::new()
        .layer(DatabaseLayer::new(database))
        .service_fn(handle);
    lambda_http::run_concurrent(service).await
}

async fn handle(_: Request) -> Result<Response<Body>, lambda_http::Error> {
    Ok(count()
        .await
        .unwrap_or_else(|error| functions::problem(&error)))
}

async fn count() -> Result<Response<Body>, Error> {
    let connection = antifreeze::connection().await?;
    let row = connection
        .query_one("select count(*) from partners", &[])
        .await?;
    let body = json!({ "partners": row.try_get::<_, i64>(0)? });
    Ok(Response::new(Body::Text(body.to_string())))
}
