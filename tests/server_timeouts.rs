//! The timeouts that the server is sent, and what sending them costs.

mod common;

use std::time::Duration;

use antifreeze::config::{ConnectionLifetime, Pooler, Reset};
use antifreeze::{Config, connection, transaction};
use common::{BoxError, Lab, lab_over_relay, lab_with, lease_and_return};
use lab::postgres::{Installation, Postgres};
use lab::relay::Cut;

const ALL: [&str; 4] = [
    "statement_timeout",
    "idle_in_transaction_session_timeout",
    "transaction_timeout",
    "idle_session_timeout",
];

/// The values in force, as the session itself sees them.
async fn values() -> Result<Vec<String>, BoxError> {
    let connection = connection().await?;
    let sql = "select coalesce(current_setting(name, true), 'unknown') \
               from unnest($1::text[]) with ordinality as all_of (name, at) order by at";
    let rows = connection.query(sql, &[&ALL.as_slice()]).await?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

async fn values_within(lab: &Lab, granted: Duration) -> Vec<String> {
    let values = lab.database.invocation(granted, values()).await;
    values.expect("settings")
}

/// A server of its own in that version.
async fn server(version: &str) -> (Postgres, lab::postgres::Database) {
    let installation = Installation::embedded(version).expect(version);
    let server = Postgres::builder().installation(installation).start().await;
    let server = server.expect("a server");
    let database = server.create_database("d").await.expect("a database");
    database
        .execute("create table t (a int)")
        .await
        .expect("a table");
    (server, database)
}

const LONG: Duration = Duration::from_secs(3_600);

/// How often a session is opened: on a busy machine the slots, which are read behind its first
/// statement, may be told later than that is waited for, and it is closed.
const TRIES: usize = 3;

#[tokio::test]
async fn each_server_is_sent_the_timeouts_it_knows() {
    let (_server, database) = server("17").await;
    let url = database.url.clone();
    let seventeen = Lab::over(database, &url, |config| config);
    assert_eq!(
        values_within(&seventeen, LONG).await,
        ["30s", "1min", "15min", "15min"]
    );

    let (server, database) = server("16").await;
    assert_eq!(server.installation().major(), 16);
    let url = database.url.clone();
    let sixteen = Lab::over(database, &url, |config| config);
    let told = ["30s", "1min", "unknown", "15min"];
    assert_eq!(values_within(&sixteen, LONG).await, told);
}

/// In front of the first statement, and nothing else: each takes time of the server.
#[tokio::test]
async fn new_session_is_sent_what_it_lacks() {
    let check = "SET client_connection_check_interval = 500";
    for (version, sent) in [
        ("14", "SET idle_session_timeout = 900000"),
        (
            "17",
            "SET transaction_timeout = 7000; SET idle_session_timeout = 900000",
        ),
    ] {
        let (server, database) = server(version).await;
        server
            .execute("alter database d set log_statement = 'all'")
            .await
            .expect("a setting");
        let url = database.url.clone();
        let lab = Lab::over(database, &url, |config| {
            config.lifetime(ConnectionLifetime::PerInvocation)
        });
        for _ in 0..2 {
            let before = server.log().len();
            values_within(&lab, Duration::from_secs(7)).await;
            let log = server.log()[before..].to_owned();
            let statements = log
                .lines()
                .filter_map(|line| line.split_once("statement: "));
            let statements: Vec<_> = statements.map(|(_, sql)| sql).collect();
            assert_eq!(statements, [check, sent], "{version}");
        }
    }
}

/// What a frozen process cannot cancel any more.
#[tokio::test]
async fn statement_of_a_gone_client_is_ended() {
    let (lab, relay) = lab_over_relay(|config| config.statement_timeout(LONG)).await;
    let result = lab.run(async {
        let connection = connection().await?;
        let slow =
            connection.batch_execute("begin; insert into t values (1); select pg_sleep(600)");
        let under_way = lab.eventually("it is under way", async |lab| {
            lab.sessions().await == ["active"]
        });
        let cut = async {
            under_way.await;
            relay.cut(Cut::Reset).await;
            // So that no CancelRequest of ours gets there.
            relay.refuse(true).await?;
            Ok::<_, BoxError>(())
        };
        let (ended, cut) = tokio::join!(slow, cut);
        cut?;
        Ok(ended?)
    });
    result.await.expect_err("it was cut");
    lab.eventually("the session is gone", async |lab| {
        lab.sessions().await.is_empty()
    })
    .await;
}

#[tokio::test]
async fn timeouts_follow_the_length_of_the_call() {
    let (_server, database) = server("17").await;
    let short = ["9999ms", "9999ms", "10s", "15min"];
    let mut tries = 0;
    let lab = loop {
        let (database, url) = (database.clone(), database.url.clone());
        let only = |config: Config| config.max_connections(1);
        let lab = Lab::over(database, &url, only);
        let values = values_within(&lab, Duration::from_secs_f64(9.9)).await;
        assert_eq!(values, short);
        if lab.is_kept() {
            break lab;
        }
        tries += 1;
        assert!(tries < TRIES, "it is never kept");
    };
    assert_eq!(
        values_within(&lab, Duration::from_secs(5)).await,
        short,
        "it is one function"
    );
    let longer = ["30s", "44999ms", "45s", "15min"];
    assert_eq!(values_within(&lab, Duration::from_secs(45)).await, longer);
    // It is one session, and nothing of it counts as left behind.
    let torn = lab.torn_down();
    let first = torn[0].process_id;
    assert!(
        torn.iter()
            .all(|torn| torn.process_id == first && torn.outcome.is_clean())
    );
    assert_eq!(torn.len(), 3);
}

#[tokio::test]
async fn init_phase_takes_the_functions_timeout() {
    let lab = lab_with(|config| {
        config
            .max_connections(1)
            .function_timeout(Duration::from_secs(6))
    })
    .await;
    lab.database.warm_up().required().await.expect("warm");
    let values = values_within(&lab, LONG).await;
    assert_eq!(values[..2], ["5999ms", "5999ms"]);
}

#[tokio::test]
async fn timeouts_survive_reset_and_rollback() {
    let lab = lab_with(|config| config.max_connections(1).reset(Reset::Detected)).await;
    let before = values_within(&lab, Duration::from_secs(7)).await;
    assert_eq!(before[0], "6999ms");
    lab.torn_down();
    lab.run(async {
        connection()
            .await?
            .batch_execute("set work_mem = '7MB'; reset all; set a.b = 'c'")
            .await?;
        Ok(())
    })
    .await
    .expect("fine");
    assert!(lab.outcome().to_string().contains("reset"));
    let after = lab.run(values()).await.expect("settings");
    // That call had more time.
    assert_eq!(after[0], "19999ms");
    assert_eq!(after[3], "15min");

    // Had they been part of the first transaction, they would have gone with it.
    let lab = lab_with(|config| config.max_connections(1)).await;
    let _: Result<(), BoxError> = lab
        .database
        .invocation(Duration::from_secs(7), async {
            transaction()
                .await?
                .execute("insert into t values (1)", &[])
                .await?;
            Err("rolled back".into())
        })
        .await;
    assert_eq!(
        values_within(&lab, Duration::from_secs(7)).await[3],
        "15min"
    );
    assert_eq!(lab.rows().await, 0);
}

#[tokio::test]
async fn timeouts_cost_no_round_trip() {
    let mut connects = Vec::new();
    for told in [true, false] {
        let mut tries = 0;
        let (lab, relay) = loop {
            let (lab, relay) = lab_over_relay(|mut config| {
                config = config.max_connections(1);
                if !told {
                    config = config.statement_timeout(Duration::ZERO);
                    config = config.idle_in_transaction_timeout(Duration::ZERO);
                    config = config.transaction_timeout(Duration::ZERO);
                    config = config.idle_session_timeout(Duration::ZERO);
                }
                config
            })
            .await;
            // So that what goes out together is seen to.
            relay.delay(Duration::from_millis(20));
            lab.run(async {
                connection().await?.batch_execute("select 1").await?;
                Ok(())
            })
            .await
            .expect("fine");
            if lab.is_kept() {
                break (lab, relay);
            }
            tries += 1;
            assert!(tries < TRIES, "it is never kept");
        };
        relay.quiet(Duration::from_millis(60)).await;
        connects.push(relay.counts().round_trips);

        let before = relay.counts();
        lab.run(lease_and_return()).await.expect("fine");
        relay.quiet(Duration::from_millis(60)).await;
        let counts = relay.counts().since(before);
        assert_eq!((counts.bytes_up, counts.bytes_down), (0, 0), "told once");
    }
    assert_eq!(connects[0], connects[1]);
}

#[tokio::test]
async fn pooler_is_sent_no_timeouts() {
    let lab = lab_with(|config| config.pooler(Pooler::Transaction)).await;
    let values = lab.run(values()).await.expect("settings");
    assert_eq!(values[..2], ["0", "0"]);
    assert_eq!(values[3], "0");
}
