//! A function on Lambda with diesel-async, whose transaction the answer decides.

use antifreeze::{Database, DatabaseLayer, invocation};
use diesel::prelude::*;
use diesel_async::{AsyncConnection, AsyncPgConnection, RunQueryDsl};
use lambda_runtime::{Error, LambdaEvent};
use serde_json::{Value, json};
use tower::ServiceBuilder;

mod schema {
    #![allow(missing_docs, reason = "the macro has no place for it")]

    diesel::table! {
        partners (id) { id -> Integer, name -> Text, }
    }
}

#[tokio::main]
async fn main() -> Result<(), Error> {
    let database = Database::from_env()?;
    database.url()?;
    database.warm_up().await?;
    let service = ServiceBuilder::new()
        .layer(DatabaseLayer::new(database))
        .service_fn(async |event: LambdaEvent<Value>| create_partner(event.payload).await);
    lambda_runtime::run(service).await
}

/// Committed if it returns `Ok`, rolled back otherwise.
async fn create_partner(event: Value) -> Result<Value, Error> {
    let name = event["name"].as_str().ok_or("the event has no name")?;
    let url = invocation()?.transaction_url()?;
    let mut connection = AsyncPgConnection::establish(&url).await?;
    diesel::insert_into(schema::partners::table)
        .values(schema::partners::name.eq(name))
        .execute(&mut connection)
        .await?;
    Ok(json!({ "created": name }))
}
