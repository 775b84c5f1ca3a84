//! What every function of this folder does first. To copy a function, copy this too.

use antifreeze::{Config, Database};
use antifreeze_aws::SecretsManager;
use antifreeze_migrate::Migrations;
use lambda_http::{Body, Response};
use lambda_runtime::{Error, tracing};

/// The database, its connections open; logs and the end of the process are taken care
/// of. Runs in the init phase.
///
/// # Errors
///
/// The environment names no database, or names it wrongly. One that cannot be reached is
/// no error yet: requests are answered with a 503 until it can.
pub async fn start() -> Result<Database, Error> {
    // Obeys the function's logging settings (`LogFormat: JSON`).
    tracing::init_default_subscriber();
    let database = Database::new(config()?)?;
    // Without this one line Lambda asks nobody to end, and the server keeps the session of
    // an environment that is gone until a timeout ends it.
    antifreeze::shutdown::on_lambda(&database).await?;
    database.warm_up().await?;
    Ok(database)
}

/// What a caller over HTTP is told of an error: a problem document, which says nothing of
/// how the database is reached. antifreeze logs the rest.
///
/// An `Err` would be the function's own failure: the gateway answers 502 to it, and the
/// alarm on errors goes off.
pub fn problem(error: &antifreeze::Error) -> Response<Body> {
    Response::from(error).map(|text| Body::Text(String::from_utf8_lossy(&text).into_owned()))
}

/// `DATABASE_URL`, and the secret that `DATABASE_SECRET_ARN` names where there is one: it
/// is fetched with the first connection, and again once it was rotated.
///
/// # Errors
///
/// The environment names no database, or names it wrongly.
pub fn config() -> Result<Config, antifreeze::Error> {
    let mut config = Config::from_env()?;
    let secret = std::env::var("DATABASE_SECRET_ARN").unwrap_or_default();
    if !secret.is_empty() {
        config = config.credentials(SecretsManager::new(secret));
    }
    Ok(config)
}

/// The tables of the functions. Compiled in: a function's package holds nothing but the
/// program.
///
/// # Errors
///
/// A name is no name of a migration.
pub fn migrations() -> Result<Migrations, antifreeze_migrate::Error> {
    Migrations::embedded([("V1__schema", include_str!("../schema.sql"))])
}
