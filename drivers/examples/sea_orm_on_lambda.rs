//! A function on Lambda with SeaORM.

use antifreeze::{Database, DatabaseLayer};
use lambda_runtime::{Error, LambdaEvent};
use sea_orm::{ConnectionTrait, DatabaseConnection, DbBackend, Statement};
use serde_json::{Value, json};
use tower::ServiceBuilder;

#[tokio::main]
async fn main() -> Result<(), Error> {
    let database = Database::from_env()?;
    // The warm-up after it opens the connections for the drivers at this URL.
    let url = database.url()?;
    database.warm_up().await?;
    let orm = sea_orm::Database::connect(url).await?;
    let service = ServiceBuilder::new()
        .layer(DatabaseLayer::new(database))
        .service_fn(move |event: LambdaEvent<Value>| {
            let orm = orm.clone();
            async move { create_partner(&orm, event.payload).await }
        });
    lambda_runtime::run(service).await
}

async fn create_partner(orm: &DatabaseConnection, event: Value) -> Result<Value, Error> {
    let name = event["name"].as_str().unwrap_or("acme").to_owned();
    let insert = "insert into partners (name) values ($1)";
    let values = [name.clone().into()];
    let insert = Statement::from_sql_and_values(DbBackend::Postgres, insert, values);
    orm.execute_raw(insert).await?;
    Ok(json!({ "created": name }))
}
