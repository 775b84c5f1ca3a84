//! Each finding of `antifreeze doctor`, provoked on a real server or PgBouncer:
//! `tests/golden/doctor/` holds what it says.

mod cli;

use cli::{at, client, run, until};
use lab::certificates::Authority;
use lab::pgbouncer::{Mode, PgBouncer};
use lab::postgres::{Auth, Postgres};
use tokio::net::TcpListener;

/// A cluster whose sessions are nobody else's, and the database `shop`.
async fn shop() -> (Postgres, lab::postgres::Database) {
    let server = Postgres::start().await.expect("a server");
    let shop = server.create_database("shop").await.expect("a database");
    (server, shop)
}

#[tokio::test]
async fn all_is_well() {
    let (_server, shop) = shop().await;
    let ran = at(&shop.url, &["doctor"]).await.exits(0);
    ran.is_golden("well");
    let ran = at(&shop.url, &["doctor", "--json"]).await.exits(0);
    let document = ran.json();
    assert_eq!(document["verdict"], "well");
    let checks = document["checks"].as_array().expect("checks");
    let steps: Vec<_> = checks.iter().map(|check| check["step"].as_str()).collect();
    assert!(steps.contains(&Some("idle_in_transaction")), "{steps:?}");
}

#[tokio::test]
async fn what_is_on_the_way_is_named() {
    let ran = run(&[], &["doctor"]).await.exits(2);
    assert!(
        ran.err.starts_with("error: no database is named"),
        "{}",
        ran.err
    );

    let nowhere = "postgres://app:hunter2@db.invalid/shop";
    at(nowhere, &["doctor"]).await.exits(2).is_golden("name");

    let free = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = free.local_addr().expect("an address").port();
    drop(free);
    let url = format!("postgres://app:hunter2@127.0.0.1:{port}/shop");
    at(&url, &["doctor"]).await.exits(2).is_golden("refused");

    let (_server, shop) = shop().await;
    let misspelt = [
        ("DATABASE_URL", shop.url.as_str()),
        ("ANTIFREEZE_LIFETME", "per-invocation"),
        ("ANTIFREEZE_MAX_CONNECTIONS", "1"),
        ("AWS_REGION", "eu-central-1"),
    ];
    run(&misspelt, &["doctor"])
        .await
        .exits(1)
        .is_golden("misspelt");
}

#[tokio::test]
async fn certificates_are_looked_at() {
    let authority = Authority::new().expect("an authority");
    let identity = authority.server(&["localhost"]).expect("a certificate");
    let server = Postgres::builder().tls_with(&authority, identity);
    let server = server.start().await.expect("a server");
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), authority.pem()).expect("written");
    let url = |sslmode: &str| {
        let url = server.url().replace("127.0.0.1", "localhost");
        format!("{url}?sslmode={sslmode}")
    };
    let roots = file.path().display().to_string();
    let good = format!("{}&sslrootcert={roots}", url("verify-full"));
    at(&good, &["doctor"]).await.exits(0).is_golden("tls_well");
    let ran = at(&url("require"), &["doctor"]).await.exits(1);
    ran.is_golden("tls_unverified");

    let expired = authority.expired(&["localhost"]).expect("a certificate");
    let server = Postgres::builder().tls_with(&authority, expired);
    let server = server.start().await.expect("a server");
    let url = server.url().replace("127.0.0.1", "localhost");
    let url = format!("{url}?sslmode=verify-full&sslrootcert={roots}");
    at(&url, &["doctor"])
        .await
        .exits(2)
        .is_golden("tls_expired");
}

#[tokio::test]
async fn who_is_not_let_in_is_told_why() {
    let server = Postgres::builder().auth(Auth::Scram).start().await;
    let server = server.expect("a server");
    server.create_database("shop").await.expect("a database");
    server.create_role("app").await.expect("a role");
    let right = server.url_for("app", "shop");
    let wrong = right.replace(Postgres::PASSWORD, "hunter2");
    at(&wrong, &["doctor"]).await.exits(2).is_golden("password");
    let near = server.url_for("app", "shp");
    at(&near, &["doctor"])
        .await
        .exits(2)
        .is_golden("database_near");
    let far = server.url_for("app", "warehouse");
    at(&far, &["doctor"])
        .await
        .exits(2)
        .is_golden("database_far");
    // The role sees itself alone.
    let other = client(&server.url_for("postgres", "shop"), "other").await;
    other.batch_execute("begin").await.expect("begun");
    at(&right, &["doctor"])
        .await
        .exits(0)
        .is_golden("visibility");
}

#[tokio::test]
async fn who_blocks_whom() {
    let (_server, shop) = shop().await;
    let stuck = client(&shop.url, "shop:17").await;
    stuck
        .batch_execute("create table partners (a int); begin; select from partners")
        .await
        .expect("begun");
    let migration = client(&shop.url, "migration").await;
    let reader = client(&shop.url, "shop:18").await;
    let alter = tokio::spawn(async move {
        let _ = migration
            .batch_execute("alter table partners add b int")
            .await;
    });
    let look = client(&shop.url, "look").await;
    let waiting = |count: u32| {
        format!(
            "select count(*) = {count} and min(clock_timestamp() - state_change) > '150 ms' \
             from pg_stat_activity where wait_event_type = 'Lock'"
        )
    };
    until(&look, &waiting(1)).await;
    let read = tokio::spawn(async move {
        let _ = reader.batch_execute("select from partners").await;
    });
    until(&look, &waiting(2)).await;
    drop(look);
    let watcher = client(&shop.url, "watcher").await;
    until(
        &watcher,
        "select count(*) = 0 from pg_stat_activity where application_name = 'look'",
    )
    .await;
    drop(watcher);
    let limits = [
        "doctor",
        "--idle-in-transaction",
        "100ms",
        "--transaction",
        "100ms",
    ];
    let ran = at(&shop.url, &limits).await.exits(1);
    // Whether the watcher has gone by now is the server's affair.
    let out = ran
        .out
        .replace("; watcher 1 (1 idle)", "")
        .replace("4 of 97", "5 of 97");
    let ran = cli::Ran {
        out: out.replace("6 of 97", "5 of 97"),
        ..ran
    };
    ran.is_golden("locks");
    alter.abort();
    read.abort();
}

#[tokio::test]
async fn few_slots() {
    let server = Postgres::builder()
        .setting("max_connections", 10)
        .start()
        .await;
    let server = server.expect("a server");
    server.create_database("shop").await.expect("a database");
    server.create_role("app").await.expect("a role");
    server
        .execute("alter role app connection limit 8; grant pg_read_all_stats to app")
        .await
        .expect("a limit");
    let url = server.url_for("app", "shop");
    let mut held = Vec::new();
    for _ in 0..6 {
        held.push(client(&url, "shop:17").await);
    }
    at(&url, &["doctor"]).await.exits(1).is_golden("slots");
    held.push(client(&url, "shop:17").await);
    let full = ["doctor", "--wait", "0s"];
    at(&url, &full).await.exits(2).is_golden("slots_full");
}

#[tokio::test]
async fn what_cannot_be_written_to() {
    let (server, shop) = shop().await;
    shop.execute("alter database shop set default_transaction_read_only = on")
        .await
        .expect("set");
    at(&shop.url, &["doctor"])
        .await
        .exits(1)
        .is_golden("read_only");
    shop.execute(
        "set default_transaction_read_only = off; \
         alter database shop reset default_transaction_read_only",
    )
    .await
    .expect("reset");
    server.halt().await.expect("stopped");
    let signal = server.directory().join("data/standby.signal");
    std::fs::write(signal, "").expect("written");
    server.restart().await.expect("started");
    at(&shop.url, &["doctor"])
        .await
        .exits(1)
        .is_golden("standby");
}

#[tokio::test]
async fn poolers_and_what_they_do() {
    let (server, shop) = shop().await;
    // Refused at the start: it is seen for what it is.
    let pooler = PgBouncer::builder(&server).start().await.expect("a pooler");
    let url = pooler.url(&shop.url);
    at(&url, &["doctor"])
        .await
        .exits(1)
        .is_golden("pooler_unknown");
    let told = [
        ("DATABASE_URL", url.as_str()),
        ("ANTIFREEZE_PATH", "transaction-pooler"),
    ];
    run(&told, &["doctor"]).await.exits(1).is_golden("pooler");
    // What its finding says to do helps.
    shop.execute(
        "alter role postgres set statement_timeout = '30000ms'; \
         alter role postgres set idle_in_transaction_session_timeout = '60000ms'",
    )
    .await
    .expect("set");
    let fresh = PgBouncer::builder(&server).start().await.expect("a pooler");
    let url = fresh.url(&shop.url);
    let told = [
        ("DATABASE_URL", url.as_str()),
        ("ANTIFREEZE_PATH", "transaction-pooler"),
    ];
    run(&told, &["doctor"]).await.exits(0);
    shop.execute("alter role postgres reset all")
        .await
        .expect("reset");

    let silent = PgBouncer::builder(&server)
        .setting("ignore_startup_parameters", "options,extra_float_digits")
        .start()
        .await
        .expect("a pooler");
    let url = silent.url(&shop.url);
    at(&url, &["doctor"])
        .await
        .exits(1)
        .is_golden("pooler_silent");

    let leaky = PgBouncer::builder(&server)
        .mode(Mode::Session)
        .setting("server_reset_query", "")
        .start()
        .await
        .expect("a pooler");
    let url = leaky.url(&shop.url);
    let told = [
        ("DATABASE_URL", url.as_str()),
        ("ANTIFREEZE_PATH", "session-pooler"),
    ];
    run(&told, &["doctor"])
        .await
        .exits(1)
        .is_golden("pooler_leaks");
}
