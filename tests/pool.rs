//! Leasing: who waits for whom, what a freeze does to a kept connection, and several
//! runtimes in one process.

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use antifreeze::{ConnectionLifetime, ErrorKind, Reset, Step, Teardown, connection, invocation};
use common::{
    BoxError, Lab, PLENTY, at_most, kind, lab, lab_over_relay, lab_with, lease_and_return,
};
use lab::relay::Cut;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::oneshot;
use tokio::time::timeout;

async fn process_id(lab: &Lab) -> i32 {
    lab.run(async { Ok(connection().await?.process_id()) })
        .await
        .expect("a connection")
}

#[tokio::test]
async fn a_connection_is_kept_and_used_again() {
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
async fn one_that_was_not_given_back_at_rest_is_brought_to_rest_for_the_next_lease() {
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
async fn a_checkout_is_counted_once() {
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
async fn no_more_are_kept_than_allowed_when_all_come_to_rest_at_once() {
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
    assert_eq!(lab.sessions().await.len(), 1);
}

/// What a task is still opening when the gate closes does not stay behind.
#[tokio::test]
async fn a_checkout_under_way_ends_with_the_invocation() {
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
async fn others_are_waited_for_in_turn() {
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
async fn waiting_ends_in_time_and_says_what_for() {
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
        error.expect_err("nobody gives it back")
    };
    let (held, error) = tokio::join!(holder, waiter);
    held.expect("fine");
    assert_eq!(kind(&error), Some(ErrorKind::AcquireTimeout));
    let told = error.to_string();
    assert!(
        told.contains("one of 1 connections") && told.contains("max_connections"),
        "{told}"
    );
    // Who gave up left nothing behind.
    process_id(&lab).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_invocations_never_share_a_connection() {
    let lab = Arc::new(lab_with(|config| config.max_connections(3)).await);
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
async fn asking_outside_or_too_late_says_which_line_to_add() {
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
async fn a_checkout_under_way_meets_a_closed_gate() {
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
async fn a_dead_connection_is_found_without_asking() {
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
async fn what_has_come_meanwhile_is_read_before_it_is_judged() {
    let (lab, relay) = lab_over_relay(|config| {
        // It goes on listening.
        config.max_connections(1).reset(Reset::Never)
    })
    .await;
    lab.run(async {
        connection().await?.batch_execute("listen news").await?;
        Ok(())
    })
    .await
    .expect("fine");
    let kept = process_id(&lab).await;
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
async fn no_more_are_kept_than_allowed() {
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
    assert_eq!(lab.sessions().await.len(), 1);
}

fn runtimes() -> [Runtime; 2] {
    [
        Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime"),
        Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a runtime"),
    ]
}

#[test]
fn each_runtime_has_connections_of_its_own() {
    let [first, second] = runtimes();
    let lab = first.block_on(lab_with(|config| config.max_connections(1)));
    let of_first = first.block_on(process_id(&lab));
    let of_second = second.block_on(process_id(&lab));
    assert_ne!(of_first, of_second);
    for _ in 0..3 {
        assert_eq!(first.block_on(process_id(&lab)), of_first);
        assert_eq!(second.block_on(process_id(&lab)), of_second);
    }
    // One goes, with the connection that it kept; the other does not notice.
    drop(first);
    second.block_on(lab.eventually("its session is gone", async |lab| {
        lab.sessions().await.len() == 1
    }));
    assert_eq!(second.block_on(process_id(&lab)), of_second);
}

#[test]
fn a_runtime_dropped_while_its_connection_is_leased() {
    for lifetime in [
        ConnectionLifetime::PerEventLoop,
        ConnectionLifetime::PerInvocation,
    ] {
        let [first, second] = runtimes();
        let lab = first.block_on(lab_with(|config| {
            config.max_connections(1).lifetime(lifetime)
        }));
        let lab = Arc::new(lab);
        let (has, having) = oneshot::channel();
        let leased = Arc::clone(&lab);
        first.spawn(async move {
            leased
                .run(async {
                    let connection = connection().await?;
                    connection
                        .batch_execute("begin; insert into t values (1)")
                        .await?;
                    let _ = has.send(());
                    std::future::pending::<()>().await;
                    Ok(())
                })
                .await
        });
        first.block_on(having).expect("leased");
        drop(first);
        second.block_on(async {
            lab.eventually("its session is gone", async |lab| {
                lab.sessions().await.is_empty()
            })
            .await;
            lab.assert_at_rest().await;
            process_id(&lab).await;
            assert_eq!(lab.rows().await, 0);
        });
    }
}

#[test]
fn a_connection_that_outlives_its_runtime_says_so() {
    let [first, second] = runtimes();
    let lab = second.block_on(lab());
    let connection = first.block_on(async {
        let (give, given) = oneshot::channel();
        let invocation = lab.run(async {
            let _ = give.send(connection().await?);
            std::future::pending::<()>().await;
            Ok(())
        });
        let mut invocation = Box::pin(invocation);
        let connection = tokio::select! {
            _ = &mut invocation => unreachable!("it is pending"),
            connection = given => connection.expect("given"),
        };
        // Neither finished nor dropped: the runtime goes first.
        std::mem::forget(invocation);
        connection
    });
    drop(first);
    second.block_on(async {
        let error = timeout(PLENTY, connection.query("select 1", &[])).await;
        assert!(error.expect("it does not hang").is_err());
        lab.eventually("its session is gone", async |lab| {
            lab.sessions().await.is_empty()
        })
        .await;
    });
}

#[tokio::test]
async fn a_lease_used_on_another_runtime_works_as_long_as_its_own_turns() {
    let lab = lab().await;
    lab.run(async {
        let connection = connection().await?;
        let elsewhere = tokio::task::spawn_blocking(move || {
            let runtime = Builder::new_current_thread().enable_all().build()?;
            let row = runtime.block_on(connection.query_one("select 7", &[]))?;
            Ok::<i32, BoxError>(row.get(0))
        });
        assert_eq!(elsewhere.await??, 7);
        Ok(())
    })
    .await
    .expect("fine");
}

#[tokio::test]
async fn the_users_own_cancel_token() {
    let lab = lab().await;
    let token = lab
        .run(async {
            let connection = connection().await?;
            let token = connection.cancel_token();
            let slow = connection.batch_execute("select pg_sleep(60)");
            let (slow, cancelled) = futures_util::join!(slow, async {
                // Active it may also be with what was asked before.
                let sleeps = "select 1 from pg_stat_activity \
                              where datname = current_database() and wait_event = 'PgSleep'";
                lab.eventually("it runs", async |lab| {
                    let found = lab.server.query(sleeps).await;
                    !found.expect("activity").is_empty()
                })
                .await;
                token.cancel().await
            });
            cancelled?;
            let error = slow.expect_err("cancelled");
            assert_eq!(error.code().map(|code| code.code()), Some("57014"));
            Ok(token)
        })
        .await
        .expect("fine");
    // Once given back, the connection is nobody's to cancel.
    lab.run(async {
        let connection = connection().await?;
        let statement = connection.batch_execute("select pg_sleep(0.1)");
        let (statement, cancelled) = futures_util::join!(statement, token.cancel());
        cancelled?;
        statement?;
        Ok(())
    })
    .await
    .expect("unharmed");
}

/// A request that nobody waits for may come at any time: it must not hit the statement
/// of whoever is next.
#[tokio::test]
async fn a_cancel_that_was_given_up_takes_its_connection_with_it() {
    let lab = lab().await;
    for polls in 1.. {
        let done = lab
            .run(async {
                let connection = connection().await?;
                let token = connection.cancel_token();
                Ok(at_most(polls, token.cancel()).await.is_some())
            })
            .await
            .expect("fine");
        if done {
            assert!(polls > 1 && lab.outcome().is_clean());
            break;
        }
        assert_eq!(lab.outcome().closed(), Some(true), "{polls}");
    }
}

/// Within the invocation too: what was given back is somebody else's.
#[tokio::test]
async fn a_token_does_nothing_to_who_leases_the_same_session_next() {
    let lab = lab_with(|config| config.max_connections(1)).await;
    lab.run(async {
        let first = connection().await?;
        first.batch_execute("begin").await?;
        let (token, session) = (first.cancel_token(), first.process_id());
        drop(first);
        let second = connection().await?;
        assert_eq!(second.process_id(), session, "brought to rest in between");
        let (slept, cancelled) = tokio::join!(
            second.query_one("select 1, pg_sleep(0.2)", &[]),
            token.cancel()
        );
        assert!(cancelled.is_ok() && slept.is_ok(), "{slept:?}");
        Ok(())
    })
    .await
    .expect("fine");
}
