//! The round trips of a teardown, counted by a relay in front of the server.

mod common;

use std::sync::Arc;
use std::time::Duration;

use antifreeze::teardown::Step;
use antifreeze::{DatabaseLayer, connection, invocation, transaction};
use common::{BoxError, Lab, lab, lab_over_relay, lease_and_return};
use http::{Request, Response};
use lab::postgres::Postgres;
use lab::relay::{Counts, Relay};
use tokio_postgres::types::Type;
use tower::{Layer, ServiceExt};

const INSERT: &str = "insert into t values ($1)";

/// Runs `work` on a connection that is open already, and counts from the moment at
/// which `work` marks, or from its beginning, until the invocation is over.
async fn count(
    lab: &Lab,
    relay: &Relay,
    work: impl AsyncFnOnce(&dyn Fn()) -> Result<(), BoxError>,
) -> Counts {
    lab.warm_kept().await;
    let before = std::cell::Cell::new(relay.counts());
    let mark = || before.set(relay.counts());
    lab.run(work(&mark)).await.expect("fine");
    // Nothing may follow either.
    relay.quiet(Duration::from_millis(30)).await;
    relay.counts().since(before.get())
}

/// The handler runs on the thread of `block_on` and the driver on another, which wakes it with the
/// last row while it is still polling the connection.
#[test]
fn clean_teardown_does_not_wait_under_block_on() {
    const INVOCATIONS: usize = 400;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime");
    let waited = runtime.block_on(async {
        let lab = lab().await;
        lab.run(lease_and_return()).await.expect("warm");
        lab.torn_down();
        for _ in 0..INVOCATIONS {
            let work = async {
                connection().await?.query_typed_one("select 1", &[]).await?;
                Ok::<_, BoxError>(())
            };
            lab.run(work).await.expect("fine");
        }
        let all = lab.torn_down();
        assert_eq!(all.len(), INVOCATIONS);
        all.iter()
            .filter(|teardown| !teardown.elapsed.is_zero())
            .count()
    });
    assert!(
        waited * 100 <= INVOCATIONS,
        "{waited} of {INVOCATIONS} waited"
    );
}

#[tokio::test]
async fn clean_invocation_sends_nothing() {
    let (lab, relay) = lab_over_relay(|config| config).await;
    for statement in ["select 1", "begin; insert into t values (1); commit"] {
        let counts = count(&lab, &relay, async |mark| {
            let connection = connection().await?;
            connection.batch_execute(statement).await?;
            mark();
            Ok(())
        })
        .await;
        assert_eq!(
            (counts.bytes_up, counts.bytes_down),
            (0, 0),
            "{statement}: {counts:?}"
        );
        assert_eq!(counts.connections, 0);
        assert!(lab.outcome().is_clean());
    }
    // Nor does leasing one that is kept.
    let counts = count(&lab, &relay, async |_| lease_and_return().await).await;
    assert_eq!((counts.bytes_up, counts.bytes_down), (0, 0));
}

#[tokio::test]
async fn clean_response_sends_nothing() {
    let (lab, relay) = lab_over_relay(|config| config).await;
    lab.warm_kept().await;
    let relay = Arc::new(relay);
    let last_answer = Arc::new(std::sync::Mutex::new(relay.counts()));
    let service = DatabaseLayer::new(lab.database.clone()).layer(tower::service_fn({
        let (relay, last_answer) = (Arc::clone(&relay), Arc::clone(&last_answer));
        move |_: Request<()>| {
            let (relay, last_answer) = (Arc::clone(&relay), Arc::clone(&last_answer));
            async move {
                connection().await?.batch_execute("select 1").await?;
                *last_answer.lock().expect("no panic") = relay.counts();
                let body = http_body_util::Empty::<bytes::Bytes>::new();
                Ok::<_, BoxError>(Response::new(body))
            }
        }
    }));
    let response = service.oneshot(Request::new(())).await.expect("a response");
    let responded = relay.counts();
    assert_eq!(response.status(), 200);
    // Nothing may follow either.
    relay.quiet(Duration::from_millis(30)).await;
    let last_answer = *last_answer.lock().expect("no panic");
    assert_eq!(responded.since(last_answer), Counts::default());
    assert_eq!(relay.counts().since(last_answer), Counts::default());
    let torn = lab.torn_down().remove(0);
    assert!(torn.outcome.is_clean() && torn.round_trips == 0);
}

#[tokio::test]
async fn clean_invocation_sends_nothing_under_tls() {
    let server = Postgres::builder().tls(true).start().await;
    let server = server.expect("a server");
    let database = server.create_database("d").await.expect("a database");
    let relay = Relay::start(server.address()).await.expect("a relay");
    let roots = server.certificate_authority().expect("an authority");
    let url = format!(
        "{}?sslmode=verify-full&sslrootcert={}",
        relay.url(&database.url),
        roots.display()
    );
    let lab = Lab::over(database, &url, |config| config);
    let counts = count(&lab, &relay, async |mark| {
        let connection = connection().await?;
        let ssl = "select ssl from pg_stat_ssl where pid = pg_backend_pid()";
        let row = connection.query_typed_one(ssl, &[]).await?;
        assert!(row.get::<_, bool>(0));
        connection.batch_execute("select 1").await?;
        mark();
        Ok(())
    })
    .await;
    assert_eq!(counts, Counts::default());
    assert!(lab.outcome().is_clean());

    // What has to be done takes as many round trips as in plain text.
    let counts = count(&lab, &relay, async |mark| {
        connection().await?.batch_execute("begin").await?;
        mark();
        Ok(())
    })
    .await;
    assert_eq!((counts.round_trips, counts.connections), (1, 0));
    assert_eq!(lab.outcome().steps(), [Step::RolledBack]);
}

#[tokio::test]
async fn close_in_flight_is_not_awaited() {
    let (lab, relay) = lab_over_relay(|config| config).await;
    relay.delay(Duration::from_millis(100));
    lab.run(async {
        let connection = connection().await?;
        // Prepared, executed, and closed on drop: the answer to the Close is 100 ms
        // away when the handler returns.
        connection.query("select 1", &[]).await?;
        Ok(())
    })
    .await
    .expect("fine");
    let torn = lab.torn_down().remove(0);
    assert!(torn.outcome.is_clean(), "{}", torn.outcome);
    assert_eq!(torn.round_trips, 0);
}

#[tokio::test]
async fn rollback_is_one_round_trip() {
    let (lab, relay) = lab_over_relay(|config| config).await;
    let counts = count(&lab, &relay, async |mark| {
        let connection = connection().await?;
        connection
            .batch_execute("begin; insert into t values (1)")
            .await?;
        mark();
        Ok(())
    })
    .await;
    assert_eq!((counts.round_trips, counts.connections), (1, 0));
    let torn = lab.torn_down().remove(0);
    assert_eq!(
        (torn.outcome.steps(), torn.round_trips),
        (&[Step::RolledBack][..], 1)
    );

    // So is the one that tokio-postgres queued. On a busy machine its answer may come later than
    // it is waited for, but not each time.
    let mut tries = Vec::new();
    for _ in 0..3 {
        let counts = count(&lab, &relay, async |mark| {
            let mut connection = connection().await?;
            let transaction = connection.transaction().await?;
            transaction
                .batch_execute("insert into t values (1)")
                .await?;
            mark();
            Ok(())
        });
        let counts = counts.await;
        tries.push((counts.round_trips, counts.connections));
    }
    assert!(tries.contains(&(1, 0)), "{tries:?}");
}

#[tokio::test]
async fn rollback_and_reset_are_one_round_trip() {
    let (lab, relay) = lab_over_relay(|config| config).await;
    for statement in [
        "select pg_advisory_lock(1)",
        "begin; select pg_advisory_lock(1)",
    ] {
        let counts = count(&lab, &relay, async |mark| {
            let connection = connection().await?;
            connection.batch_execute(statement).await?;
            mark();
            Ok(())
        })
        .await;
        assert_eq!(
            (counts.round_trips, counts.connections),
            (1, 0),
            "{statement}"
        );
    }
}

#[tokio::test]
async fn transaction_with_one_write_is_two_round_trips() {
    let (lab, relay) = lab_over_relay(|config| config).await;
    let counts = count(&lab, &relay, async |_| {
        let transaction = transaction().await?;
        transaction
            .execute_typed(INSERT, &[(&1i32, Type::INT4)])
            .await?;
        Ok(())
    })
    .await;
    assert_eq!(
        counts.round_trips, 2,
        "BEGIN with the statement, then COMMIT"
    );

    // A text that is not prepared yet costs another, for its parameters' types, and
    // the Close behind it is not waited for.
    let counts = count(&lab, &relay, async |_| {
        let transaction = transaction().await?;
        transaction.execute(INSERT, &[&1i32]).await?;
        Ok(())
    })
    .await;
    assert_eq!(
        counts.round_trips, 3,
        "BEGIN with the Parse, the statement, then COMMIT"
    );

    // With BEGIN and COMMIT as statements it is three.
    let counts = count(&lab, &relay, async |_| {
        let mut connection = connection().await?;
        let transaction = connection.transaction().await?;
        transaction
            .execute_typed(INSERT, &[(&1i32, Type::INT4)])
            .await?;
        transaction.commit().await?;
        Ok(())
    })
    .await;
    assert_eq!(counts.round_trips, 3);
    assert_eq!(lab.rows().await, 3);
}

#[tokio::test]
async fn repeated_statement_is_one_round_trip() {
    let (lab, relay) = lab_over_relay(|config| config.max_connections(1)).await;
    for expected in [2, 1, 1] {
        let counts = count(&lab, &relay, async |_| {
            let connection = connection().await?;
            let statement = connection.prepare_cached("select $1::int").await?;
            connection.query_one(&statement, &[&1i32]).await?;
            Ok(())
        })
        .await;
        assert_eq!(counts.round_trips, expected);
    }
}

#[tokio::test]
async fn unnamed_statements_cost_no_round_trip() {
    for pooler in [
        antifreeze::config::Pooler::None,
        antifreeze::config::Pooler::Transaction,
    ] {
        let (lab, relay) = lab_over_relay(|config| config.pooler(pooler)).await;
        let counts = count(&lab, &relay, async |_| {
            let connection = connection().await?;
            connection.query_one("select $1::int", &[&1i32]).await?;
            Ok(())
        })
        .await;
        assert_eq!(counts.round_trips, 2, "{pooler:?}");
    }
}

#[tokio::test]
async fn reused_text_is_one_round_trip() {
    for (reuses, expected) in [(false, [2, 2, 2]), (true, [2, 1, 1])] {
        let (lab, relay) = lab_over_relay(|config| config.reuse_statements(reuses)).await;
        for expected in expected {
            let counts = count(&lab, &relay, async |_| {
                let connection = connection().await?;
                let row = connection.query_one("select $1::int", &[&7i32]).await?;
                assert_eq!(row.get::<_, i32>(0), 7);
                Ok(())
            })
            .await;
            assert_eq!(counts.round_trips, expected, "reused: {reuses}");
        }
    }
}

#[tokio::test]
async fn deadline_leaves_enough_for_a_slow_network() {
    // A busy machine may take what is left, but not each time.
    let in_time = [is_in_time().await, is_in_time().await, is_in_time().await];
    assert!(in_time.contains(&true));
}

async fn is_in_time() -> bool {
    let (lab, relay) = lab_over_relay(|config| config).await;
    lab.warm_kept().await;
    relay.delay(Duration::from_millis(20));
    let left = Duration::from_millis(1_500);
    let begin = tokio::time::Instant::now();
    let result: Result<(), BoxError> = lab
        .database
        .invocation(left, async {
            let invocation = invocation()?;
            assert!(invocation.remaining() < Some(left));
            connection()
                .await?
                .batch_execute("begin; select pg_sleep(60)")
                .await?;
            Ok(())
        })
        .await;
    result.expect_err("too slow");
    let took = begin.elapsed();
    let torn_down = lab.ends_at_rest().await;
    took < left && torn_down[0].outcome.closed() != Some(false)
}
