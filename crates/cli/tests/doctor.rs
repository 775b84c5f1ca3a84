//! Tests each finding of `antifreeze doctor` on a real server or PgBouncer.
//! `tests/golden/doctor/` has the expected output.

mod cli;

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::Duration;

use cli::doctor::{examine, examine_at, shop};
use cli::{Ran, client, pid, run, until};
use lab::certificates::Authority;
use lab::pgbouncer::{Builder, Mode, PgBouncer};
use lab::postgres::{Auth, Postgres};
use lab::relay::Relay;
use tokio::net::TcpSocket;

#[tokio::test]
async fn healthy_server_has_no_findings() {
    let (server, shop) = shop().await;
    let ran = examine_at(&server, &shop.url).await.exits(0);
    ran.is_golden("ok");
    let url = [("DATABASE_URL", shop.url.as_str())];
    let document = examine(&server, &url, &["--json"]).await.exits(0).json();
    assert_eq!(document["verdict"], "ok");
    let checks = document["checks"].as_array().expect("checks");
    let steps: Vec<_> = checks.iter().map(|check| check["step"].as_str()).collect();
    assert!(steps.contains(&Some("idle_in_transaction")), "{steps:?}");
}

/// A timeout that is sent may be shorter than the configured one. That is not a finding.
#[tokio::test]
async fn lowered_timeouts_are_not_findings() {
    let (server, shop) = shop().await;
    for (timeout, shown) in [("60s", "59999ms"), ("3s", "2999ms")] {
        let variables = [
            ("DATABASE_URL", shop.url.as_str()),
            ("ANTIFREEZE_FUNCTION_TIMEOUT", timeout),
        ];
        let ran = examine(&server, &variables, &[]).await.exits(0);
        let idle = format!("idle_in_transaction_session_timeout {shown} (antifreeze)");
        ran.assert_out(&idle);
    }
    // Settings of the URL are not checked.
    let own = shop.url.clone() + "?options=-c%20statement-timeout%3D7s";
    let ran = examine_at(&server, &own).await.exits(0);
    let shown = "statement_timeout 7s (client)";
    ran.assert_out(shown);
}

#[tokio::test]
async fn timeouts_that_are_off_are_no_findings() {
    let (server, shop) = shop().await;
    let off = [
        ("DATABASE_URL", shop.url.as_str()),
        ("ANTIFREEZE_STATEMENT_TIMEOUT", "0"),
        ("ANTIFREEZE_IDLE_IN_TRANSACTION_TIMEOUT", "0"),
        ("ANTIFREEZE_TRANSACTION_TIMEOUT", "0"),
        ("ANTIFREEZE_IDLE_SESSION_TIMEOUT", "0"),
    ];
    let ran = examine(&server, &off, &[]).await.exits(0);
    ran.assert_out("statement_timeout off, idle_in_transaction_session_timeout off");
}

#[tokio::test]
async fn unreachable_servers_are_diagnosed() {
    let ran = run(&[], &["doctor"]).await.exits(2);
    let no_database = ran.err.starts_with("error: no database");
    assert!(no_database, "{}", ran.err);

    let nowhere = [("DATABASE_URL", "postgres://app:hunter2@db.invalid/shop")];
    run(&nowhere, &["doctor"]).await.exits(2).is_golden("name");

    // It has the port, and does not listen.
    let silent = TcpSocket::new_v4().expect("a socket");
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    silent.bind(any).expect("a port");
    let port = silent.local_addr().expect("an address").port();
    let url = format!("postgres://app:hunter2@127.0.0.1:{port}/shop");
    // The output must not depend on whether the test runs in a container.
    let mut here = vec![
        ("DATABASE_URL", url.as_str()),
        ("AWS_LAMBDA_FUNCTION_NAME", "shop"),
    ];
    run(&here, &["doctor"]).await.exits(2).is_golden("refused");

    // The other endpoint works: the doctor continues there.
    let (server, shop) = shop().await;
    here.push(("DIRECT_URL", &shop.url));
    examine(&server, &here, &[])
        .await
        .exits(2)
        .is_golden("refused_twin");

    let unknown = [
        ("DATABASE_URL", shop.url.as_str()),
        ("ANTIFREEZE_COLOUR", "blue"),
        ("ANTIFREEZE_MAX_CONNECTIONS", "1"),
    ];
    examine(&server, &unknown, &[])
        .await
        .exits(1)
        .is_golden("unknown_variable");
    let misspelt = [
        ("DATABASE_URL", shop.url.as_str()),
        ("ANTIFREEZE_LIFETME", "per-invocation"),
    ];
    let ran = run(&misspelt, &["doctor"]).await.exits(2);
    let suggestion = "did you mean ANTIFREEZE_LIFETIME?\n";
    assert!(
        ran.err.contains("ANTIFREEZE_LIFETME") && ran.err.ends_with(suggestion),
        "{}",
        ran.err
    );
}

#[tokio::test]
async fn certificates_are_checked() {
    let authority = Authority::new().expect("an authority");
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), authority.pem()).expect("written");
    let roots = format!("&sslrootcert={}", file.path().display());
    let at = |server: &Postgres, sslmode: &str| {
        let url = server.url().replace("127.0.0.1", "localhost");
        format!("{url}?sslmode={sslmode}")
    };
    let good = authority.server(&["localhost"]).expect("a certificate");
    let good = Postgres::builder().tls_with(&authority, good).start().await;
    let good = good.expect("a server");
    let verified = at(&good, "verify-full") + &roots;
    examine_at(&good, &verified)
        .await
        .exits(0)
        .is_golden("tls_verified");
    let unverified = at(&good, "require");
    let ran = examine_at(&good, &unverified).await.exits(1);
    ran.is_golden("tls_unverified");

    let week = Duration::from_secs(7 * 24 * 60 * 60);
    let ending = authority
        .ending(&["localhost"], week)
        .expect("a certificate");
    let ending = Postgres::builder()
        .tls_with(&authority, ending)
        .start()
        .await;
    let ending = ending.expect("a server");
    let verified = at(&ending, "verify-full") + &roots;
    examine_at(&ending, &verified)
        .await
        .exits(1)
        .is_golden("tls_expires_soon");

    let expired = authority.expired(&["localhost"]).expect("a certificate");
    let expired = Postgres::builder()
        .tls_with(&authority, expired)
        .start()
        .await;
    let expired = expired.expect("a server");
    let url = at(&expired, "verify-full") + &roots;
    let ran = run(&[("DATABASE_URL", &url)], &["doctor"]).await.exits(2);
    ran.is_golden("tls_expired");
}

/// Returns an address of this machine that is not loopback.
fn outward() -> IpAddr {
    let socket = UdpSocket::bind("0.0.0.0:0").expect("a socket");
    // Sends nothing: the kernel selects the source address (TEST-NET-3, RFC 5737).
    socket.connect("203.0.113.1:9").expect("a route");
    socket.local_addr().expect("an address").ip()
}

#[tokio::test]
async fn unencrypted_connections_are_a_finding() {
    let address = outward();
    let server = Postgres::builder()
        .setting("listen_addresses", format!("127.0.0.1, {address}"))
        .rule("host all all samehost trust")
        .start()
        .await
        .expect("a server");
    let url = format!(
        "host=db.example.com hostaddr={address} port={} user=postgres dbname=postgres \
         sslmode=disable",
        server.port()
    );
    let mut ran = examine_at(&server, &url).await.exits(1);
    ran.out = ran.out.replace(&address.to_string(), "ADDRESS");
    ran.is_golden("unencrypted");
}

#[tokio::test]
async fn login_failures_are_explained() {
    let server = Postgres::builder().auth(Auth::Scram).start().await;
    let server = server.expect("a server");
    server.create_database("shop").await.expect("a database");
    server.create_role("app").await.expect("a role");
    let right = server.url_for("app", "shop");
    let wrong = right.replace(&format!(":{}@", Postgres::PASSWORD), ":hunter2@");
    examine_at(&server, &wrong)
        .await
        .exits(2)
        .is_golden("password");
    let near = server.url_for("app", "shp");
    examine_at(&server, &near)
        .await
        .exits(2)
        .is_golden("database_misspelt");
    let far = server.url_for("app", "warehouse");
    examine_at(&server, &far)
        .await
        .exits(2)
        .is_golden("database_unknown");
    // The role sees only its own sessions: the report must not say that none is idle.
    let other = client(&server.url(), "other").await;
    other.batch_execute("begin").await.expect("begun");
    examine_at(&server, &right)
        .await
        .exits(0)
        .is_golden("visibility");
}

#[tokio::test]
async fn lock_queues_name_the_blocking_session() {
    let (server, shop) = shop().await;
    let stuck = client(&shop.url, "shop:17").await;
    shop.execute("create table partners (a int)")
        .await
        .expect("a table");
    stuck
        .batch_execute("begin; select from partners")
        .await
        .expect("begun");
    let head = pid(&stuck).await;
    let migration = client(&shop.url, "migration").await;
    let reader = client(&shop.url, "shop:18").await;
    let look = client(&shop.url, "look").await;
    let waiting = |count: u32| {
        format!(
            "select count(*) = {count} and min(clock_timestamp() - state_change) > '150 ms' \
             from pg_stat_activity where wait_event_type = 'Lock'"
        )
    };
    let alter = migration.batch_execute("alter table partners add b int");
    let read = reader.batch_execute("select from partners");
    let examined = async {
        until(&look, &waiting(1)).await;
        let read = async { read.await.expect("read in the end") };
        let examined = async {
            until(&look, &waiting(2)).await;
            let url = [("DATABASE_URL", shop.url.as_str())];
            let limits = ["--idle-in-transaction", "100ms", "--transaction", "100ms"];
            let ran = examine(&server, &url, &limits).await.exits(1);
            ran.is_golden("locks");
            // The remedy works.
            let end = format!("pg_terminate_backend({head})");
            ran.assert_out(&end);
            let end = format!("select {end}");
            look.batch_execute(&end).await.expect("ended");
        };
        futures_util::join!(read, examined)
    };
    let (altered, _) = futures_util::join!(alter, examined);
    altered.expect("altered in the end");
}

#[tokio::test]
async fn deadlocks_are_a_finding() {
    let server = Postgres::builder()
        .setting("deadlock_timeout", "1min")
        .start()
        .await
        .expect("a server");
    let shop = server.create_database("shop").await.expect("a database");
    shop.execute("create table partners (a int); create table orders (a int)")
        .await
        .expect("tables");
    let first = client(&shop.url, "shop:17").await;
    let second = client(&shop.url, "shop:18").await;
    for (session, table) in [(&first, "partners"), (&second, "orders")] {
        let lock = format!("begin; lock table {table}");
        session.batch_execute(&lock).await.expect("locked");
    }
    let blocker = pid(&first).await;
    let look = client(&shop.url, "look").await;
    let examined = async {
        until(
            &look,
            "select count(*) = 2 from pg_stat_activity where wait_event_type = 'Lock'",
        )
        .await;
        let ran = examine_at(&server, &shop.url).await.exits(1);
        ran.is_golden("deadlock");
        let end = format!("select pg_terminate_backend({blocker})");
        look.batch_execute(&end).await.expect("ended");
    };
    let (ended, locked, ()) = futures_util::join!(
        first.batch_execute("lock table orders"),
        second.batch_execute("lock table partners"),
        examined
    );
    ended.expect_err("it was ended");
    locked.expect("locked in the end");
}

#[tokio::test]
async fn connection_limit_of_the_database_is_checked() {
    let (server, _) = shop().await;
    server.create_role("app").await.expect("a role");
    server
        .execute("alter database shop connection limit 7; grant pg_read_all_stats to app")
        .await
        .expect("a limit");
    let url = server.url_for("app", "shop");
    let mut held = Vec::new();
    for _ in 0..5 {
        held.push(client(&url, "shop:17").await);
    }
    let ran = examine_at(&server, &url).await.exits(1);
    ran.is_golden("slots_of_database");
}

#[tokio::test]
async fn scarce_and_exhausted_slots_are_findings() {
    let server = Postgres::builder()
        .setting("max_connections", 10)
        .start()
        .await;
    let server = server.expect("a server");
    server.create_database("shop").await.expect("a database");
    server.create_role("app").await.expect("a role");
    server
        .execute("alter role app connection limit 7; grant pg_read_all_stats to app")
        .await
        .expect("a limit");
    let url = server.url_for("app", "shop");
    let mut held = Vec::new();
    for _ in 0..5 {
        held.push(client(&url, "shop:17").await);
    }
    examine_at(&server, &url).await.exits(1).is_golden("slots");
    held.push(client(&server.url_for("postgres", "shop"), "reports").await);
    let variables = [("DATABASE_URL", url.as_str())];
    let ran = examine(&server, &variables, &["--wait", "0s"])
        .await
        .exits(2);
    ran.is_golden("slots_full");
    // A superuser's sessions take the reserved ones: more are in use than roles may have.
    let admin = server.url_for("postgres", "shop");
    held.push(client(&admin, "reports").await);
    let ran = examine_at(&server, &admin).await.exits(1);
    ran.assert_out("! slots: 9 of 10 in use (3 are reserved, all usable by this role): ");
}

#[tokio::test]
async fn read_only_servers_are_a_finding() {
    let (server, shop) = shop().await;
    shop.execute("alter database shop set default_transaction_read_only = on")
        .await
        .expect("set");
    examine_at(&server, &shop.url)
        .await
        .exits(1)
        .is_golden("read_only");
    server
        .execute("alter database shop reset default_transaction_read_only")
        .await
        .expect("reset");
    server.halt().await.expect("stopped");
    let signal = server.directory().join("data/standby.signal");
    std::fs::write(signal, "").expect("written");
    server.restart().await.expect("started");
    examine_at(&server, &shop.url)
        .await
        .exits(1)
        .is_golden("standby");
}

#[tokio::test]
async fn different_regions_are_a_finding() {
    let (server, shop) = shop().await;
    let here: tokio_postgres::Config = shop.url.parse().expect("a URL");
    let (user, port) = (here.get_user().expect("a user"), here.get_ports()[0]);
    let password = String::from_utf8_lossy(here.get_password().unwrap_or_default());
    // A host name that contains a region, with the address of the test's server.
    let url = format!(
        "host=shop.abc.eu-central-1.rds.amazonaws.com hostaddr=127.0.0.1 port={port} user={user} \
         password='{password}' dbname=shop sslmode=disable"
    );
    let far = [("DATABASE_URL", url.as_str()), ("AWS_REGION", "us-east-1")];
    let ran = examine(&server, &far, &[]).await.exits(1);
    ran.is_golden("region");
    let near = [
        ("DATABASE_URL", url.as_str()),
        ("AWS_REGION", "eu-central-1"),
    ];
    let ran = examine(&server, &near, &[]).await;
    ran.assert_out("both are in eu-central-1");
}

#[tokio::test]
async fn long_round_trips_are_a_finding() {
    let (server, shop) = shop().await;
    let relay = Relay::start(server.address()).await.expect("a relay");
    relay.delay(Duration::from_millis(40));
    let url = relay.url(&shop.url);
    let far = [("DATABASE_URL", url.as_str()), ("AWS_REGION", "us-east-1")];
    let ran = examine(&server, &far, &[]).await.exits(1);
    ran.is_golden("region_unknown");
}

/// Runs the doctor through a pooler in front of a new server. `path` is ANTIFREEZE_POOLER.
async fn examine_pooler(build: impl FnOnce(Builder) -> Builder, path: Option<&str>) -> Ran {
    let (server, shop) = shop().await;
    let pooler = build(PgBouncer::builder(&server)).start().await;
    let url = pooler.as_ref().expect("a pooler").url(&shop.url);
    let mut variables = vec![("DATABASE_URL", url.as_str())];
    variables.extend(path.map(|path| ("ANTIFREEZE_POOLER", path)));
    examine(&server, &variables, &[]).await
}

#[tokio::test]
async fn unconfigured_poolers_are_detected() {
    let ran = examine_pooler(|pooler| pooler, None).await.exits(1);
    ran.is_golden("pooler_unknown");
    let silent = "options,extra_float_digits";
    let ran = examine_pooler(
        |pooler| pooler.setting("ignore_startup_parameters", silent),
        None,
    );
    ran.await.exits(1).is_golden("pooler_silent");
}

#[tokio::test]
async fn session_state_of_poolers_is_tested() {
    let ran = examine_pooler(|pooler| pooler, Some("transaction")).await;
    ran.exits(1).is_golden("pooler");
    let session = |pooler: Builder| pooler.mode(Mode::Session);
    let leaky = |pooler: Builder| session(pooler).setting("server_reset_query", "");
    let ran = examine_pooler(leaky, Some("session")).await;
    ran.exits(1).is_golden("pooler_leaks");
    let ran = examine_pooler(session, Some("session")).await;
    let isolated = "session settings of one client do not reach another";
    ran.assert_out(isolated);
}

#[tokio::test]
async fn remedy_of_missing_timeouts_works() {
    let (server, shop) = shop().await;
    let pooler = || async { PgBouncer::builder(&server).start().await.expect("a pooler") };
    let first = pooler().await;
    let url = first.url(&shop.url);
    let variables = [
        ("DATABASE_URL", url.as_str()),
        ("ANTIFREEZE_POOLER", "transaction"),
    ];
    let json = run(&variables, &["doctor", "--json"]).await.exits(1).json();
    let checks = json["checks"].as_array().expect("checks");
    let check = checks.iter().find(|check| check["step"] == "timeouts");
    let remedy = check.and_then(|check| check["remedy"].as_str());
    shop.execute(remedy.expect("a remedy"))
        .await
        .expect("it is SQL");
    // ALTER ROLE applies to new sessions only: use a new pooler.
    let second = pooler().await;
    let url = second.url(&shop.url);
    let variables = [
        ("DATABASE_URL", url.as_str()),
        ("ANTIFREEZE_POOLER", "transaction"),
    ];
    run(&variables, &["doctor"]).await.exits(0);
}
