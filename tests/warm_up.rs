//! Warming up before the first event.

mod common;

use std::time::Duration;

use antifreeze::config::ConnectionLifetime;
use antifreeze::{Config, Database, ErrorKind};
use common::{BoxError, PLENTY, lab, lab_over_relay, lab_with, lease_and_return};
use lab::postgres::Postgres;
use lab::relay::Relay;
use tokio::time::Instant;

#[tokio::test]
async fn warm_connections_serve_the_invocation() {
    let (lab, relay) = lab_over_relay(|config| config.max_connections(3)).await;
    let warmed_up = lab.database.warm_up().await.expect("a report");
    assert_eq!((warmed_up.requested, warmed_up.warmed), (3, 3));
    assert!(warmed_up.first_error.is_none());
    assert_eq!(lab.sessions().await, ["idle"; 3]);
    let before = relay.counts();
    lab.run(lease_and_return()).await.expect("fine");
    assert_eq!(relay.counts().since(before).connections, 0);
    // There is no room for more.
    let again = lab.database.warm_up().await.expect("a report");
    assert_eq!(lab.sessions().await.len(), 3, "{again:?}");
    assert_eq!(again.warmed, 3);
}

#[tokio::test]
async fn warm_up_connects_in_parallel() {
    let (lab, relay) = lab_over_relay(|config| config.max_connections(4)).await;
    relay.delay(Duration::from_millis(150));
    let one = lab.database.warm_up().connections(1).await.expect("one");
    let rest = lab.database.warm_up().connections(3).await.expect("three");
    assert_eq!((one.warmed, rest.warmed), (1, 3));
    assert!(rest.elapsed < one.elapsed * 2, "{one:?} {rest:?}");
}

#[tokio::test]
async fn warm_up_asks_for_no_more_than_fit() {
    let lab = lab_with(|config| config.max_connections(2)).await;
    let warmed_up = lab.database.warm_up().connections(9).await.expect("fine");
    assert_eq!((warmed_up.requested, warmed_up.warmed), (2, 2));
}

#[tokio::test]
async fn partial_warm_up_is_kept() {
    let lab = lab().await;
    lab.server
        .execute("create role guest_of_warm_up login connection limit 1")
        .await
        .expect("a role");
    let config = Config::from_url(&lab.server.url_for("guest_of_warm_up"))
        .expect("a URL")
        .max_connections(3);
    let database = Database::new(config).expect("settings");
    let warmed_up = database.warm_up().await.expect("the function starts");
    assert_eq!((warmed_up.requested, warmed_up.warmed), (3, 1));
    let error = warmed_up.first_error.expect("the reason");
    assert_eq!(error.sqlstate().map(|state| state.code()), Some("53300"));
    drop(database);
    lab.eventually("the session is gone", async |lab| {
        let dropped = lab.server.execute("drop role guest_of_warm_up").await;
        dropped.is_ok()
    })
    .await;
}

#[tokio::test]
async fn warmed_ones_are_closed_if_slots_are_scarce() {
    let lab = lab().await;
    lab.server
        .execute("create role scarce login connection limit 1")
        .await
        .expect("a role");
    let config = Config::from_url(&lab.server.url_for("scarce")).expect("a URL");
    let database = Database::new(config.max_connections(1)).expect("settings");
    database.warm_up().required().await.expect("warm");
    let sessions = async || {
        let count = "select count(*) from pg_stat_activity where usename = 'scarce'";
        let rows = lab.server.query(count).await.expect("a count");
        rows[0][0].clone()
    };
    assert_eq!(sessions().await.as_deref(), Some("1"));
    let work = async {
        let connection = antifreeze::connection().await?;
        connection.query_typed("select 1", &[]).await?;
        Ok::<_, BoxError>(())
    };
    database.invocation(PLENTY, work).await.expect("fine");
    // The role has one slot, which a frozen process would keep.
    assert_eq!(sessions().await.as_deref(), Some("0"));
    let drop = lab.server.execute("drop role scarce").await;
    drop.expect("nothing is left of it");
}

#[tokio::test]
async fn database_down_fails_only_a_required_warm_up() {
    let (lab, relay) = lab_over_relay(|config| config).await;
    relay.refuse(true).await.expect("refusing");
    let warmed_up = lab.database.warm_up().await.expect("the function starts");
    assert_eq!(warmed_up.warmed, 0);
    assert!(warmed_up.first_error.is_some());
    let error = lab.database.warm_up().required().await.expect_err("down");
    assert_eq!(error.kind(), ErrorKind::Refused, "{error}");
}

#[tokio::test]
async fn silent_database_takes_three_seconds_in_all() {
    let (lab, relay) = lab_over_relay(|config| config).await;
    relay.stall();
    let begin = Instant::now();
    let warmed_up = lab.database.warm_up().await.expect("the function starts");
    assert_eq!(warmed_up.warmed, 0);
    let elapsed = begin.elapsed();
    assert!(
        elapsed >= Duration::from_secs(2),
        "it was tried: {elapsed:?}"
    );
    assert!(
        elapsed < Duration::from_millis(4_500),
        "it was given up: {elapsed:?}"
    );
}

#[tokio::test]
async fn per_invocation_warm_up_keeps_nothing() {
    let postgres = Postgres::shared().await.expect("a server");
    let relay = Relay::start(postgres.address()).await.expect("a relay");
    let config = Config::from_url(&relay.url(&postgres.url()))
        .expect("a URL")
        .lifetime(ConnectionLifetime::PerInvocation);
    let database = Database::new(config.clone()).expect("settings");
    let warmed_up = database.warm_up().required().await.expect("ready");
    assert_eq!((warmed_up.requested, warmed_up.warmed), (0, 0));
    assert_eq!(relay.counts().connections, 0);

    // What can be known without a connection is known.
    let config = config
        .sslrootcert("/no/such/file.pem")
        .sslmode("verify-full");
    let database = Database::new(config).expect("settings");
    let error = database.warm_up().required().await.expect_err("no roots");
    assert_eq!(error.kind(), ErrorKind::Configuration, "{error}");
}
