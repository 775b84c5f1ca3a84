//! Sessions that end with the invocation, and with its future.

use std::time::Duration;

use antifreeze::config::ConnectionLifetime;
use antifreeze::connection;
use tokio::time::timeout;

use crate::common::{lab, lab_with};
use crate::{CANCELLED_CLOSED, CLOSED, TRIES};

#[tokio::test]
async fn killed_backend_closes_the_connection() {
    let lab = lab().await;
    let server = lab.server.clone();
    lab.run(async move {
        let mut connection = connection().await?;
        let pid = connection.process_id();
        let transaction = connection.transaction().await?;
        transaction.execute("insert into t values (1)", &[]).await?;
        server
            .execute(&format!("select pg_terminate_backend({pid}, 5000)"))
            .await?;
        assert!(transaction.execute("select 1", &[]).await.is_err());
        Ok(())
    })
    .await
    .expect("fine");
    // The kernel may say "reset" where the server's last message was not read in time.
    let outcome = lab.outcome();
    assert!(outcome.closed().is_some(), "{outcome}");
    lab.assert_at_rest().await;
    assert_eq!(lab.rows().await, 0);
}

#[tokio::test]
async fn per_invocation_leaves_no_session() {
    let lab = lab_with(|config| config.lifetime(ConnectionLifetime::PerInvocation)).await;
    for statement in [
        "select 1",
        "begin; insert into t values (1)",
        "select pg_advisory_lock(1)",
    ] {
        lab.run(async {
            connection().await?.batch_execute(statement).await?;
            Ok(())
        })
        .await
        .expect("fine");
        assert_eq!(lab.outcome().steps(), CLOSED, "{statement}");
        assert_eq!(lab.sessions().await, [""; 0]);
    }
    let mut tries = Vec::new();
    for _ in 0..TRIES {
        lab.run(async {
            let connection = connection().await?;
            let slow = connection.batch_execute("begin; select pg_sleep(60)");
            assert!(timeout(Duration::from_millis(20), slow).await.is_err());
            Ok(())
        })
        .await
        .expect("fine");
        let outcome = lab.outcome();
        if outcome.steps() == CANCELLED_CLOSED {
            assert_eq!(lab.sessions().await, [""; 0]);
            return;
        }
        tries.push(outcome);
    }
    panic!("{tries:?}");
}

#[tokio::test]
async fn dropped_invocation_ends_its_session() {
    let lab = lab().await;
    for (statement, state) in [
        ("begin; insert into t values (1)", "idle in transaction"),
        ("begin; select pg_sleep(60)", "active"),
    ] {
        let invocation = lab.run(async {
            let connection = connection().await?;
            connection.batch_execute(statement).await?;
            std::future::pending::<()>().await;
            Ok(())
        });
        let reached = lab.eventually(state, async |lab| lab.sessions().await == [state]);
        tokio::select! {
            _ = invocation => unreachable!("it is pending"),
            () = reached => {}
        }
        lab.eventually("the session is gone", async |lab| {
            lab.sessions().await.is_empty()
        })
        .await;
        lab.assert_at_rest().await;
    }
}
