//! The command `antifreeze` while every slot is taken.

mod cli;

use cli::{PLENTY, at, client, command, run};
use lab::pgbouncer::PgBouncer;
use lab::postgres::Postgres;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio_postgres::Client;

/// A server that has no slot left for `app`, and who holds them.
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
async fn command_waits_for_a_slot_and_keeps_it() {
    let (_server, url, mut held) = full().await;
    let files = tempfile::tempdir().expect("a directory");
    std::fs::write(files.path().join("V1__one.sql"), "select 1").expect("written");
    let directory = files.path().to_str().expect("a path");
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
        // The doctor says it as a finding.
        let seen = if doctor {
            let lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
            wait_for(lines, "slots").await
        } else {
            let lines = BufReader::new(child.stderr.take().expect("a pipe")).lines();
            wait_for(lines, "no slot").await
        };
        assert!(seen, "{arguments:?} does not say that it waits");
        assert_eq!(
            child.try_wait().expect("a child"),
            None,
            "{arguments:?} waits"
        );
        let freed = held.pop().expect("one");
        drop(freed);
        let status = tokio::time::timeout(PLENTY, child.wait()).await;
        let code = status.expect("it ends").expect("a status").code();
        // A server that is full is a finding of the doctor's.
        let expected = i32::from(doctor);
        assert_eq!(code, Some(expected), "{arguments:?}");
        held.push(again(&url).await);
    }
}

/// A slot that the command has given back.
async fn again(url: &str) -> Client {
    let end = std::time::Instant::now() + PLENTY;
    loop {
        let connected = tokio_postgres::connect(url, tokio_postgres::NoTls).await;
        match connected {
            Ok((client, connection)) => {
                tokio::spawn(connection);
                return client;
            }
            Err(error) => assert!(std::time::Instant::now() < end, "{error}"),
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
}

/// The rest is read, too: a pipe that nobody empties would keep it waiting.
async fn wait_for<R: tokio::io::AsyncRead + Unpin + Send + 'static>(
    mut lines: tokio::io::Lines<BufReader<R>>,
    word: &str,
) -> bool {
    let look = async {
        while let Ok(Some(line)) = lines.next_line().await {
            if line.contains(word) {
                return true;
            }
        }
        false
    };
    let seen = tokio::time::timeout(PLENTY, look).await.unwrap_or(false);
    tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
    seen
}

#[tokio::test]
async fn working_ways_in_are_named_or_taken() {
    let (server, url, _held) = full().await;
    let migrate = &["migrate", "--run", "true", "--wait", "100ms"];
    let ran = at(&url, migrate).await.exits(2);
    let line = ran.err.lines().find(|line| line.starts_with("error: "));
    let line = line.expect("why");
    assert!(
        line.starts_with("error: no slot was free for 100 ms: "),
        "{line}"
    );
    assert!(line.contains("MIGRATION_DATABASE_URL"), "{line}");
    let reserved = [
        ("DATABASE_URL", url.as_str()),
        ("MIGRATION_DATABASE_URL", &server.url()),
        ("PATH", "/usr/bin:/bin"),
    ];
    run(&reserved, migrate).await.exits(0);
    // What it makes is not to be the admin's.
    let admin = &["migrate", "--admin-url", "env:MIGRATION_DATABASE_URL"];
    let ran = run(&reserved, admin).await.exits(2);
    assert!(ran.err.contains("would belong to the admin"), "{}", ran.err);

    let ran = at(&url, &["sessions", "--wait", "0s"]).await.exits(2);
    assert!(ran.err.contains("--admin-url"), "{}", ran.err);
    assert!(
        ran.err.contains("pg_use_reserved_connections"),
        "{}",
        ran.err
    );
    let json = at(&url, &["sessions", "--wait", "0s", "--json"])
        .await
        .exits(2)
        .json();
    assert!(json["error"].as_str().is_some(), "{json}");

    // A superuser has slots of his own.
    let admin = server.url();
    let variables = [
        ("DATABASE_URL", url.as_str()),
        ("ADMIN_DATABASE_URL", &admin),
    ];
    let ran = run(&variables, &["sessions", "--wait", "0s"])
        .await
        .exits(0);
    assert!(
        ran.err.contains("connected by the admin's URL"),
        "{}",
        ran.err
    );
    assert!(ran.out.contains("shop:17"), "{}", ran.out);
    let named = [("DATABASE_URL", url.as_str()), ("KEY", &admin)];
    let ran = run(
        &named,
        &["doctor", "--wait", "0s", "--admin-url", "env:KEY"],
    )
    .await
    .exits(1);
    assert!(ran.out.contains("by the admin's URL"), "{}", ran.out);
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
    assert!(
        ran.err.contains("connected by the direct endpoint"),
        "{}",
        ran.err
    );
}

/// What a pooler that nobody has told of refuses at start-up is left out, as the function
/// leaves it out.
#[tokio::test]
async fn undeclared_pooler_is_no_hindrance() {
    let server = Postgres::start().await.expect("a server");
    let pooler = PgBouncer::builder(&server).start().await;
    let url = pooler.expect("a pooler");
    let url = url.url(&server.url());
    let files = tempfile::tempdir().expect("a directory");
    let file = files.path().join("one.sql");
    std::fs::write(&file, "select 1 from pg_class").expect("written");
    let file = file.to_str().expect("a path");
    for arguments in [
        &["sessions"][..],
        &["plan", "--instances", "1"],
        &["check", file],
    ] {
        at(&url, arguments).await.exits(0);
    }
}

/// A pooler that is full in one of its ways, and who fills it.
async fn full_pooler(way: &str) -> (Postgres, PgBouncer, Client) {
    let server = Postgres::start().await.expect("a server");
    let pooler = PgBouncer::builder(&server);
    let pooler = match way {
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
async fn full_pooler_is_recognised() {
    for way in ["clients", "servers", "silent"] {
        let (server, pooler, held) = full_pooler(way).await;
        let direct = server.url();
        let pooled = format!("{}?connect_timeout=2", pooler.url(&direct));
        let path = ("ANTIFREEZE_POOLER", "transaction");
        let database = ("DATABASE_URL", pooled.as_str());
        for told in [&[][..], &[path]] {
            let variables = [&[database, ("DIRECT_URL", direct.as_str())][..], told].concat();
            for (command, code) in [("sessions", 0), ("doctor", 1)] {
                let ran = run(&variables, &[command, "--wait", "0s"])
                    .await
                    .exits(code);
                let said = format!("{}{}", ran.out, ran.err);
                assert!(said.contains("by the direct endpoint"), "{way}: {said}");
                assert!(!said.contains("Path::"), "{way}: {said}");
            }
            let variables = [&[database][..], told].concat();
            let ran = run(&variables, &["sessions", "--wait", "100ms"]).await;
            let ran = ran.exits(2);
            assert!(ran.err.contains("--admin-url"), "{way}: {}", ran.err);
        }
        // It waits, and takes what becomes free.
        let mut child = command(&[database], &["sessions", "--wait", "50s"])
            .spawn()
            .expect("it starts");
        let lines = BufReader::new(child.stderr.take().expect("a pipe")).lines();
        assert!(wait_for(lines, "no slot").await, "{way}");
        drop(held);
        let status = tokio::time::timeout(PLENTY, child.wait()).await;
        let code = status.expect("it ends").expect("a status").code();
        assert_eq!(code, Some(0), "{way}");
    }
}
