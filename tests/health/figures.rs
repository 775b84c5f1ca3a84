//! What the report says of the server and the pool.

use super::*;

/// From PostgreSQL 16 on some can be held back for other roles, too.
#[tokio::test]
async fn reserved_slots_do_not_count_as_limit() {
    let seventeen = Installation::embedded("17").expect("PostgreSQL 17");
    let server = Postgres::builder()
        .installation(seventeen)
        .setting("max_connections", 20)
        .setting("superuser_reserved_connections", 3)
        .setting("reserved_connections", 2)
        .start()
        .await
        .expect("a server");
    server.create_role("app").await.expect("a role");
    let database = database(&server.url_for("app", "postgres"), |config| config);
    let found = details(&database).await;
    let found = &found["server"];
    assert_eq!(
        (&found["limit"], &found["reserved"]),
        (&json!(15), &json!(5))
    );
}

/// A session of another client.
async fn other(url: &str) -> tokio_postgres::Client {
    let mut config: tokio_postgres::Config = url.parse().expect("a URL");
    config.application_name("other");
    let (client, connection) = config
        .connect(tokio_postgres::NoTls)
        .await
        .expect("a connection");
    tokio::spawn(connection);
    client
}

async fn others(url: &str, n: usize) -> Vec<tokio_postgres::Client> {
    join_all((0..n).map(|_| other(url))).await
}

#[tokio::test]
async fn details_match_the_server_and_the_schema() {
    let server = server().await;
    server.create_role("app").await.expect("a role");
    server
        .execute("alter role app connection limit 10")
        .await
        .expect("a limit");
    server
        .execute("grant pg_read_all_stats to app")
        .await
        .expect("a grant");
    let url = server.url_for("app", "postgres");
    let others = others(&url, 2).await;
    others[0]
        .batch_execute("begin; select 1")
        .await
        .expect("a transaction");
    // The lab's own sessions, whose name is its password, may take a moment to leave.
    let left = async || {
        let labs = "select from pg_stat_activity where application_name = 'lab'";
        let labs = others[1].query(labs, &[]).await;
        labs.expect("activity").is_empty()
    };
    eventually("the lab has left", left).await;

    let database = database(&url, |config| {
        config
            .max_connections(5)
            .statement_timeout(Duration::from_secs(7))
    });
    let details = details(&database).await;
    assert_eq!(details["status"], "ok");
    assert_eq!(details["database"], "connected");
    let pool = &details["postgres"];
    assert_eq!(
        (&pool["pool_size"], &pool["idle"]),
        (&json!(5), &json!(1)),
        "{pool}"
    );
    assert_eq!(pool["connection_usage"], "0/5");
    assert_eq!(pool["usage_percentage"], "0.0%");
    assert_eq!(pool["pool_full"], false);
    assert_eq!(pool["settings"]["statement_timeout_seconds"], 7.0);
    assert_eq!(pool["settings"]["pooler"], "none");
    let found = &details["server"];
    assert_eq!(
        (&found["limit"], &found["reserved"]),
        (&json!(17), &json!(3))
    );
    assert!(found["used"].as_u64() >= Some(3), "{found}");
    assert_eq!(found["role"], json!({"limit": 10, "used": 3}));
    assert_eq!(found["database"], Value::Null);
    assert_eq!(found["by_application"]["other"], 2);
    assert_eq!(found["by_application"]["under test"], 1);
    assert_eq!(found["by_user"]["app"], 3);
    assert_eq!(found["by_state"]["idle in transaction"], 1);
    assert_eq!(found["idle_in_transaction"], 1);
    for age in [
        "oldest_idle_in_transaction_seconds",
        "longest_transaction_seconds",
        "latency_ms",
    ] {
        assert!(found[age].as_f64().is_some_and(|age| age > 0.0), "{found}");
    }
    assert_eq!(found["timeouts"]["statement_timeout"], "7s");
    assert_eq!(found["hint"], Value::Null);
    // Nothing says where it is.
    let text = details.to_string();
    for secret in [TOKEN, "127.0.0.1", "localhost", Postgres::PASSWORD] {
        assert!(!text.contains(secret), "{secret}: {text}");
    }
}

#[tokio::test]
async fn crowded_server_is_503() {
    let server = server().await;
    server.create_role("app").await.expect("a role");
    let url = server.url_for("app", "postgres");
    // With ours 12 of 17 are 71 %, and 15 are 88 %, once the lab's own sessions have left.
    for (n, status, http) in [(11, "ok", 200), (14, "crowded", 503)] {
        let others = others(&url, n).await;
        let left = async || {
            let counts = "select count(*) filter (where usename = 'app'), \
                          count(*) filter (where application_name = 'lab') from pg_stat_activity";
            let counts = others[0].query_one(counts, &[]).await.expect("activity");
            (counts.get::<_, i64>(0), counts.get::<_, i64>(1)) == (n as i64, 0)
        };
        eventually("the others alone", left).await;
        let database = database(&url, |config| config.max_connections(1));
        let answer = ask(&database, None).await;
        assert_eq!(answer.json(), json!({ "status": status }));
        assert_eq!(answer.status, http);
        let details = details(&database).await;
        assert_eq!(details["server"]["by_user"]["app"], n + 1);
        let used = details["server"]["used"].as_u64();
        assert!(used.is_some_and(|used| used > n as u64), "{details}");
        assert_eq!(details["database"], "connected");
        drop((others, database));
        let gone = async || {
            let used = server.query("select count(*) from pg_stat_activity where usename = 'app'");
            used.await.expect("activity")[0][0].as_deref() == Some("0")
        };
        eventually("gone", gone).await;
    }
    // Behind a pooler a connection of ours takes none of them.
    let _others = others(&url, 14).await;
    let pooled = database(&url, |config| {
        config.pooler(antifreeze::config::Pooler::Transaction)
    });
    assert_eq!(ask(&pooled, None).await.json(), json!({"status": "ok"}));
}

#[tokio::test]
async fn figures_hidden_from_the_role_are_unknown() {
    let server = server().await;
    server.create_role("app").await.expect("a role");
    let theirs = other(&server.url()).await;
    theirs
        .batch_execute("begin; select 1")
        .await
        .expect("a transaction");
    let url = server.url_for("app", "postgres");
    let before = details(&database(&url, |config| config)).await;
    let found = &before["server"];
    assert_eq!(before["status"], "ok");
    for unknown in [
        "idle_in_transaction",
        "oldest_idle_in_transaction_seconds",
        "longest_transaction_seconds",
    ] {
        assert_eq!(found[unknown], Value::Null, "{unknown}: {found}");
    }
    assert!(found["by_state"]["unknown"].as_u64() >= Some(1), "{found}");
    assert_eq!(found["by_application"]["other"], 1, "{found}");
    assert!(found["used"].as_u64() >= Some(2), "{found}");
    let hint = found["hint"].as_str().expect("a hint");
    let grant = &hint[hint.find("GRANT").expect("a statement")..];
    assert_eq!(grant, "GRANT pg_read_all_stats TO app");

    server.execute(grant).await.expect("as it says");
    let after = details(&database(&url, |config| config)).await;
    let found = &after["server"];
    assert_eq!(found["idle_in_transaction"], 1, "{found}");
    assert_eq!(found["by_state"]["unknown"], Value::Null, "{found}");
    assert_eq!(found["hint"], Value::Null, "{found}");
}

#[tokio::test]
async fn server_that_is_down_is_503_until_it_is_back() {
    let server = server().await;
    let database = database(&server.url(), |config| config);
    server.halt().await.expect("down");
    let answer = ask(&database, None).await;
    assert_eq!(answer.json(), json!({"status": "unavailable"}));
    assert_eq!(answer.status, 503);
    let found = details(&database).await;
    assert_eq!(found["database"], "refused");
    assert_eq!(found["server"], Value::Null);

    // What else fails opens the circuit, and health does not wait for the next try.
    let open = async || {
        let failed = database.invocation(PLENTY, lease_and_return()).await;
        failed.expect_err("down");
        !details(&database).await["postgres"]["circuit"].is_null()
    };
    eventually("the circuit opens", open).await;
    assert_eq!(details(&database).await["status"], "unavailable");

    // No other request connects from here on: the health check itself detects it.
    server.restart().await.expect("back");
    let back = async || ask(&database, None).await.status == 200;
    eventually("back", back).await;
    let found = details(&database).await;
    assert_eq!(
        (&found["status"], &found["database"]),
        (&json!("ok"), &json!("connected"))
    );
    assert_eq!(found["postgres"]["circuit"], Value::Null);
}

#[tokio::test]
async fn full_pool_is_reported_without_waiting() {
    for size in [1, 2] {
        let lab = lab_with(|config| easy(config).max_connections(size)).await;
        lab.run(async {
            let mut held = Vec::new();
            for _ in 0..size {
                held.push(connection().await?);
            }
            let health = lab.database.health().now_or_never().expect("at once");
            assert_eq!(health.status_code(), 200);
            let pool = &health.postgres;
            assert_eq!((pool.checked_out, pool.pool_full), (size, true));
            assert_eq!(pool.warning.is_some(), size > 1);
            assert_ne!(
                health.database,
                Reachability::Failed(ErrorKind::AcquireTimeout)
            );
            assert!(health.server.is_none_or(|server| server.by_state.is_none()));
            Ok::<_, BoxError>(())
        })
        .await
        .expect("fine");
        // With a connection to be had it is asked.
        let health = lab.database.health().await;
        assert!(
            health
                .server
                .is_some_and(|server| server.by_state.is_some())
        );
    }
}

/// Supavisor's words, in session mode.
#[tokio::test]
async fn pool_size_of_a_pooler_is_shown() {
    for (message, expected) in [
        (
            "(EMAXCONNSESSION) max clients are limited to pool_size: 15",
            json!(15),
        ),
        ("MaxClientsInSessionMode: max clients reached", Value::Null),
    ] {
        let address = refusing_server("XX000", message).await;
        let url = format!("postgres://app@{address}/shop?sslmode=disable");
        let database = database(&url, |config| {
            config.pooler(antifreeze::config::Pooler::Session)
        });
        let found = details(&database).await;
        assert_eq!(found["status"], "unavailable", "{found}");
        assert_eq!(found["database"], "too_many_connections");
        let process = &found["postgres"];
        assert_eq!(process["pooler_pool_size"], expected, "{process}");
        assert_eq!(process["circuit"]["kind"], "too_many_connections");
    }
}

#[test]
fn example_in_the_docs_follows_the_schema() {
    let page = include_str!("../../docs/health.md");
    let example = page.split("```json").nth(1).expect("an example");
    let example = example.split("```").next().expect("its end");
    assert_follows_schema(&serde_json::from_str(example).expect("JSON"));
}

/// Which migrations the database has not seen, as a role of the function's tells it.
#[tokio::test]
async fn pending_migrations_are_named() {
    use antifreeze_migrate::Migrations;

    let server = server().await;
    server.create_role("app").await.expect("a role");
    let files = [
        ("V1__create_partners", "create table partners (id int)"),
        ("V2__add_name", "alter table partners add column name text"),
    ];
    let some = |n: usize| Migrations::embedded(files[..n].iter().copied()).expect("migrations");
    let owner = database(&server.url(), |config| config);
    let url = server.url_for("app", "postgres");
    let seen = async || {
        let database = database(&url, easy).expect_migrations(some(2));
        let details = details(&database).await;
        assert_eq!(
            (&details["status"], &details["database"]),
            (&json!("ok"), &json!("connected"))
        );
        details["server"]["migrations"].clone()
    };
    let pending = |names: &[&str]| json!({"pending": names.len(), "names": names, "unknown": null});

    assert_eq!(details(&owner).await["server"]["migrations"], Value::Null);
    // No history: nothing was run.
    assert_eq!(
        seen().await,
        pending(&["V1__create_partners", "V2__add_name"])
    );

    let _ = some(1).runner(&owner).run().await.expect("it runs");
    let hidden = async |grants: &str| {
        let found = seen().await;
        assert_eq!(
            (&found["pending"], &found["names"]),
            (&Value::Null, &Value::Null)
        );
        let unknown = found["unknown"].as_str().expect("a reason").to_owned();
        let (_, told) = unknown.split_once("see: ").expect("a remedy");
        assert_eq!(told, grants);
        told.to_owned()
    };
    let select = "GRANT SELECT ON public.refinery_schema_history TO app";
    let _ = hidden(select).await;
    server
        .execute("revoke all on schema public from public")
        .await
        .expect("revoked");
    let both = format!("GRANT USAGE ON SCHEMA public TO app; {select}");
    server
        .execute(&hidden(&both).await)
        .await
        .expect("as it says");
    assert_eq!(seen().await, pending(&["V2__add_name"]));

    // The report does not wait for a lock on the history.
    let working = other(&server.url()).await;
    let lock = "begin; lock table refinery_schema_history";
    working.batch_execute(lock).await.expect("locked");
    let found = seen().await;
    assert_eq!(found["pending"], Value::Null);
    assert!(found["unknown"].is_string(), "{found}");
    working.batch_execute("rollback").await.expect("done");

    let _ = some(2).runner(&owner).run().await.expect("it runs");
    assert_eq!(seen().await, pending(&[]));
}
