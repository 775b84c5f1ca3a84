//! `/api/rest/...`, an axum router; vercel.json sends what lies below it here.
//!
//! ```sh
//! psql "$DATABASE_URL" -f api/schema.sql
//! cargo run -p api --bin rest
//! curl -X POST localhost:3000/api/rest/partners/acme
//! curl localhost:3000/api/rest/partners
//! ```

use std::time::Duration;

use antifreeze::{Connection, Database, DatabaseLayer, Invocation, Transaction, shutdown};
use axum::Router;
use axum::body::Body;
use axum::extract::Path;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};
use http::{HeaderValue, StatusCode, header::CONTENT_TYPE};
use serde_json::Value;
use tower::Layer;
use vercel_runtime::{Error, axum::VercelLayer};

/// `maxDuration` in vercel.json: the process is not told.
const MAX_DURATION: Duration = Duration::from_secs(10);

#[tokio::main]
async fn main() -> Result<(), Error> {
    // Vercel keeps what is written as the function's log.
    tracing_subscriber::fmt()
        .with_ansi(false)
        .with_writer(std::io::stderr)
        .init();
    let database = Database::from_env()?; // DATABASE_URL
    database.warm_up().await?;
    let router = Router::new()
        .route("/api/rest/partners", get(list))
        .route("/api/rest/partners/{name}", post(create));
    // Ours goes outside: what `VercelLayer` hands on no longer knows the host.
    let layer = DatabaseLayer::new(database.clone()).max_duration(MAX_DURATION);
    let service = layer.layer(VercelLayer::new().layer(router));
    // At SIGTERM a request that is under way may end.
    let close = database.close().within(MAX_DURATION);
    shutdown::around(close, vercel_runtime::run(service)).await
}

/// All partners, sent while they are read: the connection goes into the body, and
/// `stream` has the invocation last until the body ends.
async fn list(invocation: Invocation, connection: Connection) -> Result<Response, Failed> {
    let rows = connection
        .query_raw("select name from partners order by id", &[] as &[i64])
        .await?;
    let names = rows.map_ok(|row| Value::from(row.get::<_, String>(0)).to_string());
    let names = names.enumerate().map(|(index, name)| {
        let comma = if index == 0 { "" } else { ",\n" };
        name.map(|name| Bytes::from(format!("{comma}{name}")))
    });
    let around = |text: &'static str| stream::once(async move { Ok(Bytes::from(text)) });
    let names = around("[").chain(names).chain(around("]\n"));
    // Lives as long as the rows do.
    let names = names.inspect(move |_| {
        let _ = &connection;
    });
    let mut response = Response::new(Body::new(invocation.stream(Body::from_stream(names))));
    // `VercelLayer` streams what is of this type, and collects anything else first.
    let json = HeaderValue::from_static("application/json");
    response.headers_mut().insert(CONTENT_TYPE, json);
    Ok(response)
}

/// The request's transaction: begun with its first statement, committed because the
/// response is a success, rolled back if it were none.
async fn create(transaction: Transaction, Path(name): Path<String>) -> Result<StatusCode, Failed> {
    transaction
        .execute("insert into partners (name) values ($1)", &[&name])
        .await?;
    Ok(StatusCode::CREATED)
}

/// Answered with a problem document, and logged: a name that is there already is a 409.
struct Failed(antifreeze::Error);

impl<E: Into<antifreeze::Error>> From<E> for Failed {
    fn from(error: E) -> Self {
        Failed(error.into())
    }
}

impl IntoResponse for Failed {
    fn into_response(self) -> Response {
        self.0.into_response()
    }
}
