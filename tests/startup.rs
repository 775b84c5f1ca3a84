//! The round trips of connecting, counted by a relay, for each authentication, guessed right and
//! wrong.

use std::time::Duration;

use antifreeze::config::GuessAuthentication;
use antifreeze::{Config, Database};
use lab::certificates::Authority;
use lab::pgbouncer::PgBouncer;
use lab::postgres::{Auth, Postgres};
use lab::relay::Relay;

/// Connections and round trips, without the TCP handshakes, of one session.
async fn cost(database: &Database, relay: &Relay) -> (u64, u64) {
    let before = relay.counts();
    let session = database.session().await.expect("a session");
    let counts = relay.counts().since(before);
    session.simple_query("select 1").await.expect("a row");
    session.close(Duration::from_secs(5)).await;
    relay.quiet(Duration::from_millis(20)).await;
    (counts.connections, counts.round_trips)
}

fn database(url: &str, guess: GuessAuthentication) -> Database {
    let config = Config::from_url(url).expect("a URL");
    Database::new(config.guess_authentication(guess)).expect("settings")
}

fn with(url: &str, user: &str, parameters: &str) -> String {
    let url = url.replacen("postgres://postgres", &format!("postgres://{user}"), 1);
    format!(
        "{url}{}{parameters}",
        if url.contains('?') { "&" } else { "?" }
    )
}

const AUTO: GuessAuthentication = GuessAuthentication::Auto;
const OFF: GuessAuthentication = GuessAuthentication::Off;

#[tokio::test]
async fn scram_saves_a_round_trip_if_guessed() {
    let authority = Authority::new().expect("an authority");
    let identity = authority.server(&["localhost", "127.0.0.1"]).expect("one");
    let server = Postgres::builder()
        .rule("host all trusted all trust")
        .rule("host all plain all password")
        .rule("host all hashed all md5")
        .auth(Auth::Scram)
        .tls_with(&authority, identity);
    let server = server.start().await.expect("a server");
    for role in ["trusted", "plain", "hashed"] {
        server.create_role(role).await.expect("a role");
    }
    let md5 = format!(
        "set password_encryption = md5; alter role hashed password '{}'",
        Postgres::PASSWORD
    );
    server.execute(&md5).await.expect("a password");
    let relay = Relay::start(server.address()).await.expect("a relay");
    let url = relay.url(&server.url());

    for (user, guess, plain) in [
        ("postgres", AUTO, [(1, 2), (1, 2)]),
        ("postgres", OFF, [(1, 3), (1, 3)]),
        // A wrong guess costs another connection once.
        ("trusted", AUTO, [(2, 2), (1, 1)]),
        ("trusted", OFF, [(1, 1), (1, 1)]),
        ("plain", AUTO, [(2, 3), (1, 2)]),
        ("plain", OFF, [(1, 2), (1, 2)]),
        ("hashed", AUTO, [(2, 3), (1, 2)]),
        ("hashed", OFF, [(1, 2), (1, 2)]),
    ] {
        for (parameters, added) in [
            ("sslmode=disable", 0),
            ("sslmode=require", 2),
            ("sslmode=require&channel_binding=disable", 2),
        ] {
            let database = database(&with(&url, user, parameters), guess);
            for (connections, round_trips) in plain {
                let expected = (connections, round_trips + connections * added);
                let mut counted = cost(&database, &relay).await;
                // TLS may end the abandoned connection with an exchange that is not awaited.
                if connections == 2 && counted.1 == expected.1 + 1 {
                    counted = expected;
                }
                assert_eq!(counted, expected, "{user} {guess:?} {parameters}");
            }
        }
    }
}

#[tokio::test]
async fn pgbouncer_is_guessed() {
    let server = Postgres::builder().auth(Auth::Scram);
    let server = server.start().await.expect("a server");
    for (auth, costs) in [
        (Auth::Scram, [(1, 2), (1, 2)]),
        (Auth::Trust, [(2, 2), (1, 1)]),
    ] {
        let pooler = PgBouncer::builder(&server).auth(auth);
        let pooler = pooler.start().await.expect("a pooler");
        let relay = Relay::start(pooler.address()).await.expect("a relay");
        let url = relay.url(&pooler.url(&server.url()));
        let parameters = "sslmode=disable&pgbouncer=true";
        let database = database(&with(&url, "postgres", parameters), AUTO);
        for expected in costs {
            assert_eq!(cost(&database, &relay).await, expected, "{auth:?}");
        }
    }
}
