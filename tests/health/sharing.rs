//! Concurrent requests share one reading of the server.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn thousand_calls_share_one_reading() {
    let (lab, relay) = lab_over_relay(easy).await;
    lab.run(lease_and_return()).await.expect("warm");
    relay.quiet(Duration::from_millis(50)).await;
    let before = relay.counts();
    let calls = (0..1000).map(|_| {
        let database = lab.database.clone();
        tokio::spawn(async move { ask(&database, None).await.body })
    });
    for body in join_all(calls).await {
        assert_eq!(body.expect("no panic"), r#"{"status":"ok"}"#);
    }
    let counts = relay.counts().since(before);
    // A reading is two round trips; under load all of it may take more than the 5 s.
    assert!((2..=4).contains(&counts.round_trips), "{counts:?}");
    assert_eq!(counts.connections, 0, "{counts:?}");
    lab.assert_at_rest().await;
}

#[tokio::test]
async fn reading_outlives_its_first_caller() {
    let (lab, relay) = lab_over_relay(easy).await;
    lab.run(lease_and_return()).await.expect("warm");
    relay.quiet(Duration::from_millis(50)).await;
    let before = relay.counts();
    relay.stall_down();
    let first = tokio::spawn(lab.database.health());
    eventually("asked", async || relay.counts().since(before).bytes_up > 0).await;
    let mut second = tokio::spawn(lab.database.health());
    // It has come to wait, too.
    assert!(
        timeout(Duration::from_millis(50), &mut second)
            .await
            .is_err()
    );
    first.abort();
    assert!(first.await.expect_err("aborted").is_cancelled());
    relay.resume();
    let health = second.await.expect("no panic");
    assert_eq!(
        (health.status, health.database),
        (Status::Ok, Reachability::Connected)
    );
    assert!(
        health
            .server
            .is_some_and(|server| server.by_state.is_some())
    );
    assert_eq!(relay.counts().since(before).round_trips, 2);
    lab.assert_at_rest().await;
}

#[tokio::test]
async fn caller_that_hangs_up_causes_no_second_reading() {
    let (lab, relay) = lab_over_relay(easy).await;
    lab.warm_kept().await;
    relay.quiet(Duration::from_millis(50)).await;
    let before = relay.counts();
    relay.stall_down();
    let only = tokio::spawn(lab.database.health());
    eventually("asked", async || relay.counts().since(before).bytes_up > 0).await;
    only.abort();
    assert!(only.await.expect_err("aborted").is_cancelled());
    relay.resume();
    // Its connection is closed: no task is left to bring it to rest.
    let gone = async |lab: &common::Lab| lab.sessions().await.is_empty();
    lab.eventually("gone", gone).await;
    // Nor is a CancelRequest on its way.
    let closed = async |_: &common::Lab| relay.open_connections() == 0;
    lab.eventually("closed", closed).await;
    relay.quiet(Duration::from_millis(50)).await;
    let before = relay.counts();
    for _ in 0..10 {
        let health = lab.database.health().await;
        assert_eq!(health.status_code(), 200);
        // Only what was read behind the first statement is known.
        let server = health.server.expect("known in passing");
        assert_eq!((server.used.is_some(), server.by_state), (true, None));
    }
    assert_eq!(relay.counts().since(before).connections, 0);
}

/// One that is under way on another runtime is waited for, and not polled.
#[test]
fn reading_of_another_runtime_is_awaited() {
    let mut elsewhere = tokio::runtime::Builder::new_multi_thread();
    let elsewhere = elsewhere.worker_threads(1).enable_all().build();
    let elsewhere = elsewhere.expect("a runtime");
    let mut here = tokio::runtime::Builder::new_current_thread();
    let here = here.enable_all().build().expect("a runtime");
    let (lab, relay) = elsewhere.block_on(async {
        let (lab, relay) = lab_over_relay(easy).await;
        lab.run(lease_and_return()).await.expect("warm");
        relay.quiet(Duration::from_millis(50)).await;
        (lab, relay)
    });
    let before = relay.counts();
    relay.stall_down();
    let theirs = elsewhere.spawn(lab.database.health());
    here.block_on(async {
        eventually("asked", async || relay.counts().since(before).bytes_up > 0).await;
        let mut ours = tokio::spawn(lab.database.health());
        let early = timeout(Duration::from_millis(50), &mut ours).await;
        assert!(early.is_err(), "{early:?}");
        relay.resume();
        for health in [ours.await, theirs.await] {
            let health = health.expect("no panic");
            assert_eq!(health.database, Reachability::Connected);
            assert!(
                health
                    .server
                    .is_some_and(|server| server.by_state.is_some())
            );
        }
        let counts = relay.counts().since(before);
        assert_eq!((counts.round_trips, counts.connections), (2, 0));
    });
}

/// Each runtime has its own pool; what one has read is known to all.
#[test]
fn runtimes_share_one_reading() {
    let runtime = || {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        builder.enable_all().build().expect("a runtime")
    };
    let (first, second) = (runtime(), runtime());
    let lab = first.block_on(async { lab_with(easy).await });
    let server = first.block_on(lab.database.health()).server;
    assert!(server.is_some_and(|server| server.by_state.is_some()));
    let health = second.block_on(lab.database.health());
    assert_eq!(health.status, Status::Ok);
    assert_eq!((health.postgres.idle, health.postgres.checked_out), (0, 0));
    assert!(
        health
            .server
            .is_some_and(|server| server.by_state.is_some())
    );
    first.block_on(lab.assert_at_rest());
}
