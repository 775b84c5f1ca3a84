//! The same API as an axum router.
//!
//! ```sh
//! curl localhost:9000/lambda-url/router/partners -H 'content-type: application/json' -d '{"name": "acme"}'
//! curl localhost:9000/lambda-url/router/partners
//! ```

use antifreeze::{Connection, DatabaseLayer, Error, Transaction};
use axum::http::StatusCode;
use axum::routing::get;
use axum::{Json, Router};
use serde::{Deserialize, Serialize};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), lambda_http::Error> {
    let database = functions::start().await?;
    let router = Router::new()
        .route("/partners", get(list).post(create))
        .layer(DatabaseLayer::new(database));
    lambda_http::run(router).await
}

#[derive(Serialize)]
struct Partners {
    partners: Vec<String>,
}

/// One statement: it needs no transaction.
async fn list(connection: Connection) -> Result<Json<Partners>, Error> {
    let query = "select name from partners order by since desc, name limit 100";
    let rows = connection.query(query, &[]).await?;
    let partners = rows
        .iter()
        .map(|row| row.try_get(0))
        .collect::<Result<_, _>>()?;
    Ok(Json(Partners { partners }))
}

#[derive(Serialize, Deserialize)]
struct Partner {
    name: String,
}

/// The invocation's transaction: begun with the first statement, in its round trip;
/// committed because the response is a success, rolled back if it were none.
async fn create(
    transaction: Transaction,
    Json(partner): Json<Partner>,
) -> Result<(StatusCode, Json<Partner>), Error> {
    transaction
        .execute("insert into partners (name) values ($1)", &[&partner.name])
        .await?;
    Ok((StatusCode::CREATED, Json(partner)))
}
