//! The helper for tests of functions.
#![cfg(feature = "test")]

use std::panic::AssertUnwindSafe;
use std::time::Duration;

use antifreeze::testing::with_database;
use antifreeze::{Error, connection, transaction};
use futures_util::FutureExt;
use lab::postgres::{Database, Postgres};

const PLENTY: Duration = Duration::from_secs(20);

/// A template with a table of one row.
async fn template() -> Database {
    let server = Postgres::shared().await.expect("a server");
    let template = server.fresh_database().await.expect("a database");
    let schema = "create table t (a int); insert into t values (1)";
    template.execute(schema).await.expect("a table");
    template
}

/// The tests' databases that are there.
async fn databases(server: &Database, name: &str) -> usize {
    let query = format!("select 1 from pg_database where datname = '{name}'");
    server.query(&query).await.expect("databases").len()
}

async fn name_and_rows(database: &antifreeze::Database) -> (String, i64) {
    let work = async {
        let connection = connection().await?;
        let row = connection
            .query_one("select current_database()::text, count(*) from t", &[])
            .await?;
        Ok::<_, Error>((row.get(0), row.get(1)))
    };
    database.invocation(PLENTY, work).await.expect("a table")
}

#[tokio::test]
async fn test_has_a_copy_that_is_dropped() {
    let template = template().await;
    let url = template.url.clone();
    // Its own session would be in the way.
    let other = Postgres::shared().await.expect("a server");
    let other = other.fresh_database().await.expect("a database");
    drop(template);
    let names = futures_util::future::join_all((0..3).map(|_| {
        with_database(&url, async |database| {
            let insert = async {
                transaction()
                    .await?
                    .execute("insert into t values (2)", &[])
                    .await?;
                Ok::<_, Error>(())
            };
            database.invocation(PLENTY, insert).await.expect("a row");
            database.assert_nothing_left_open();
            let (name, rows) = name_and_rows(database).await;
            assert_eq!(rows, 2, "that of the template and its own");
            assert_eq!(databases(&other, &name).await, 1);
            name
        })
    }));
    for name in names.await {
        let name = name.expect("created and dropped");
        assert!(name.starts_with("antifreeze_test_"), "{name}");
        assert_eq!(databases(&other, &name).await, 0);
    }
}

#[tokio::test]
async fn assertion_names_the_call() {
    let template = template().await;
    let url = template.url.clone();
    let other = Postgres::shared().await.expect("a server");
    let other = other.fresh_database().await.expect("a database");
    drop(template);
    let name = std::sync::Mutex::new(String::new());
    let test = with_database(&url, async |database| {
        *name.lock().expect("no panic") = name_and_rows(database).await.0;
        let begin = async {
            connection().await?.batch_execute("begin").await?;
            Ok::<_, Error>(())
        };
        database.invocation(PLENTY, begin).await.expect("fine");
        database.assert_nothing_left_open();
    });
    let panic = AssertUnwindSafe(test).catch_unwind().await;
    let panic = panic.expect_err("a transaction was left open");
    let text = panic.downcast_ref::<String>().expect("a text");
    assert!(text.contains("tests/user_tests.rs:"), "{text}");
    assert!(text.contains("rolled back"), "{text}");
    let name = name.into_inner().expect("no panic");
    assert_eq!(databases(&other, &name).await, 0, "dropped all the same");
}
