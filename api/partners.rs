//! `/api/partners`, a plain function: GET counts the partners, POST stores the one that
//! the body names.
//!
//! ```sh
//! psql "$DATABASE_URL" -f api/schema.sql
//! cargo run -p api --bin partners
//! curl -d acme localhost:3000/api/partners
//! ```

use std::time::Duration;

use antifreeze::{Database, DatabaseLayer, shutdown};
use http::{Method, StatusCode};
use http_body_util::{BodyExt, Limited};
use serde_json::json;
use tower::Layer;
use vercel_runtime::{Error, Request, Response, ResponseBody, run, service_fn};

/// `maxDuration` in vercel.json: the process is not told.
const MAX_DURATION: Duration = Duration::from_secs(10);

/// The longest name, in bytes.
const LONGEST: usize = 200;

#[tokio::main]
async fn main() -> Result<(), Error> {
    // Vercel keeps what is written as the function's log.
    tracing_subscriber::fmt()
        .with_ansi(false)
        .with_writer(std::io::stderr)
        .init();
    let database = Database::from_env()?; // DATABASE_URL
    database.warm_up().await?;
    // At SIGTERM a request that is under way may end.
    let close = database.close().within(MAX_DURATION);
    let layer = DatabaseLayer::new(database).max_duration(MAX_DURATION);
    shutdown::around(close, run(layer.layer(service_fn(answer)))).await
}

async fn answer(request: Request) -> Result<Response<ResponseBody>, Error> {
    let answered = match *request.method() {
        Method::GET => count().await,
        Method::POST => create(request).await,
        _ => Ok(empty(StatusCode::METHOD_NOT_ALLOWED)),
    };
    // Status and kind: a name that is there already is a 409. The log says the rest.
    Ok(answered.unwrap_or_else(|error| Response::from(&error).map(ResponseBody::from)))
}

/// A connection for a single statement.
async fn count() -> antifreeze::Result<Response<ResponseBody>> {
    let connection = antifreeze::connection().await?;
    let row = connection
        .query_one("select count(*) from partners", &[])
        .await?;
    let partners: i64 = row.get(0);
    Ok(Response::new(json!({ "partners": partners }).into()))
}

/// The request's transaction: begun with its first statement, committed before a 2xx or
/// 3xx leaves, rolled back otherwise.
async fn create(request: Request) -> antifreeze::Result<Response<ResponseBody>> {
    let Ok(body) = Limited::new(request.into_body(), LONGEST).collect().await else {
        return Ok(empty(StatusCode::PAYLOAD_TOO_LARGE));
    };
    let body = body.to_bytes();
    let Ok(name) = std::str::from_utf8(&body) else {
        return Ok(empty(StatusCode::BAD_REQUEST));
    };
    let transaction = antifreeze::transaction().await?;
    let row = transaction
        .query_one(
            "insert into partners (name) values ($1) returning id",
            &[&name],
        )
        .await?;
    let id: i64 = row.get(0);
    let mut response = Response::new(json!({ "id": id }).into());
    *response.status_mut() = StatusCode::CREATED;
    Ok(response)
}

fn empty(status: StatusCode) -> Response<ResponseBody> {
    let mut response = Response::new(().into());
    *response.status_mut() = status;
    response
}
