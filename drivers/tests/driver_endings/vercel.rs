//! The endings in a process on Vercel, which serves eight requests at once and is stopped when
//! the last of them has ended.

use std::time::Duration;

use drivers::{Driver, Ending, TABLES};
use futures_util::future::join_all;
use http::Request;
use lab::postgres::Database;
use lab::sessions;
use lab::vercel::{Deployment, Outcome};
use serde_json::Value;
use tokio::time::Instant;

use crate::combination::{PATIENCE, TRIES, server};

const SEVERAL: usize = 8;

pub async fn check(driver: Driver) {
    let server = server().await;
    let database = server.fresh_database().await.expect("a database");
    database.execute(TABLES).await.expect("tables");
    let deployment = Deployment::builder(env!("CARGO_BIN_EXE_drivers"))
        .env("HOST", "vercel")
        .env("DRIVER", driver.name())
        .env("DATABASE_URL", format!("{}?sslmode=disable", database.url))
        // Some endings take two.
        .env("MAX_CONNECTIONS", 2 * SEVERAL)
        // Suspended at once, with its connections.
        .env("ANTIFREEZE_LINGER", "0")
        .start()
        .await
        .expect("a deployment");
    let endings: Vec<_> = Ending::of(driver).collect();
    for together in endings.chunks(SEVERAL) {
        let mut tries = TRIES;
        while let Err(failure) = together_once(&deployment, &database, together).await {
            tries -= 1;
            assert!(tries > 0, "{failure}");
            println!("tried again: {failure}");
            let begin = Instant::now();
            while busy(&database).await.is_some() && begin.elapsed() < PATIENCE {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
    }
}

async fn together_once(
    deployment: &Deployment,
    database: &Database,
    together: &[&Ending],
) -> Result<(), String> {
    let names: Vec<_> = together.iter().map(|ending| ending.name).collect();
    let emptied = sessions::truncate(database).await;
    emptied.map_err(|error| format!("before {names:?}, the table was locked: {error}"))?;
    join_all(names.iter().map(|name| call(deployment, name))).await;
    at_rest(deployment, database, &names).await?;
    let stored = together.iter().filter(|ending| ending.stores()).count();
    let rows = sessions::rows(database).await.expect("a count");
    if rows != stored.to_string() {
        return Err(format!("{names:?}: {rows} rows were stored, not {stored}"));
    }
    let looks = (0..SEVERAL).map(|_| call(deployment, "look"));
    for outcome in join_all(looks).await {
        let response = outcome
            .response
            .map_err(|error| format!("after {names:?}: {error:?}"))?;
        let seen: Value = serde_json::from_slice(response.body())
            .map_err(|error| format!("after {names:?}: {error}: {response:?}"))?;
        if seen["seen"] != serde_json::json!([]) {
            return Err(format!("after {names:?}: {seen}"));
        }
    }
    at_rest(deployment, database, &names).await
}

async fn call(deployment: &Deployment, ending: &str) -> Outcome {
    let request = Request::get(format!("/{ending}")).body("");
    let outcome = deployment.request(request.expect("a request")).await;
    outcome.expect("it is running")
}

/// The sessions that are not idle.
async fn busy(database: &Database) -> Option<String> {
    let mut left = sessions::sessions(database).await.expect("an answer");
    left.retain(|session| session.state != "idle");
    (!left.is_empty()).then(|| format!("{left:?}"))
}

async fn at_rest(
    deployment: &Deployment,
    database: &Database,
    names: &[&str],
) -> Result<(), String> {
    deployment.frozen().await.expect("frozen");
    if let Some(left) = busy(database).await {
        return Err(format!("{names:?}: {left}"));
    }
    let state = sessions::session_state(database).await.expect("an answer");
    if !state.is_empty() {
        return Err(format!("{names:?}: {state:?}"));
    }
    let migrated = sessions::migrate(database).await;
    migrated.map_err(|error| format!("{names:?}: a migration waited: {error}"))
}
