//! Several hosts, of which one restarts or hangs: the others' answers do not hide it, nor wait for
//! it.

mod common;

use std::time::Duration;

use antifreeze::{Config, Database, connection};
use common::capture::Capture;
use common::{BoxError, PLENTY};
use lab::postgres::Postgres;
use lab::relay::Relay;

/// A database on these hosts, in their order.
fn database(hosts: [&Relay; 2], parameters: &str, connect_timeout: Duration) -> Database {
    let hosts = hosts.map(|host| host.address().to_string()).join(",");
    let url = format!("postgres://postgres@{hosts}/postgres?sslmode=disable{parameters}");
    let config = Config::from_url(&url).expect("a URL");
    Database::new(config.connect_timeout(connect_timeout)).expect("settings")
}

async fn process(database: &Database) -> Result<i32, BoxError> {
    let work = async { Ok(connection().await?.process_id()) };
    database.invocation(PLENTY * 2, work).await
}

/// A server that says at once that it takes no writes.
async fn standby() -> (Postgres, Relay) {
    let standby = Postgres::builder().setting("default_transaction_read_only", "on");
    let standby = standby.start().await.expect("a server");
    let relay = Relay::start(standby.address()).await.expect("a relay");
    (standby, relay)
}

/// A standby says at once that it is one. That is no reason to give up the primary.
#[tokio::test]
async fn restart_of_the_primary_is_waited_for() {
    let primary = Postgres::shared().await.expect("a server");
    let (_server, standby) = standby().await;
    for first in [true, false] {
        let primary = Relay::start(primary.address()).await.expect("a relay");
        primary.refuse(true).await.expect("refusing");
        let hosts = match first {
            true => [&primary, &standby],
            false => [&standby, &primary],
        };
        let database = database(hosts, "&target_session_attrs=read-write", PLENTY);
        let (capture, _guard) = Capture::start();
        let restarts = async {
            while capture.of("connecting failed; retrying").is_empty() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            primary.refuse(false).await.expect("it is back");
            std::future::pending::<()>().await;
        };
        tokio::select! {
            served = process(&database) => drop(served.expect("it waits")),
            () = restarts => {}
        }
    }
}

/// It answers after more than its part of the time, and the standby at once.
#[tokio::test]
async fn slow_primary_gets_what_the_standby_leaves() {
    let primary = Postgres::shared().await.expect("a server");
    let primary = Relay::start(primary.address()).await.expect("a relay");
    let (_server, standby) = standby().await;
    primary.stall();
    let hosts = [&primary, &standby];
    let time = Duration::from_secs(8);
    let database = database(hosts, "&target_session_attrs=read-write", time);
    let answers = async {
        while standby.counts().connections == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        primary.resume();
        std::future::pending::<()>().await;
    };
    tokio::select! {
        served = process(&database) => drop(served.expect("it waits")),
        () = answers => {}
    }
}

#[tokio::test]
async fn hanging_host_leaves_time_for_the_next() {
    let server = Postgres::shared().await.expect("a server");
    let hanging = Relay::start(server.address()).await.expect("a relay");
    hanging.stall();
    let healthy = Relay::start(server.address()).await.expect("a relay");
    let database = database([&hanging, &healthy], "", Duration::from_secs(6));
    process(&database).await.expect("the other host's");
    assert_eq!(healthy.counts().connections, 1);
}
