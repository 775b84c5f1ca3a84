//! The example for CloudWatch, frozen after its response: the log has its metrics by then.

use std::path::PathBuf;
use std::time::Duration;

use http::Request;
use lab::lambda::Function;
use lab::postgres::Postgres;
use serde_json::Value;

/// The example `emf`, which `cargo test` builds beside this test.
fn example() -> PathBuf {
    let test = std::env::current_exe().expect("the test's own path");
    let directory = test.ancestors().nth(2).expect("target/debug/deps");
    directory.join("examples/emf")
}

#[tokio::test]
async fn metrics_are_in_the_log_before_the_freeze() {
    let postgres = Postgres::shared().await.expect("a server");
    let database = postgres.create_database("emf").await.expect("a database");
    database
        .execute("create table partners (name text)")
        .await
        .expect("a table");
    let function = Function::builder(example())
        .env("DATABASE_URL", &database.url)
        // More than a busy machine takes.
        .timeout(Duration::from_secs(20))
        .start()
        .await
        .expect("the example");
    let request = Request::get("/").body("").expect("a request");
    let (response, outcome) = function.request(request).await.expect("an answer");
    assert_eq!(response.status(), 200);
    let environment = outcome.environment;
    environment.frozen().await.expect("a freeze");
    // What a frozen process has not written stays in it; what it has written may still be in
    // the pipe.
    for name in ["create_time", "use_time"] {
        let metric = format!("\"db.client.connection.{name}\":");
        environment.logged(&metric).await.expect("metrics");
    }
    let log = environment.log();
    let documents: Vec<Value> = log
        .lines()
        .filter_map(|line| serde_json::from_str(line).ok())
        .filter(|line: &Value| !line["_aws"].is_null())
        .collect();
    let mut named = Vec::new();
    for document in &documents {
        for directive in document["_aws"]["CloudWatchMetrics"]
            .as_array()
            .expect("directives")
        {
            assert_eq!(directive["Namespace"], "antifreeze");
            for metric in directive["Metrics"].as_array().expect("metrics") {
                let name = metric["Name"].as_str().expect("a name");
                assert!(
                    !document[name].is_null(),
                    "{name} has no value in {document}"
                );
                named.push(name.to_owned());
            }
        }
    }
    for expected in [
        "db.client.connection.create_time",
        "db.client.connection.use_time",
    ] {
        assert!(
            named.iter().any(|name| name == expected),
            "{expected}: {named:?}"
        );
    }
    let password = database.url.split('@').next().unwrap_or_default();
    assert!(!log.contains(password), "the log has the URL");
}
