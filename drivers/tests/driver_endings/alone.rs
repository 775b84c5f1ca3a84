//! The endings of a driver alone: those that leave a session stuck, each in a process of its own.

use std::time::Duration;

use drivers::{Driver, Ending, TABLES};
use lab::lambda::{FreezeAt, Function};
use lab::postgres::Postgres;
use lab::sessions;
use serde_json::json;

/// More than the handler takes; it is killed after it.
const TIMEOUT: Duration = Duration::from_secs(20);

pub async fn check(driver: Driver) {
    let postgres = Postgres::shared().await.expect("a server");
    let database = postgres.fresh_database().await.expect("a database");
    database.execute(TABLES).await.expect("tables");
    let mut rested = Vec::new();
    for ending in Ending::of(driver).filter(|ending| ending.stuck.contains(&driver)) {
        let function = Function::builder(env!("CARGO_BIN_EXE_drivers"))
            .env("DRIVER", driver.name())
            .env("ALONE", "yes")
            .env("DATABASE_URL", format!("{}?sslmode=disable", database.url))
            .timeout(TIMEOUT)
            .freeze_at(FreezeAt::Next)
            .start()
            .await
            .expect("a function");
        let outcome = function.invoke(json!({ "ending": ending.name })).await;
        let outcome = outcome.expect("it is running");
        let answer = outcome.body();
        assert!(answer.is_some(), "{}: {:?}", ending.name, outcome.answer);
        outcome.environment.frozen().await.expect("frozen");
        let sessions = sessions::sessions(&database).await.expect("an answer");
        let state = sessions::session_state(&database).await.expect("an answer");
        if state.is_empty() && sessions.iter().all(|session| session.state == "idle") {
            rested.push(ending.name);
        }
        drop(function);
        sessions::terminate(&database).await.expect("ended");
    }
    assert!(
        rested.is_empty(),
        "at rest, though nothing ends them: {rested:?}"
    );
}
