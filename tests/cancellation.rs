//! Futures dropped at each of their await points leave nothing behind and lose nothing.

mod common;

use std::time::Duration;

use antifreeze::config::ConnectionLifetime;
use antifreeze::teardown::{Outcome, Step};
use antifreeze::{connection, invocation, transaction};
use common::{BoxError, Lab, PLENTY, lab_with, lease_and_return, poll_at_most};
use lab::postgres::Postgres;
use lab::relay::Relay;
use tokio::sync::oneshot;
use tokio::time::timeout;

/// More than any of these futures takes.
const POLLS: usize = 500;

fn hangs(polls: usize) -> ! {
    panic!("after {polls} polls it has not ended")
}

/// The one connection is to be had, and all is at rest.
async fn nothing_is_lost(lab: &Lab, polls: usize) {
    let next = timeout(
        Duration::from_secs(5),
        lab.run(async {
            connection().await?.query_one("select 1", &[]).await?;
            Ok(())
        }),
    );
    match next.await {
        Ok(result) => result.unwrap_or_else(|error| panic!("after {polls} polls: {error}")),
        Err(_) => panic!("after {polls} polls the connection is lost"),
    }
    lab.eventually("everything is at rest", async |lab| {
        lab.sessions().await.iter().all(|state| state == "idle")
    })
    .await;
    lab.assert_at_rest().await;
}

async fn one(lifetime: ConnectionLifetime) -> Lab {
    lab_with(|config| config.max_connections(1).lifetime(lifetime)).await
}

/// An invocation dropped at each of its await points, from connecting to the end of
/// its teardown.
async fn dropped_everywhere(lab: &Lab, work: impl AsyncFn() -> Result<(), BoxError>) {
    for polls in 0..POLLS {
        let run = timeout(PLENTY, poll_at_most(polls, lab.run(work())));
        let done = run.await.unwrap_or_else(|_| hangs(polls));
        nothing_is_lost(lab, polls).await;
        if let Some(result) = done {
            result.unwrap_or_else(|error| panic!("after {polls} polls: {error}"));
            assert!(polls > 2, "it has await points");
            return;
        }
    }
    hangs(POLLS)
}

#[tokio::test]
async fn open_transaction_dropped_at_any_poll_is_rested() {
    for lifetime in [
        ConnectionLifetime::PerEventLoop,
        ConnectionLifetime::PerInvocation,
    ] {
        let lab = one(lifetime).await;
        dropped_everywhere(&lab, async || {
            let connection = connection().await?;
            connection
                .batch_execute("begin; insert into t values (1)")
                .await?;
            connection.query("select pg_advisory_lock(1)", &[]).await?;
            Ok(())
        })
        .await;
        assert_eq!(lab.rows().await, 0);
    }
}

#[tokio::test]
async fn commit_dropped_at_any_poll_is_settled() {
    let lab = one(ConnectionLifetime::PerEventLoop).await;
    dropped_everywhere(&lab, async || {
        let transaction = transaction().await?;
        transaction.execute("insert into t values (1)", &[]).await?;
        let savepoint = transaction.savepoint().await?;
        savepoint.execute("insert into t values (2)", &[]).await?;
        savepoint.release().await?;
        Ok(())
    })
    .await;
    // Whole or not at all. The last run went through.
    let rows = lab.rows().await;
    assert!(rows >= 2 && rows % 2 == 0, "{rows}");
}

#[tokio::test]
async fn cancel_dropped_at_any_poll_is_settled() {
    let lab = one(ConnectionLifetime::PerEventLoop).await;
    dropped_everywhere(&lab, async || {
        let connection = connection().await?;
        let slow = connection.batch_execute("begin; select pg_sleep(60)");
        let _ = poll_at_most(1, slow).await;
        Ok(())
    })
    .await;
}

/// A task has the connection when the invocation ends, so its session gets a new client.
#[tokio::test]
async fn renewal_dropped_at_any_poll_is_settled() {
    for statement in ["select 1", "select pg_sleep(60)"] {
        // A busy machine may take the time of a step of the teardown, but not each time.
        let mut tries = 0..3;
        while !renewed_at_last(statement).await {
            tries.next().expect("it is renewed");
        }
    }
}

async fn renewed_at_last(statement: &'static str) -> bool {
    let lab = one(ConnectionLifetime::PerEventLoop).await;
    dropped_everywhere(&lab, async || {
        let connection = connection().await?;
        let begin = "begin; insert into t values (1)";
        connection.batch_execute(begin).await?;
        let (send, sent) = oneshot::channel();
        tokio::spawn(async move {
            let _ = poll_at_most(1, connection.batch_execute(statement)).await;
            let _ = send.send(());
            std::future::pending::<()>().await;
            drop(connection);
        });
        Ok(sent.await?)
    })
    .await;
    assert_eq!(lab.rows().await, 0);
    let steps = [Step::RolledBack, Step::Reset];
    let renewed = |outcome: &Outcome| outcome.steps().ends_with(&steps);
    let torn = lab.torn_down();
    torn.iter().any(|torn| renewed(&torn.outcome))
}

#[tokio::test]
async fn hooks_dropped_at_any_poll_are_settled() {
    let lab = one(ConnectionLifetime::PerEventLoop).await;
    dropped_everywhere(&lab, async || {
        let invocation = invocation()?;
        let own = invocation.connection().await?;
        invocation.spawn(async move {
            let _ = own.batch_execute("begin").await;
            std::future::pending::<()>().await;
        });
        invocation.defer(async { tokio::task::yield_now().await });
        invocation.after(async { tokio::task::yield_now().await });
        Ok(())
    })
    .await;
}

/// A checkout dropped at each of its await points, in an invocation that lives on.
#[tokio::test]
async fn checkout_dropped_at_any_poll_loses_no_slot() {
    for lifetime in [
        ConnectionLifetime::PerEventLoop,
        ConnectionLifetime::PerInvocation,
    ] {
        for dirty in [false, true] {
            let lab = one(lifetime).await;
            let mut done = false;
            for polls in 0..POLLS {
                let run = timeout(
                    PLENTY,
                    lab.run(async {
                        if dirty {
                            // What it left is brought to rest by the next checkout.
                            connection().await?.batch_execute("begin").await?;
                        }
                        let done = poll_at_most(polls, connection()).await;
                        let done = done.transpose()?.is_some();
                        let again = timeout(Duration::from_secs(5), connection()).await?;
                        again?.query_one("select 1", &[]).await?;
                        Ok(done)
                    }),
                );
                let run = run.await.unwrap_or_else(|_| hangs(polls));
                done = run.unwrap_or_else(|error| panic!("after {polls} polls: {error}"));
                nothing_is_lost(&lab, polls).await;
                if done {
                    break;
                }
            }
            assert!(done, "after {POLLS} polls it has not ended");
        }
    }
}

/// A path on which connecting is one message and its answer.
async fn plain() -> (Lab, Relay) {
    let server = common::lab().await.server;
    let address = Postgres::shared().await.expect("a server").address();
    let relay = Relay::start(address).await.expect("a relay");
    let url = format!("{}?sslmode=disable", relay.url(&server.url));
    let lifetime = ConnectionLifetime::PerInvocation;
    (
        Lab::over(server, &url, |config| config.lifetime(lifetime)),
        relay,
    )
}

/// The server has let us in, and its word is still on the way: it has a session already.
#[tokio::test]
async fn abandoned_session_is_closed() {
    let (lab, relay) = plain().await;
    relay.stall_down();
    lab.run(async {
        let mut asking = Box::pin(connection());
        let there = lab.eventually("the server has a session", async |lab| {
            lab.sessions().await == ["idle"]
        });
        tokio::select! {
            _ = &mut asking => panic!("it takes a round trip more"),
            () = there => {}
        }
        drop(asking);
        relay.resume();
        Ok(())
    })
    .await
    .expect("fine");
    assert!(lab.sessions().await.is_empty());
}

/// A host may freeze the process as soon as the future is dropped, before any task has run.
#[tokio::test]
async fn abandoned_session_needs_no_task_to_end() {
    let (lab, relay) = plain().await;
    relay.stall_down();
    let asking = lab.run(lease_and_return());
    let there = lab.eventually("the server has a session", async |lab| {
        lab.sessions().await == ["idle"]
    });
    tokio::select! {
        _ = asking => panic!("it takes a round trip more"),
        () = there => {}
    }
    // Meanwhile the runtime of the session is blocked.
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let runtime = tokio::runtime::Runtime::new().expect("a runtime");
            runtime.block_on(lab.eventually("the session has ended", async |lab| {
                lab.sessions().await.is_empty()
            }));
        });
    });
}

/// Waiting for a connection that others have, dropped while it waits.
#[tokio::test]
async fn wait_dropped_at_any_poll_loses_no_turn() {
    let lab = one(ConnectionLifetime::PerEventLoop).await;
    for polls in 1..4 {
        let (has, having) = oneshot::channel::<()>();
        let (release, released) = oneshot::channel::<()>();
        let holder = lab.run(async {
            let _held = connection().await?;
            let _ = has.send(());
            let _ = released.await;
            Ok(())
        });
        let waiter = async {
            having.await.expect("held");
            let mut waiting = Box::pin(lab.run(lease_and_return()));
            for _ in 0..polls {
                assert!(futures_util::poll!(waiting.as_mut()).is_pending());
            }
            drop(waiting);
            drop(release);
        };
        let (held, ()) = tokio::join!(holder, waiter);
        held.expect("fine");
        nothing_is_lost(&lab, polls).await;
    }
}

/// The statements of tokio-postgres itself, dropped at each of their await points.
#[tokio::test]
async fn statements_dropped_at_any_poll_are_settled() {
    let lab = one(ConnectionLifetime::PerEventLoop).await;
    for statement in 0..6 {
        let mut done = false;
        for polls in 0..POLLS {
            let run = timeout(
                PLENTY,
                lab.run(async {
                    let mut connection = connection().await?;
                    Ok(match statement {
                        0 => poll_at_most(polls, connection.batch_execute("begin"))
                            .await
                            .is_some(),
                        1 => poll_at_most(polls, connection.query("select 1", &[]))
                            .await
                            .is_some(),
                        2 => poll_at_most(polls, connection.transaction())
                            .await
                            .is_some(),
                        3 => {
                            let transaction = connection.transaction().await?;
                            poll_at_most(polls, transaction.commit()).await.is_some()
                        }
                        4 => {
                            let sink = connection.copy_in::<_, bytes::Bytes>("copy t from stdin");
                            poll_at_most(polls, sink).await.is_some()
                        }
                        _ => poll_at_most(polls, connection.prepare_cached("select 2"))
                            .await
                            .is_some(),
                    })
                }),
            );
            let run = run.await.unwrap_or_else(|_| hangs(polls));
            done = run.unwrap_or_else(|error| panic!("{statement} after {polls} polls: {error}"));
            nothing_is_lost(&lab, polls).await;
            if done {
                break;
            }
        }
        assert!(done, "{statement}: after {POLLS} polls it has not ended");
    }
}
