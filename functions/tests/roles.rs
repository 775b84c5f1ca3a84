//! Two roles at the database, as docs/lambda.md makes them: one that migrates, and one for
//! all other functions, which reads and writes but changes no table.

mod common;

use common::{TIMEOUT, outcome_of};
use lab::lambda::Function;
use lab::postgres::Postgres;
use serde_json::json;

/// The page's own statements.
fn statements() -> &'static str {
    let page = include_str!("../../docs/lambda.md");
    let (_, from) = page.split_once("```sql\n").expect("statements");
    from.split_once("```").expect("their end").0
}

#[tokio::test(flavor = "multi_thread")]
async fn migrations_role_owns_the_tables() {
    // Roles belong to a whole server.
    let server = Postgres::start().await.expect("a server");
    let database = server.create_database("shop").await.expect("a database");
    database.execute(statements()).await.expect("two roles");
    let start = async |executable, role| {
        let function = Function::builder(executable).env("DATABASE_URL", database.url_for(role));
        function.timeout(TIMEOUT).start().await.expect("a function")
    };

    // The others' role cannot make the tables.
    let refused = start(env!("CARGO_BIN_EXE_migrate"), "app").await;
    let outcome = outcome_of(&refused, json!({})).await;
    assert!(outcome.json().is_none(), "{outcome:?}");
    let tables = "select tableowner from pg_tables where schemaname = 'public'";
    assert!(database.query(tables).await.expect("tables").is_empty());

    let migrate = start(env!("CARGO_BIN_EXE_migrate"), "migrator").await;
    let report = outcome_of(&migrate, json!({})).await.json();
    assert_eq!(
        report.expect("a report")["applied"]
            .as_array()
            .map(Vec::len),
        Some(1)
    );
    for owner in database.query(tables).await.expect("tables") {
        assert_eq!(owner[0].as_deref(), Some("migrator"));
    }

    // They see what was migrated, and use it.
    let health = start(env!("CARGO_BIN_EXE_health"), "app").await;
    let report = outcome_of(&health, json!({})).await.json();
    let report = report.expect("a report");
    assert_eq!(
        report["server"]["migrations"]["names"],
        json!([]),
        "{report}"
    );
    let schedule = start(env!("CARGO_BIN_EXE_schedule"), "app").await;
    let event = common::fixture("eventbridge-schedule");
    let report = outcome_of(&schedule, event).await.json();
    let report = report.expect("a report");
    assert_eq!(report["partners"], 0, "{report}");
}
