//! The round trips of connecting, counted by a relay, for each authentication, guessed right and
//! wrong.

mod common;

use std::cell::Cell;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use antifreeze::config::GuessAuthentication;
use antifreeze::{Config, Database, ErrorKind};
use common::capture::Capture;
use common::{PLENTY, kind, lab_over_relay, lease_and_return};
use lab::certificates::Authority;
use lab::pgbouncer::PgBouncer;
use lab::postgres::{Auth, Installation, Postgres};
use lab::relay::Relay;
use tokio::time::timeout;

const AUTO: GuessAuthentication = GuessAuthentication::Auto;
const OFF: GuessAuthentication = GuessAuthentication::Off;

/// Connections and round trips, without the TCP handshakes, of two sessions.
type Costs = [(u64, u64); 2];

/// Opens a session, and counts connections and round trips until it has begun.
async fn cost(database: &Database, relay: &Relay) -> (u64, u64) {
    let before = relay.counts();
    let session = database.session().await.expect("a session");
    let counts = relay.counts().since(before);
    session.simple_query("select 1").await.expect("a row");
    session.close(Duration::from_secs(5)).await;
    // A wrong guess may still be refused.
    let gone = async {
        while relay.open_connections() > 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(PLENTY, gone).await.expect("none is left");
    relay.quiet(Duration::from_millis(20)).await;
    (counts.connections, counts.round_trips)
}

fn database(url: &str, guess: GuessAuthentication) -> Database {
    let config = Config::from_url(url).expect("a URL");
    Database::new(config.guess_authentication(guess)).expect("settings")
}

/// A URL of the superuser for another user, with parameters.
fn with(url: &str, user: &str, parameters: &str) -> String {
    let url = url.replacen("postgres://postgres", &format!("postgres://{user}"), 1);
    format!(
        "{url}{}{parameters}",
        if url.contains('?') { "&" } else { "?" }
    )
}

/// A server where each role has another authentication.
async fn server(installation: Option<Installation>) -> Postgres {
    let authority = Authority::new().expect("an authority");
    let identity = authority.server(&["127.0.0.1"]).expect("a certificate");
    let server = Postgres::builder()
        .rule("host all trusted all trust")
        .rule("host all plain all password")
        .rule("host all hashed all md5")
        .auth(Auth::Scram)
        .tls_with(&authority, identity);
    let server = match installation {
        Some(installation) => server.installation(installation),
        None => server,
    };
    let server = server.start().await.expect("a server");
    for role in ["trusted", "plain", "hashed"] {
        server.create_role(role).await.expect("a role");
    }
    let md5 = format!(
        "set password_encryption = md5; alter role hashed password '{}'",
        Postgres::PASSWORD
    );
    server.execute(&md5).await.expect("a password");
    server
}

async fn check(server: &Postgres, parameters: &str, tls: u64, guess: GuessAuthentication) {
    let relay = Relay::start(server.address()).await.expect("a relay");
    let costs: [(&str, Costs); 4] = if guess == OFF {
        [
            ("postgres", [(1, 3), (1, 3)]),
            ("trusted", [(1, 1), (1, 1)]),
            ("plain", [(1, 2), (1, 2)]),
            ("hashed", [(1, 2), (1, 2)]),
        ]
    } else {
        [
            ("postgres", [(1, 2), (1, 2)]),
            // A wrong guess costs another connection once.
            ("trusted", [(2, 2), (1, 1)]),
            ("plain", [(2, 3), (1, 2)]),
            ("hashed", [(2, 3), (1, 2)]),
        ]
    };
    for (user, costs) in costs {
        let url = with(&relay.url(&server.url()), user, parameters);
        let database = database(&url, guess);
        for (connections, round_trips) in costs {
            let expected = (connections, round_trips + connections * tls);
            let mut counted = cost(&database, &relay).await;
            // TLS may end the abandoned connection with an exchange that is not awaited.
            if connections == 2 && counted.1 == expected.1 + 1 {
                counted = expected;
            }
            assert_eq!(counted, expected, "{user} {guess:?} {parameters}");
        }
    }
}

#[tokio::test]
async fn guessed_scram_saves_a_round_trip() {
    let server = server(None).await;
    for guess in [AUTO, OFF] {
        check(&server, "sslmode=disable", 0, guess).await;
        // SSLRequest, and the handshake of TLS 1.3.
        check(&server, "sslmode=require", 2, guess).await;
        let unbound = "sslmode=require&channel_binding=disable";
        check(&server, unbound, 2, guess).await;
    }
    assert!(!server.log().contains("password authentication failed"));
}

#[tokio::test]
async fn every_version_is_guessed() {
    for version in ["14", "16", "17", "18"] {
        let installation = Installation::embedded(version).expect(version);
        let server = server(Some(installation)).await;
        check(&server, "sslmode=disable", 0, AUTO).await;
        check(&server, "sslmode=require", 2, AUTO).await;
        if matches!(version, "17" | "18") {
            let direct = "sslmode=require&sslnegotiation=direct";
            check(&server, direct, 1, AUTO).await;
        }
    }
}

/// Also where PostgreSQL reports its `search_path`, from 18 on: a pooler may report another's.
#[tokio::test]
async fn schema_is_queried_once() {
    for version in ["17", "18"] {
        let installation = Installation::embedded(version).expect(version);
        let server = Postgres::builder().installation(installation);
        let server = server.auth(Auth::Scram).start().await.expect("a server");
        let relay = Relay::start(server.address()).await.expect("a relay");
        let url = with(&relay.url(&server.url()), "postgres", "sslmode=disable");
        let config = Config::from_url(&url).expect("a URL").schema("shop");
        let database = Database::new(config).expect("settings");
        let costs = [cost(&database, &relay).await, cost(&database, &relay).await];
        assert_eq!(costs, [(1, 3), (1, 2)], "{version}");
    }
}

#[tokio::test]
async fn pgbouncer_is_guessed() {
    let authority = Authority::new().expect("an authority");
    let identity = authority.server(&["127.0.0.1"]).expect("a certificate");
    let files = tempfile::tempdir().expect("a directory");
    let mut paths = Vec::new();
    for (name, pem) in [
        ("cert.pem", identity.certificate()),
        ("key.pem", identity.key()),
    ] {
        let path = files.path().join(name);
        std::fs::write(&path, pem).expect("written");
        // PgBouncer may run as another user.
        for path in [files.path(), &path] {
            let readable = std::fs::Permissions::from_mode(0o755);
            std::fs::set_permissions(path, readable).expect("readable");
        }
        paths.push(path);
    }
    let server = Postgres::builder().auth(Auth::Scram);
    let server = server.start().await.expect("a server");
    for (auth, costs) in [
        (Auth::Scram, [(1, 2), (1, 2)]),
        (Auth::Trust, [(2, 2), (1, 1)]),
    ] {
        let pooler = PgBouncer::builder(&server)
            .auth(auth)
            .setting("client_tls_sslmode", "allow")
            .setting("client_tls_cert_file", paths[0].display())
            .setting("client_tls_key_file", paths[1].display());
        let pooler = pooler.start().await.expect("a pooler");
        let relay = Relay::start(pooler.address()).await.expect("a relay");
        let url = relay.url(&pooler.url(&server.url()));
        // Else the tickets of TLS, for which nothing waits, come between two packets.
        relay.delay(Duration::from_millis(100));
        for (mode, tls) in [("disable", 0), ("require", 2)] {
            let parameters = format!("sslmode={mode}&pgbouncer=true");
            let database = database(&with(&url, "postgres", &parameters), AUTO);
            for (connections, round_trips) in costs {
                let expected = (connections, round_trips + connections * tls);
                let counted = cost(&database, &relay).await;
                assert_eq!(counted, expected, "{auth:?} {mode}");
            }
        }
    }
}

/// The refusal of the settings is no answer to the guess, which is not repeated without it.
#[tokio::test]
async fn refused_settings_do_not_end_the_guess() {
    let server = Postgres::builder().auth(Auth::Scram);
    let server = server.start().await.expect("a server");
    let pooler = PgBouncer::builder(&server).auth(Auth::Scram);
    let pooler = pooler.start().await.expect("a pooler");
    let relay = Relay::start(pooler.address()).await.expect("a relay");
    let url = relay.url(&pooler.url(&server.url()));
    let database = database(&with(&url, "postgres", "sslmode=disable"), AUTO);
    let costs = [cost(&database, &relay).await, cost(&database, &relay).await];
    assert_eq!(costs, [(2, 3), (1, 2)]);
}

/// The guess changes nothing about errors.
#[tokio::test]
async fn wrong_passwords_are_refused_once() {
    let server = server(None).await;
    for user in ["postgres", "plain", "hashed"] {
        let failures = |log: &str| log.matches("password authentication failed").count();
        let before = failures(&server.log());
        let url = with(&server.url(), user, "sslmode=require");
        let url = url.replace(Postgres::PASSWORD, "wrong");
        let error = database(&url, AUTO).session().await.expect_err("refused");
        assert_eq!(error.kind(), ErrorKind::Authentication, "{error}");
        assert_eq!(error.sqlstate().map(|state| state.code()), Some("28P01"));
        assert_eq!(failures(&server.log()) - before, 1, "{user}");
    }
}

/// A freeze in the pause before another try, or a busy machine: the reason is not lost to a try
/// that has no time.
#[tokio::test]
async fn late_retry_keeps_the_reason() {
    let limit = Duration::from_millis(500);
    let (capture, _guard) = Capture::start();
    let (lab, relay) = lab_over_relay(|config| config.connect_timeout(limit)).await;
    for _ in 0..10 {
        relay.resume();
        relay.refuse(true).await.expect("refusing");
        let ended = Cell::new(false);
        let work = async {
            let error = lab.run(lease_and_return()).await.expect_err("refused");
            ended.set(true);
            error
        };
        let freeze = async {
            while capture.of("connecting failed; retrying").is_empty() {
                if ended.get() {
                    // The machine was so busy that there was no time for another try.
                    return false;
                }
                tokio::task::yield_now().await;
            }
            // Nothing else runs meanwhile, and then nobody answers.
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
                    relay.stall();
                    let listens = runtime.block_on(relay.refuse(false));
                    listens.expect("listening");
                    std::thread::sleep(limit);
                });
            });
            true
        };
        let (error, froze) = tokio::join!(work, freeze);
        if froze {
            assert_eq!(kind(&error), Some(ErrorKind::Refused), "{error}");
            return;
        }
    }
    panic!("it is tried again");
}
