//! `/api/partners`: GET counts the partners, POST stores the one that the body names.

use std::time::Duration;

use antifreeze::{DatabaseLayer, shutdown};
use http_body_util::{BodyExt, Limited};
use serde_json::{Value, json};
use tower::Layer;
use vercel_runtime::{Error, Request, Response, ResponseBody, run, service_fn};

/// `maxDuration` in vercel.json: Vercel does not tell it to the process.
const MAX_DURATION: Duration = Duration::from_secs(10);

#[tokio::main]
async fn main() -> Result<(), Error> {
    // Vercel keeps what is written as the function's log.
    tracing_subscriber::fmt()
        .with_ansi(false)
        .with_writer(std::io::stderr)
        .init();
    let layer = DatabaseLayer::from_env().await?; // DATABASE_URL
    let layer = layer.max_duration(MAX_DURATION);
    // At SIGTERM a request that is under way may end.
    let close = layer.database().close().within(MAX_DURATION);
    shutdown::around(close, run(layer.layer(service_fn(answer)))).await
}

async fn answer(request: Request) -> Result<Response<ResponseBody>, Error> {
    let answered = match request.method().as_str() {
        "GET" => count().await,
        "POST" => {
            let body = Limited::new(request.into_body(), 200).collect().await?;
            create(std::str::from_utf8(&body.to_bytes())?).await
        }
        _ => return Ok(Response::builder().status(405).body(().into())?),
    };
    Ok(match answered {
        Ok(said) => Response::builder()
            .header("content-type", "application/json")
            .body(said.into())?,
        // A problem document: a name that is there already is a 409. The log says the rest.
        Err(error) => Response::from(&error).map(ResponseBody::from),
    })
}

/// A connection for a single statement.
async fn count() -> antifreeze::Result<Value> {
    let connection = antifreeze::connection().await?;
    let row = connection
        .query_one("select count(*) from partners", &[])
        .await?;
    let partners: i64 = row.get(0);
    Ok(json!({ "partners": partners }))
}

/// The request's transaction: committed because the answer is a success, rolled back if
/// it were none.
async fn create(name: &str) -> antifreeze::Result<Value> {
    let insert = "insert into partners (name) values ($1) returning id";
    let transaction = antifreeze::transaction().await?;
    let row = transaction.query_one(insert, &[&name]).await?;
    let id: i64 = row.get(0);
    Ok(json!({ "id": id }))
}
