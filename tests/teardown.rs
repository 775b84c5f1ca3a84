//! The time that it takes to bring a connection to rest.

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use antifreeze::connection;
use antifreeze::teardown::Step;
use common::{lab, lab_over_relay, lease_and_return, poll_at_most};

/// What was dropped last is answered after one round trip, however long that is: there is
/// nothing to cancel.
#[tokio::test]
async fn dropped_transaction_far_away_settles() {
    let (lab, relay) = lab_over_relay(|config| config).await;
    relay.delay(Duration::from_millis(200));
    lab.run(async {
        let mut connection = connection().await?;
        let transaction = connection.transaction().await?;
        transaction.execute("insert into t values (1)", &[]).await?;
        drop(transaction);
        Ok(())
    })
    .await
    .expect("fine");
    let torn_down = lab.torn_down();
    assert_eq!(torn_down.len(), 1, "{torn_down:?}");
    assert_eq!(
        torn_down[0].outcome.steps(),
        [Step::Settled],
        "{torn_down:?}"
    );
    assert!(torn_down[0].kept && torn_down[0].round_trips == 1);
    assert_eq!(relay.counts().connections, 1, "and none for a cancel");
    lab.assert_at_rest().await;
}

/// Megabytes of it are still here: sending them, only to cancel it then, takes longer than
/// there may be time for.
#[tokio::test]
async fn dropped_statement_is_not_sent_on() {
    let lab = lab().await;
    lab.run(lease_and_return()).await.expect("warm");
    lab.torn_down();
    let statement = format!("insert into t values (1) --{}", "x".repeat(30 << 20));
    let work = async {
        let connection = connection().await?;
        connection.batch_execute("select 1").await?;
        poll_at_most(1, connection.batch_execute(&statement)).await;
        Ok::<_, common::BoxError>(())
    };
    let invocation = lab.database.invocation(Duration::from_secs(2), work);
    invocation.await.expect("fine");
    let torn_down = lab.torn_down();
    assert_eq!(torn_down.len(), 1, "{torn_down:?}");
    let closed = Step::Closed { acknowledged: true };
    let steps = torn_down[0].outcome.steps();
    assert_eq!(steps.last(), Some(&closed), "{torn_down:?}");
    assert!(!steps.contains(&Step::Settled), "{torn_down:?}");
    assert_eq!(lab.rows().await, 0);
    lab.assert_at_rest().await;
}

#[tokio::test]
async fn each_observer_hears_of_a_teardown() {
    let lab = lab().await;
    let told = Arc::new(AtomicUsize::new(0));
    let mut database = lab.database.clone();
    for _ in 0..2 {
        let told = Arc::clone(&told);
        database = database.on_teardown(move |_| {
            told.fetch_add(1, Ordering::Relaxed);
        });
    }
    lab.run(async {
        drop(connection().await?);
        Ok(())
    })
    .await
    .expect("fine");
    assert_eq!(told.load(Ordering::Relaxed), 2);
    assert_eq!(lab.torn_down().len(), 1, "and the lab's own");
}

#[tokio::test]
async fn observer_may_register_another() {
    let lab = lab().await;
    let told = Arc::new(AtomicUsize::new(0));
    let (database, counts) = (lab.database.clone(), Arc::clone(&told));
    drop(lab.database.clone().on_teardown(move |_| {
        let counts = Arc::clone(&counts);
        drop(database.clone().on_teardown(move |_| {
            counts.fetch_add(1, Ordering::Relaxed);
        }));
    }));
    // The first teardown registers one, which hears of the second.
    for expected in 0..2 {
        lab.run(async {
            drop(connection().await?);
            Ok(())
        })
        .await
        .expect("fine");
        assert_eq!(told.load(Ordering::Relaxed), expected);
    }
}
