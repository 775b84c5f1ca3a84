//! A function on Lambda with Diesel, which blocks its thread.

use antifreeze::{Database, DatabaseLayer, invocation};
use diesel::prelude::*;
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
    // The connections are opened for the drivers at this URL.
    database.url()?;
    database.warm_up().await?;
    let service = ServiceBuilder::new()
        .layer(DatabaseLayer::new(database))
        .service_fn(async |event: LambdaEvent<Value>| create_partner(event.payload).await);
    lambda_runtime::run(service).await
}

async fn create_partner(event: Value) -> Result<Value, Error> {
    let name = event["name"].as_str().unwrap_or("acme").to_owned();
    // Of this invocation, and taken before the thread is changed.
    let url = invocation()?.url()?;
    let created = name.clone();
    let insert = move || {
        let mut connection = PgConnection::establish(&url)?;
        diesel::insert_into(schema::partners::table)
            .values(schema::partners::name.eq(&created))
            .execute(&mut connection)?;
        Ok::<_, Error>(())
    };
    tokio::task::spawn_blocking(insert).await??;
    Ok(json!({ "created": name }))
}
