//! The end of a process closes every connection, acknowledged by the server.

mod common;

use std::time::Duration;

use antifreeze::connection;
use antifreeze::teardown::Step;
use common::{Lab, PLENTY, lab, lab_with, lease_and_return, two_rows};
use tokio::sync::oneshot;

/// More than a busy machine takes, and all of it may be waited.
const GRACE: Duration = Duration::from_secs(15);

async fn hold_several(lab: &Lab, connections: usize) {
    lab.run(async move {
        let mut held = Vec::new();
        for _ in 0..connections {
            held.push(connection().await?);
        }
        Ok(())
    })
    .await
    .expect("connections");
    lab.torn_down();
}

#[tokio::test]
async fn close_ends_idle_connections_and_keeps_none() {
    let lab = lab().await;
    hold_several(&lab, 2).await;
    lab.idle(2).await;
    let closed = lab.database.close().within(GRACE).await;
    assert_eq!(
        (closed.closed, closed.acknowledged, closed.interrupted),
        (2, 2, 0)
    );
    // The server has said so: it is not only on its way.
    assert!(lab.sessions().await.is_empty());

    let again = lab.database.close().await;
    assert_eq!((again.closed, again.acknowledged), (0, 0));

    // A call after the close is served, and keeps nothing.
    lab.run(lease_and_return()).await.expect("served");
    let torn = lab.torn_down().remove(0);
    assert!(!torn.kept);
    assert_eq!(torn.outcome.closed(), Some(true));
    assert!(lab.sessions().await.is_empty());
    let warmed = lab.database.warm_up().await.expect("fine");
    assert_eq!(warmed.first_error.map(|error| error.to_string()), None);
    assert!(
        lab.sessions().await.is_empty(),
        "nothing is opened to be kept"
    );
}

#[tokio::test]
async fn invocation_may_finish_within_the_grace() {
    let lab = lab().await;
    let (inside, begun) = oneshot::channel();
    let (go_on, told) = oneshot::channel::<()>();
    let work = lab.run(two_rows(inside, told));
    let close = async {
        begun.await.expect("inside");
        let close = lab.database.close().within(GRACE);
        let mut close = std::pin::pin!(close.into_future());
        // It has begun by now, and waits.
        assert!(futures_util::poll!(close.as_mut()).is_pending());
        let _ = go_on.send(());
        close.await
    };
    let (worked, closed) = tokio::join!(work, close);
    worked.expect("committed");
    assert_eq!(
        (closed.closed, closed.acknowledged, closed.interrupted),
        (1, 1, 0)
    );
    assert_eq!(lab.rows().await, 2);
    assert!(lab.sessions().await.is_empty());
    assert_eq!(lab.outcome().steps(), [Step::Closed { acknowledged: true }]);
}

#[tokio::test]
async fn pending_connect_is_awaited() {
    let (lab, relay) = common::lab_over_relay(|config| config).await;
    relay.stall();
    let work = lab.run(async {
        connection().await?.batch_execute("select 1").await?;
        Ok(())
    });
    let close = async {
        lab.eventually("on its way", async |_| relay.open_connections() == 1)
            .await;
        let close = lab.database.close().within(GRACE);
        let mut close = std::pin::pin!(close.into_future());
        assert!(futures_util::poll!(close.as_mut()).is_pending());
        relay.resume();
        close.await
    };
    let (worked, closed) = tokio::join!(work, close);
    worked.expect("served");
    assert_eq!(
        (closed.closed, closed.acknowledged, closed.interrupted),
        (1, 1, 0)
    );
    assert!(lab.sessions().await.is_empty());
}

#[tokio::test]
async fn unfinished_invocation_is_cancelled() {
    let lab = lab().await;
    let (inside, begun) = oneshot::channel();
    let work = lab.run(async {
        let mut connection = connection().await?;
        let transaction = connection.transaction().await?;
        transaction.execute("insert into t values (1)", &[]).await?;
        let _ = inside.send(());
        transaction.execute("select pg_sleep(600)", &[]).await?;
        Ok(())
    });
    let close = async {
        begun.await.expect("inside");
        lab.eventually("busy", async |lab| lab.sessions().await == ["active"])
            .await;
        lab.database.close().within(Duration::from_secs(3)).await
    };
    let (worked, closed) = tokio::join!(work, close);
    let error = worked.expect_err("interrupted");
    let error = error
        .downcast_ref::<tokio_postgres::Error>()
        .expect("the driver's");
    assert!(error.code().is_some() || error.is_closed(), "{error:?}");
    assert_eq!((closed.closed, closed.interrupted), (1, 1));
    // Half a second is left for it, which a busy server may need for the cancel alone.
    lab.eventually("the session has ended", async |lab| {
        lab.sessions().await.is_empty()
    })
    .await;
    assert_eq!(lab.rows().await, 0);
}

#[tokio::test]
async fn grace_is_kept_when_the_server_is_silent() {
    let (lab, relay) = common::lab_over_relay(|config| config).await;
    hold_several(&lab, 2).await;
    relay.stall();
    let begin = tokio::time::Instant::now();
    let closed = lab.database.close().await;
    assert_eq!((closed.closed, closed.acknowledged), (2, 0));
    // Far from any timeout that would end it otherwise.
    assert!(begin.elapsed() < Duration::from_secs(3));
}

#[tokio::test]
async fn slow_server_may_take_the_whole_grace() {
    let (lab, relay) = common::lab_over_relay(|config| config).await;
    hold_several(&lab, 2).await;
    relay.stall_down();
    let answers = async {
        // More than any step of a teardown gets whose response is held back.
        tokio::time::sleep(Duration::from_millis(700)).await;
        relay.resume();
    };
    let close = lab.database.close().within(GRACE).into_future();
    let (closed, ()) = tokio::join!(close, answers);
    assert_eq!((closed.closed, closed.acknowledged), (2, 2), "{closed:?}");
}

#[tokio::test]
async fn concurrent_closes_both_find_it_closed() {
    let lab = lab().await;
    hold_several(&lab, 2).await;
    let close = async || {
        let closed = lab.database.close().within(GRACE).await;
        assert!(lab.sessions().await.is_empty());
        closed.closed
    };
    let (first, second) = tokio::join!(close(), close());
    assert_eq!(first + second, 2);
}

#[tokio::test]
async fn connections_of_other_runtimes_are_closed() {
    let lab = lab().await;
    let (stop, stopped) = oneshot::channel::<()>();
    let (ready, is_ready) = oneshot::channel();
    let other = std::thread::spawn({
        let database = lab.database.clone();
        move || {
            let mut runtime = tokio::runtime::Builder::new_current_thread();
            let runtime = runtime.enable_all().build().expect("a runtime");
            runtime.block_on(async {
                let leased = database.invocation(PLENTY, lease_and_return()).await;
                leased.expect("a connection");
                let _ = ready.send(());
                let _ = stopped.await;
            });
        }
    });
    is_ready.await.expect("it is open");
    hold_several(&lab, 1).await;
    let closed = lab.database.close().within(GRACE).await;
    assert_eq!((closed.closed, closed.acknowledged), (2, 2));
    assert!(lab.sessions().await.is_empty());
    drop(stop);
    other.join().expect("no panic");
}

#[cfg(feature = "lambda")]
mod snapshots {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use antifreeze::credentials::{Attempt, Credentials, Login, LoginFuture};

    use super::*;

    /// Counts how often it was told to forget.
    struct Keeper(Arc<AtomicUsize>);

    impl Credentials for Keeper {
        fn login<'a>(&'a self, _: &'a Attempt) -> LoginFuture<'a> {
            Box::pin(std::future::ready(Ok(Login::password("any"))))
        }

        fn forget(&self) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[tokio::test]
    async fn snapshot_closes_and_restore_warms_up() {
        let forgotten = Arc::new(AtomicUsize::new(0));
        let keeper = Keeper(Arc::clone(&forgotten));
        let lab = lab_with(|config| config.credentials(keeper).max_connections(2)).await;
        lab.database.warm_up().required().await.expect("warm");
        assert_eq!(lab.sessions().await.len(), 2);
        let resource = antifreeze::shutdown::snapstart(&lab.database);

        resource.before_snapshot().await.expect("closed");
        assert!(lab.sessions().await.is_empty());
        assert_eq!(forgotten.load(Ordering::Relaxed), 1);

        resource.after_restore().await.expect("restored");
        lab.idle(2).await;
        // And what is used is kept again.
        lab.run(lease_and_return()).await.expect("served");
        assert!(lab.torn_down().remove(0).kept);
        assert_eq!(lab.sessions().await.len(), 2);
    }

    #[tokio::test]
    async fn restore_succeeds_while_the_database_is_down() {
        let (lab, relay) = common::lab_over_relay(|config| config).await;
        lab.database.warm_up().required().await.expect("warm");
        let resource = antifreeze::shutdown::snapstart(&lab.database);
        resource.before_snapshot().await.expect("closed");
        relay.refuse(true).await.expect("refusing");
        resource.after_restore().await.expect("it is no failure");
    }
}

#[tokio::test]
async fn infinite_grace_is_accepted() {
    let lab = lab().await;
    hold_several(&lab, 1).await;
    let closed = lab.database.close().within(Duration::MAX).await;
    assert_eq!((closed.closed, closed.acknowledged), (1, 1));
}
