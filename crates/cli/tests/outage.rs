//! Tests the command `antifreeze` while every connection slot is taken.

mod cli;

use cli::{Directory, at, client, command, exit_code, run, wait_for_line};
use lab::pgbouncer::PgBouncer;
use lab::postgres::Postgres;
use tokio_postgres::Client;

/// Starts a server with no slot left for `app`; returns the clients that hold the slots.
async fn full() -> (Postgres, String, Vec<Client>) {
    let server = Postgres::builder()
        .setting("max_connections", 8)
        .start()
        .await;
    let server = server.expect("a server");
    server.create_role("app").await.expect("a role");
    let grant = "grant create on schema public to app";
    server.execute(grant).await.expect("granted");
    let url = server.url_for("app", "postgres");
    let mut held = Vec::new();
    for _ in 0..5 {
        held.push(client(&url, "shop:17").await);
    }
    (server, url, held)
}

#[tokio::test]
async fn commands_wait_for_a_slot() {
    let (_server, url, mut held) = full().await;
    let files = Directory::with("V1__one.sql", "select 1");
    let directory = files.path();
    for arguments in [
        &["migrate", "--directory", directory, "--wait", "50s"][..],
        &[
            "migrate",
            "--directory",
            directory,
            "status",
            "--wait",
            "50s",
        ],
        &["migrate", "--run", "true", "--wait", "50s"],
        &["sessions", "--wait", "50s"],
        &["doctor", "--wait", "50s"],
        &["plan", "--instances", "1", "--wait", "50s"],
    ] {
        let mut child = command(&[("DATABASE_URL", &url)], arguments)
            .spawn()
            .expect("it starts");
        let doctor = arguments[0] == "doctor";
        let errors = child.stderr.take().expect("a pipe");
        wait_for_line(errors, "no connection slot is free").await;
        assert_eq!(
            child.try_wait().expect("a child"),
            None,
            "{arguments:?} waits"
        );
        let freed = held.pop().expect("a client");
        drop(freed);
        let code = exit_code(&mut child).await;
        assert_eq!(code, i32::from(doctor), "{arguments:?}");
        held.push(client(&url, "shop:17").await);
    }
}

#[tokio::test]
async fn reserved_routes_are_named_or_used() {
    let (server, url, _held) = full().await;
    let migrate = &["migrate", "--run", "true", "--wait", "100ms"];
    let ran = at(&url, migrate).await.exits(2);
    let line = ran.err.lines().find(|line| line.starts_with("error: "));
    let line = line.expect("an error");
    assert!(
        line.starts_with("error: no connection slot became free within 100 ms: "),
        "{line}"
    );
    assert!(line.contains("MIGRATION_DATABASE_URL"), "{line}");
    let reserved = [
        ("DATABASE_URL", url.as_str()),
        ("MIGRATION_DATABASE_URL", &server.url()),
        ("PATH", "/usr/bin:/bin"),
    ];
    run(&reserved, migrate).await.exits(0);
    // New tables must not belong to the admin role.
    let admin = &["migrate", "--admin-url", "env:MIGRATION_DATABASE_URL"];
    let ran = run(&reserved, admin).await.exits(2);
    ran.assert_err("would belong to the admin");

    let ran = at(&url, &["sessions", "--wait", "0s"]).await.exits(2);
    ran.assert_err("--admin-url");
    ran.assert_err("pg_use_reserved_connections");
    let json = at(&url, &["sessions", "--wait", "0s", "--json"])
        .await
        .exits(2)
        .json();
    assert!(json["error"].as_str().is_some(), "{json}");

    // Slots are reserved for superusers.
    let admin = server.url();
    let variables = [
        ("DATABASE_URL", url.as_str()),
        ("ADMIN_DATABASE_URL", &admin),
    ];
    let ran = run(&variables, &["sessions", "--wait", "0s"])
        .await
        .exits(0);
    ran.assert_err("connected by the admin URL");
    ran.assert_out("shop:17");
    let named = [("DATABASE_URL", url.as_str()), ("KEY", &admin)];
    let ran = run(
        &named,
        &["doctor", "--wait", "0s", "--admin-url", "env:KEY"],
    )
    .await
    .exits(1);
    ran.assert_out("by the admin URL");
}

#[tokio::test]
async fn direct_endpoint_replaces_a_full_pooler() {
    let server = Postgres::start().await.expect("a server");
    let pooler = PgBouncer::builder(&server)
        .setting("max_client_conn", 1)
        .start()
        .await;
    let pooler = pooler.expect("a pooler");
    let (direct, pooled) = (server.url(), pooler.url(&server.url()));
    let _held = client(&pooled, "shop:17").await;
    let variables = [
        ("DATABASE_URL", pooled.as_str()),
        ("ANTIFREEZE_POOLER", "transaction"),
        ("DIRECT_URL", direct.as_str()),
    ];
    let ran = run(&variables, &["sessions", "--wait", "0s"])
        .await
        .exits(0);
    ran.assert_err("connected by the direct endpoint");
}

/// Settings that an unconfigured pooler refuses at start-up are left out, as in a function.
#[tokio::test]
async fn unconfigured_poolers_are_supported() {
    let server = Postgres::start().await.expect("a server");
    let pooler = PgBouncer::builder(&server).start().await;
    let url = pooler.expect("a pooler");
    let url = url.url(&server.url());
    let files = Directory::with("one.sql", "select 1 from pg_class");
    for arguments in [
        &["sessions"][..],
        &["plan", "--instances", "1"],
        &["check", files.path()],
    ] {
        at(&url, arguments).await.exits(0);
    }
}

/// Starts a pooler whose `limit` is reached; returns the client that holds the slot.
async fn full_pooler(limit: &str) -> (Postgres, PgBouncer, Client) {
    let server = Postgres::start().await.expect("a server");
    let pooler = PgBouncer::builder(&server);
    let pooler = match limit {
        "clients" => pooler.setting("max_client_conn", 1),
        "servers" => pooler.pool_size(1).setting("query_wait_timeout", 1),
        _ => pooler.pool_size(1),
    };
    let pooler = pooler.start().await.expect("a pooler");
    let held = client(&pooler.url(&server.url()), "shop:17").await;
    held.batch_execute("begin").await.expect("begun");
    (server, pooler, held)
}

#[tokio::test]
async fn full_poolers_are_detected() {
    for limit in ["clients", "servers", "silent"] {
        let (server, pooler, held) = full_pooler(limit).await;
        let direct = server.url();
        let pooled = format!("{}?connect_timeout=2", pooler.url(&direct));
        let path = ("ANTIFREEZE_POOLER", "transaction");
        let database = ("DATABASE_URL", pooled.as_str());
        for configured in [&[][..], &[path]] {
            let variables = [&[database, ("DIRECT_URL", direct.as_str())][..], configured].concat();
            for (command, code) in [("sessions", 0), ("doctor", 1)] {
                let ran = run(&variables, &[command, "--wait", "0s"])
                    .await
                    .exits(code);
                let output = format!("{}{}", ran.out, ran.err);
                assert!(
                    output.contains("by the direct endpoint"),
                    "{limit}: {output}"
                );
                assert!(!output.contains("Path::"), "{limit}: {output}");
            }
            let variables = [&[database][..], configured].concat();
            let ran = run(&variables, &["sessions", "--wait", "100ms"]).await;
            let ran = ran.exits(2);
            assert!(ran.err.contains("--admin-url"), "{limit}: {}", ran.err);
        }
        // The command waits, and takes the slot that becomes free.
        let mut child = command(&[database], &["sessions", "--wait", "50s"])
            .spawn()
            .expect("it starts");
        let errors = child.stderr.take().expect("a pipe");
        wait_for_line(errors, "no connection slot is free").await;
        drop(held);
        assert_eq!(exit_code(&mut child).await, 0, "{limit}");
    }
}
