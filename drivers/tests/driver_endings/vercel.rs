//! The endings in a process on Vercel, which serves eight requests at once and is stopped when
//! the last of them has ended.

use drivers::{Driver, Ending, TABLES};
use futures_util::future::join_all;
use http::Request;
use lab::postgres::Database;
use lab::sessions;
use lab::vercel::{Deployment, Outcome};
use serde_json::Value;

use crate::combination::server;

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
        sessions::truncate(&database).await.expect("no lock");
        let names = together.iter().map(|ending| ending.name);
        let calls = names.clone().map(|name| call(&deployment, name));
        join_all(calls).await;
        let names: Vec<_> = names.collect();
        assert_at_rest(&deployment, &database, &names).await;
        let stored = together.iter().filter(|ending| ending.stores()).count();
        let rows = sessions::rows(&database).await.expect("a count");
        assert_eq!(rows, stored.to_string(), "{names:?}");
        let looks = (0..SEVERAL).map(|_| call(&deployment, "look"));
        for outcome in join_all(looks).await {
            let response = outcome.response.expect("a response");
            let seen: Value = serde_json::from_slice(response.body()).expect("JSON");
            assert_eq!(seen["seen"], serde_json::json!([]), "after {names:?}");
        }
        assert_at_rest(&deployment, &database, &names).await;
    }
}

async fn call(deployment: &Deployment, ending: &str) -> Outcome {
    let request = Request::get(format!("/{ending}")).body("");
    let outcome = deployment.request(request.expect("a request")).await;
    outcome.expect("it is running")
}

async fn assert_at_rest(deployment: &Deployment, database: &Database, names: &[&str]) {
    deployment.frozen().await.expect("frozen");
    let left = sessions::sessions(database).await.expect("an answer");
    let at_rest = left.iter().all(|session| session.state == "idle");
    let state = sessions::session_state(database).await.expect("an answer");
    assert!(
        at_rest && state.is_empty(),
        "{names:?}: {left:?}, {state:?}"
    );
    let migrated = sessions::migrate(database).await;
    migrated.unwrap_or_else(|error| panic!("{names:?}: a migration waited: {error}"));
}
