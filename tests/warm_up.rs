//! Warming up before the first event.

mod common;

use std::time::Duration;

use antifreeze::config::ConnectionLifetime;
use antifreeze::{Config, Database, ErrorKind};
use common::{BoxError, Lab, PLENTY, lab, lab_over_relay, lab_with, lease_and_return};
use lab::postgres::Postgres;
use lab::relay::Relay;
use tokio::time::Instant;

#[tokio::test]
async fn warm_connections_serve_the_invocation() {
    let (lab, relay) = lab_over_relay(|config| config.max_connections(3)).await;
    let warmed_up = lab.database.warm_up().await.expect("a report");
    assert_eq!((warmed_up.requested, warmed_up.warmed), (3, 3));
    assert!(warmed_up.first_error.is_none());
    lab.idle(3).await;
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
    let one = lab.database.warm_up().connections(1).await.expect("one");
    relay.stall_down();
    let all_wait = async {
        let three = async |_: &Lab| relay.open_connections() == 4;
        lab.eventually("three wait for an answer at once", three)
            .await;
        relay.resume();
    };
    let rest = async { lab.database.warm_up().connections(3).await };
    let (rest, ()) = tokio::join!(rest, all_wait);
    assert_eq!((one.warmed, rest.expect("three").warmed), (1, 3));
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
    let database = one_slot(&lab, "partial", 3).await;
    let first = database.warm_up().connections(1).await.expect("a report");
    assert_eq!((first.requested, first.warmed), (1, 1));
    let warmed_up = database.warm_up().await.expect("the function starts");
    assert_eq!((warmed_up.requested, warmed_up.warmed), (3, 1));
    let error = warmed_up.first_error.expect("the reason");
    assert_eq!(error.sqlstate().map(|state| state.code()), Some("53300"));
    assert_eq!(sessions_of(&lab, "partial").await, 1);
    let drop = lab.server.execute("drop role partial").await;
    drop.expect("nothing belongs to it");
}

#[tokio::test]
async fn warmed_one_is_kept_after_a_refusal() {
    let lab = lab().await;
    let database = one_slot(&lab, "refused", 1).await;
    let url = lab.server.url_for("refused");
    let connect = async || {
        let (client, connection) = tokio_postgres::connect(&url, tokio_postgres::NoTls).await?;
        tokio::spawn(connection);
        Ok::<_, tokio_postgres::Error>(client)
    };
    let elsewhere = connect().await.expect("the role's only slot");
    let refused = database.warm_up().await.expect("a report");
    assert_eq!((refused.requested, refused.warmed), (1, 0));
    drop(elsewhere);
    // The slot is free once another one gets it.
    let free = async |_: &Lab| connect().await.is_ok();
    lab.eventually("the slot is free", free).await;
    let free = async |lab: &Lab| sessions_of(lab, "refused").await == 0;
    lab.eventually("the slot is free", free).await;
    let warmed_up = database.warm_up().await.expect("a report");
    assert_eq!((warmed_up.requested, warmed_up.warmed), (1, 1));
    assert_eq!(sessions_of(&lab, "refused").await, 1, "it is open, as said");
    let drop = lab.server.execute("drop role refused").await;
    drop.expect("nothing belongs to it");
}

#[tokio::test]
async fn warmed_ones_are_closed_if_slots_are_scarce() {
    let lab = lab().await;
    let database = one_slot(&lab, "scarce", 1).await;
    database.warm_up().required().await.expect("warm");
    assert_eq!(sessions_of(&lab, "scarce").await, 1);
    let work = async {
        let connection = antifreeze::connection().await?;
        connection.query_typed("select 1", &[]).await?;
        Ok::<_, BoxError>(())
    };
    database.invocation(PLENTY, work).await.expect("fine");
    // The role has one slot, which a frozen process would keep.
    let gone = async |lab: &Lab| sessions_of(lab, "scarce").await == 0;
    lab.eventually("it is closed", gone).await;
    let drop = lab.server.execute("drop role scarce").await;
    drop.expect("nothing is left of it");
}

/// Creates a role that may have one session, and a database that connects as it.
async fn one_slot(lab: &Lab, role: &str, max_connections: usize) -> Database {
    let create = format!("create role {role} login connection limit 1");
    lab.server.execute(&create).await.expect("a role");
    let config = Config::from_url(&lab.server.url_for(role)).expect("a URL");
    Database::new(config.max_connections(max_connections)).expect("settings")
}

async fn sessions_of(lab: &Lab, role: &str) -> usize {
    let select = format!("select from pg_stat_activity where usename = '{role}'");
    lab.server.query(&select).await.expect("sessions").len()
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
        elapsed < Duration::from_secs(8),
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
