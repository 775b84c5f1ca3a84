//! Leases: waiting in turn, idle connections after a freeze, several runtimes in one process.

mod cancel;
#[path = "../common/mod.rs"]
mod common;
mod runtimes;

use antifreeze::config::{ConnectionLifetime, Reset};
use antifreeze::teardown::{Step, Teardown};
use antifreeze::{ErrorKind, connection, invocation};
use common::{
    BoxError, Lab, PLENTY, kind, lab, lab_over_relay, lab_with, lease_and_return, poll_at_most,
    sleeps,
};
use lab::relay::Cut;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::oneshot;
use tokio::time::timeout;

async fn process_id(lab: &Lab) -> i32 {
    lab.run(async { Ok(connection().await?.process_id()) })
        .await
        .expect("a connection")
}

#[tokio::test]
async fn connection_is_kept_and_used_again() {
    let lab = lab().await;
    let first = process_id(&lab).await;
    assert_eq!(process_id(&lab).await, first);
    // Within one invocation too, once it was given back.
    lab.run(async {
        for _ in 0..3 {
            assert_eq!(connection().await?.process_id(), first);
        }
        Ok(())
    })
    .await
    .expect("fine");
}

#[tokio::test]
async fn dropped_lease_is_rested_for_the_next_lease() {
    let lab = lab_with(|config| config.max_connections(1)).await;
    lab.run(async {
        let first = connection().await?;
        let pid = first.process_id();
        first
            .batch_execute("begin; insert into t values (1); set local work_mem = '7MB'")
            .await?;
        drop(first);
        let second = connection().await?;
        assert_eq!(second.process_id(), pid);
        let row = second
            .query_one("select count(*), current_setting('work_mem') from t", &[])
            .await?;
        assert_eq!(row.get::<_, i64>(0), 0);
        assert_ne!(row.get::<_, String>(1), "7MB");
        Ok(())
    })
    .await
    .expect("fine");
}

/// One came home in a transaction: the checkout that brings it to rest, and another that
/// opens a second connection meanwhile, are two and not three.
#[tokio::test]
async fn checkout_is_counted_once() {
    let lab = lab_with(|config| config.max_connections(2)).await;
    lab.run(async {
        let invocation = invocation()?;
        let connection = invocation.connection().await?;
        connection.batch_execute("begin").await?;
        drop(connection);
        let both = tokio::try_join!(invocation.connection(), invocation.connection())?;
        drop(both);
        Ok(())
    })
    .await
    .expect("there are two to be had");
    let rolled_back = |teardown: &Teardown| teardown.outcome.steps() == [Step::RolledBack];
    assert_eq!(lab.torn_down().iter().filter(|t| rolled_back(t)).count(), 1);
}

#[tokio::test]
async fn simultaneous_returns_keep_the_maximum() {
    let lab = lab_with(|config| config.max_connections(3).max_idle(1)).await;
    lab.run(async {
        for connection in [connection(), connection(), connection()] {
            let connection = connection.await?;
            connection.batch_execute("begin").await?;
            // Given back at the end.
            invocation()?.defer(async move { drop(connection) });
        }
        Ok(())
    })
    .await
    .expect("fine");
    lab.idle(1).await;
}

/// What a task is still opening when the gate closes does not stay behind.
#[tokio::test]
async fn pending_checkout_ends_with_the_invocation() {
    let (lab, relay) = lab_over_relay(|config| config).await;
    relay.stall();
    let (asks, asking) = oneshot::channel();
    lab.run(async {
        let invocation = invocation()?;
        tokio::spawn(async move {
            let mut connection = std::pin::pin!(invocation.connection());
            assert!(futures_util::poll!(connection.as_mut()).is_pending());
            let error = connection.await.expect_err("too late");
            let _ = asks.send(error.kind());
        });
        while relay.counts().connections == 0 {
            tokio::task::yield_now().await;
        }
        Ok(())
    })
    .await
    .expect("fine");
    let kind = timeout(Duration::from_millis(500), asking).await;
    let kind = kind.expect("at once").expect("told");
    assert_eq!(kind, ErrorKind::InvocationEnded);
}

#[tokio::test]
async fn checkouts_wait_in_turn() {
    let lab = Arc::new(lab_with(|config| config.max_connections(1)).await);
    let order = Arc::new(AtomicUsize::new(0));
    let (release, released) = oneshot::channel::<()>();
    let (has, having) = oneshot::channel();
    let holder = tokio::spawn({
        let lab = Arc::clone(&lab);
        async move {
            lab.run(async {
                let _connection = connection().await?;
                let _ = has.send(());
                let _ = released.await;
                Ok(())
            })
            .await
        }
    });
    having.await.expect("held");
    let mut waiters = Vec::new();
    for turn in 0..5 {
        let (lab, order) = (Arc::clone(&lab), Arc::clone(&order));
        let (polled, waits) = oneshot::channel();
        waiters.push(tokio::spawn(async move {
            lab.run(async {
                let mut leasing = std::pin::pin!(connection());
                // Queued from its first poll on.
                assert!(futures_util::poll!(leasing.as_mut()).is_pending());
                let _ = polled.send(());
                let _connection = leasing.await?;
                assert_eq!(order.fetch_add(1, Ordering::SeqCst), turn);
                Ok(())
            })
            .await
        }));
        waits.await.expect("queued");
    }
    let _ = release.send(());
    holder.await.expect("no panic").expect("fine");
    for waiter in waiters {
        waiter.await.expect("no panic").expect("its turn");
    }
    assert_eq!(lab.sessions().await.len(), 1);
}

#[tokio::test]
async fn waiting_ends_in_time_with_its_reason() {
    let lab = Arc::new(
        lab_with(|config| {
            config
                .max_connections(1)
                .acquire_timeout(Duration::from_millis(50))
        })
        .await,
    );
    let (has, having) = oneshot::channel::<()>();
    let (release, released) = oneshot::channel::<()>();
    let holder = lab.run(async {
        let _connection = connection().await?;
        let _ = has.send(());
        let _ = released.await;
        Ok(())
    });
    let waiter = async {
        having.await.expect("held");
        let error = lab.run(lease_and_return()).await;
        drop(release);
        error.expect_err("it is not given back")
    };
    let (held, error) = tokio::join!(holder, waiter);
    held.expect("fine");
    assert_eq!(kind(&error), Some(ErrorKind::AcquireTimeout));
    let told = error.to_string();
    assert!(
        told.contains("1 of 1 are in use") && told.contains("max_connections"),
        "{told}"
    );
    // The caller that timed out left nothing behind.
    process_id(&lab).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_invocations_share_no_connection() {
    let lab = lab_with(|config| config.max_connections(3).acquire_timeout(PLENTY));
    let lab = Arc::new(lab.await);
    let at_once = Arc::new(AtomicUsize::new(0));
    let all = (0..60).map(|number: i32| {
        let (lab, at_once) = (Arc::clone(&lab), Arc::clone(&at_once));
        tokio::spawn(async move {
            lab.run(async {
                let connection = connection().await?;
                assert!(at_once.fetch_add(1, Ordering::SeqCst) < 3);
                let mine = format!("begin; set local app.number = '{number}'");
                connection.batch_execute(&mine).await?;
                tokio::task::yield_now().await;
                let row = connection
                    .query_one("select current_setting('app.number')", &[])
                    .await?;
                assert_eq!(row.get::<_, String>(0), number.to_string());
                at_once.fetch_sub(1, Ordering::SeqCst);
                Ok(())
            })
            .await
        })
    });
    for invocation in futures_util::future::join_all(all).await {
        invocation.expect("no panic").expect("fine");
    }
    assert!(lab.sessions().await.len() <= 3);
    lab.assert_at_rest().await;
}

#[tokio::test]
async fn misplaced_connection_call_names_the_remedy() {
    let lab = lab().await;
    let outside = connection().await.expect_err("outside");
    assert_eq!(outside.kind(), ErrorKind::NotInInvocation);
    assert!(outside.to_string().contains("DatabaseLayer::new(database)"));

    let ended = lab.run(async { Ok(invocation()?) }).await.expect("fine");
    let late = ended.connection().await.expect_err("too late");
    assert_eq!(late.kind(), ErrorKind::InvocationEnded);
    let late = ended.transaction().await.expect_err("too late");
    assert_eq!(late.kind(), ErrorKind::InvocationEnded);

    // A spawned task does not inherit the invocation; a clone takes it along.
    lab.run(async {
        let lost = tokio::spawn(async { connection().await.map(drop) }).await?;
        assert_eq!(
            lost.expect_err("outside").kind(),
            ErrorKind::NotInInvocation
        );
        let invocation = invocation()?;
        tokio::spawn(async move { invocation.connection().await.map(drop) }).await??;
        Ok(())
    })
    .await
    .expect("fine");
}

#[tokio::test]
async fn pending_checkout_meets_a_closed_gate() {
    let (lab, relay) = lab_over_relay(|config| config).await;
    relay.stall();
    let (tell, told) = oneshot::channel();
    lab.run(async {
        let invocation = invocation()?;
        tokio::spawn(async move {
            let _ = tell.send(invocation.connection().await.map(drop));
        });
        tokio::task::yield_now().await;
        Ok(())
    })
    .await
    .expect("fine");
    relay.resume();
    let late = told
        .await
        .expect("told")
        .expect_err("the invocation is over");
    assert_eq!(late.kind(), ErrorKind::InvocationEnded);
    lab.assert_at_rest().await;
}

#[tokio::test]
async fn dead_connection_is_found_without_asking() {
    for how in [Cut::Fin, Cut::Reset] {
        let (lab, relay) = lab_over_relay(|config| config.max_connections(1)).await;
        let first = process_id(&lab).await;
        relay.cut(how).await;
        assert_ne!(process_id(&lab).await, first, "{how:?}");
    }
    let lab = lab().await;
    let first = process_id(&lab).await;
    lab.server
        .execute(&format!("select pg_terminate_backend({first}, 5000)"))
        .await
        .expect("ended");
    assert_ne!(process_id(&lab).await, first);
}

#[tokio::test]
async fn pending_messages_are_read_before_a_lease() {
    let (lab, relay) = lab_over_relay(|config| {
        config
            .max_connections(1)
            // It goes on listening.
            .reset(Reset::Never)
    })
    .await;
    let listens = async || {
        let listens = lab.run(async {
            let connection = connection().await?;
            connection.batch_execute("listen news").await?;
            Ok(connection.process_id())
        });
        listens.await.expect("fine")
    };
    let mut listening = listens().await;
    let mut kept = process_id(&lab).await;
    // On a busy machine the first session may not be kept.
    for _ in 1..3 {
        if listening == kept {
            break;
        }
        listening = listens().await;
        kept = process_id(&lab).await;
    }
    assert_eq!(listening, kept);
    relay.quiet(Duration::from_millis(20)).await;
    let before = relay.counts();
    lab.server.execute("notify news").await.expect("told");
    lab.eventually("the news arrives", async |_| {
        relay.counts().since(before).bytes_down > 0
    })
    .await;
    relay.quiet(Duration::from_millis(20)).await;
    assert_eq!(
        process_id(&lab).await,
        kept,
        "news is no reason to throw it away"
    );
}

#[tokio::test]
async fn pool_keeps_no_more_than_allowed() {
    let lab = lab_with(|config| config.max_connections(3).max_idle(1)).await;
    lab.run(async {
        let _all = (
            connection().await?,
            connection().await?,
            connection().await?,
        );
        Ok(())
    })
    .await
    .expect("fine");
    lab.idle(1).await;
}
