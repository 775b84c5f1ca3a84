//! The one line about an invocation that was slow or left something open.

use std::time::Duration;

use antifreeze::config::Reset;
use antifreeze::{connection, transaction};
use tokio::sync::oneshot;
use tracing::Level;

use crate::common::capture::{Capture, Seen};
use crate::common::{BoxError, Lab, lab, lab_over_relay, lab_with, lease_and_return, poll_at_most};

const LEFT: &str = "an invocation left a connection open or in use";

/// Connects, so that the next invocation is warm.
async fn warm(lab: &Lab) {
    lab.run(lease_and_return()).await.expect("a connection");
}

/// The only line of the log.
fn only_line(capture: &Capture) -> Seen {
    let mut lines = capture.lines();
    assert_eq!(lines.len(), 1, "one line: {lines:?}");
    lines.remove(0)
}

/// The file and line of the call behind this one.
macro_rules! here {
    ($call:expr) => {
        (format!("{}:{}:", file!(), line!()), $call)
    };
}

#[tokio::test]
async fn line_names_the_call_that_left_it_open() {
    let lab = lab().await;
    warm(&lab).await;
    let (capture, _guard) = Capture::start();
    for _ in 0..2 {
        let place = lab.run(async {
            let (place, connection) = here!(connection().await?);
            connection.batch_execute("begin").await?;
            Ok(place)
        });
        let place = place.await.expect("fine");
        let line = only_line(&capture);
        assert_eq!((line.level, line.message.as_str()), (Level::INFO, LEFT));
        let found = &line.fields["left_open_at"];
        assert!(found.starts_with(&place), "{found} is not {place}");
        assert_eq!(line.fields["outcome"], "rolled back");
        assert_eq!(
            line.fields["round_trips"], "2",
            "the handler's and teardown's"
        );
        assert!(line.fields.contains_key("elapsed"));
    }
}

#[tokio::test]
async fn one_line_names_every_connection() {
    let lab = lab_with(|config| config.max_connections(3)).await;
    let (capture, _guard) = Capture::start();
    let places = lab.run(async {
        let (first, one) = here!(connection().await?);
        let (second, other) = here!(connection().await?);
        let clean = connection().await?;
        one.batch_execute("begin").await?;
        other.batch_execute("set search_path = pg_catalog").await?;
        clean.batch_execute("select 1").await?;
        Ok([first, second])
    });
    let places = places.await.expect("fine");
    let line = only_line(&capture);
    let found = &line.fields["left_open_at"];
    for place in places {
        assert!(found.contains(&place), "{place} is not in {found}");
    }
    assert_eq!(found.split("; ").count(), 2, "the clean one is not named");
}

/// It is detached from a task that still has it.
#[tokio::test]
async fn connection_of_a_task_is_named() {
    let lab = lab().await;
    let (capture, _guard) = Capture::start();
    let (keep, kept) = oneshot::channel::<()>();
    let place = lab.run(async {
        let (place, connection) = here!(connection().await?);
        tokio::spawn(async move {
            let _connection = connection;
            kept.await
        });
        Ok(place)
    });
    let place = place.await.expect("fine");
    let found = only_line(&capture).fields["left_open_at"].clone();
    assert!(found.starts_with(&place), "{found} is not {place}");
    drop(keep);
}

#[tokio::test]
async fn dropped_transaction_is_named_when_recycled() {
    let lab = lab_with(|config| config.max_connections(1)).await;
    let (capture, _guard) = Capture::start();
    let place = lab.run(async {
        let (place, first) = here!(connection().await?);
        first.batch_execute("begin").await?;
        drop(first);
        // The same session again, which is at rest, and stays so.
        let second = connection().await?;
        second.batch_execute("select 1").await?;
        Ok(place)
    });
    let place = place.await.expect("fine");
    let found = only_line(&capture).fields["left_open_at"].clone();
    assert!(found.starts_with(&place), "{found} is not {place}");
}

#[tokio::test]
async fn nothing_left_open_is_no_line() {
    let lab = lab_with(|config| config.slow_invocation(Duration::MAX)).await;
    let (capture, _guard) = Capture::start();
    let committed = async {
        transaction()
            .await?
            .execute("insert into t values (1)", &[])
            .await?;
        Ok(())
    };
    lab.run(committed).await.expect("fine");
    // As the response decides: no code has left it open.
    let refused: Result<(), BoxError> = lab
        .run(async {
            transaction()
                .await?
                .execute("insert into t values (2)", &[])
                .await?;
            Err("no".into())
        })
        .await;
    refused.expect_err("refused");
    lab.run(async {
        let mut connection = connection().await?;
        let transaction = connection.transaction().await?;
        transaction.execute("insert into t values (3)", &[]).await?;
        transaction.commit().await?;
        Ok(())
    })
    .await
    .expect("fine");
    // As after an error within it.
    for idle in [3, 0] {
        let (other, relay) = lab_over_relay(|config| {
            let config = config.slow_invocation(Duration::MAX);
            config.max_idle(idle)
        })
        .await;
        // So that there is time for the ROLLBACK of the driver on a busy machine, too.
        relay.delay(Duration::from_millis(100));
        let dropped = other.run(async {
            let mut connection = connection().await?;
            let transaction = connection.transaction().await?;
            transaction.execute("insert into t values (4)", &[]).await?;
            Ok(())
        });
        dropped.await.expect("fine");
        assert_eq!(other.rows().await, 0);
    }
    assert_eq!(lab.rows().await, 2);
    let lines = capture.lines();
    assert!(lines.is_empty(), "{lines:?}");
}

/// What is removed in any case has been left by nothing.
#[tokio::test]
async fn reset_always_is_no_leftover() {
    let lab = lab_with(|config| config.reset(Reset::Always).slow_invocation(Duration::MAX)).await;
    warm(&lab).await;
    let (capture, _guard) = Capture::start();
    let refused = lab.run(async {
        let transaction = transaction().await?;
        transaction.execute("insert into t values (1)", &[]).await?;
        Err::<(), BoxError>("no".into())
    });
    refused.await.expect_err("refused");
    assert_eq!(lab.rows().await, 0);
    let lines = capture.lines();
    assert!(lines.is_empty(), "{lines:?}");
}

#[tokio::test]
async fn session_state_and_statements_are_left_behind() {
    let lab = lab().await;
    let (capture, _guard) = Capture::start();
    for (statement, outcome) in [
        ("set search_path = pg_catalog", "reset"),
        ("select pg_sleep(60)", "cancelled"),
    ] {
        lab.run(async {
            let connection = connection().await?;
            let running = connection.batch_execute(statement);
            if outcome == "reset" {
                running.await?;
            } else {
                // It is on its way when the handler returns.
                assert!(poll_at_most(1, running).await.is_none());
            }
            Ok(())
        })
        .await
        .expect("fine");
        let line = only_line(&capture);
        assert_eq!(line.message, LEFT);
        assert!(line.fields["outcome"].contains(outcome), "{line:?}");
    }
}

/// Each is closed at its end, as configured.
#[tokio::test]
async fn connection_that_is_not_kept_is_no_line() {
    let lab = lab_with(|config| config.max_idle(0).slow_invocation(Duration::MAX)).await;
    let (capture, _guard) = Capture::start();
    lab.run(async {
        connection().await?.batch_execute("select 1").await?;
        Ok(())
    })
    .await
    .expect("fine");
    assert_eq!(lab.outcome().to_string(), "closed");
    let lines = capture.lines();
    assert!(lines.is_empty(), "{lines:?}");
    for left in ["begin", "set search_path = pg_catalog"] {
        let place = lab.run(async {
            let (place, connection) = here!(connection().await?);
            connection.batch_execute(left).await?;
            Ok(place)
        });
        let place = place.await.expect("fine");
        let found = only_line(&capture).fields["left_open_at"].clone();
        assert!(found.starts_with(&place), "{found} is not {place}");
    }
}

/// The response decides about the transaction, and not about a lock of the session.
#[tokio::test]
async fn state_beside_a_decided_rollback_is_named() {
    let lab = lab().await;
    let (capture, _guard) = Capture::start();
    let work = async {
        let transaction = transaction().await?;
        transaction
            .batch_execute("select pg_advisory_lock(1)")
            .await?;
        Err("no".into())
    };
    let done: Result<(), BoxError> = lab.run(work).await;
    done.expect_err("refused");
    let line = only_line(&capture);
    assert_eq!(line.message, LEFT);
    assert_eq!(line.fields["outcome"], "rolled back, reset");
}

#[tokio::test]
async fn slow_invocation_is_one_line() {
    let slow = |limit| lab_with(move |config| config.slow_invocation(limit));
    let work = async |lab: &Lab| lab.run(lease_and_return()).await.expect("fine");
    let (none, every) = (slow(Duration::MAX).await, slow(Duration::ZERO).await);
    let (capture, _guard) = Capture::start();
    work(&none).await;
    assert!(capture.lines().is_empty());
    work(&every).await;
    let line = only_line(&capture);
    assert_eq!(line.message, "an invocation was slow");
    assert!(line.fields.contains_key("elapsed"), "{line:?}");
}

/// Its transaction has sent nothing.
#[tokio::test]
async fn abandoned_at_rest_is_no_line() {
    let lab = lab().await;
    warm(&lab).await;
    let (capture, _guard) = Capture::start();
    let (begun, begin) = oneshot::channel();
    let abandoned = lab.run(async {
        let _unused = transaction().await?;
        let _ = begun.send(());
        std::future::pending::<()>().await;
        Ok(())
    });
    tokio::select! {
        biased;
        _ = abandoned => unreachable!("it waits"),
        begun = begin => begun.expect("a transaction"),
    }
    lab.eventually("its session has ended", async |lab| {
        lab.sessions().await.is_empty() && lab.has_torn_down()
    })
    .await;
    let lines = capture.lines();
    assert!(lines.iter().all(|seen| seen.message != LEFT), "{lines:?}");
}

#[tokio::test]
async fn abandoned_invocation_names_the_call() {
    let lab = lab().await;
    warm(&lab).await;
    let (capture, _guard) = Capture::start();
    let abandoned = lab.run(async {
        let connection = connection().await?;
        connection.batch_execute("begin").await?;
        std::future::pending::<()>().await;
        Ok(())
    });
    tokio::select! {
        biased;
        _ = abandoned => unreachable!("it waits"),
        () = lab.eventually("it is in a transaction", async |lab| {
            lab.sessions().await == ["idle in transaction"]
        }) => {}
    }
    lab.eventually("its session has ended", async |lab| {
        lab.sessions().await.is_empty() && lab.has_torn_down()
    })
    .await;
    let line = capture
        .lines()
        .into_iter()
        .find(|seen| seen.message == LEFT);
    let line = line.expect("a line");
    let found = &line.fields["left_open_at"];
    assert!(
        found.starts_with("tests/observability/left_open.rs:"),
        "{found}"
    );
}
