//! A session of one's own, outside of any invocation, as a second connection sees it.

mod common;

use std::time::Duration;

use antifreeze::invocation::TransactionStatus;
use antifreeze::{ErrorKind, Session};
use common::pooled::{MODES, pooled};
use common::{Lab, lab, lab_over_relay, poll_at_most};
use futures_util::future::join;

const SLEEP: &str = "select pg_sleep(60)";

/// As long as closing may take here.
const LIMIT: Duration = Duration::from_secs(5);

async fn in_transaction(lab: &Lab) -> Session {
    let session = lab.database.session().await.expect("a session");
    let begin = "begin; insert into t values (1)";
    session.batch_execute(begin).await.expect("begun");
    session
}

#[tokio::test]
async fn close_rolls_back_and_is_acknowledged() {
    let lab = lab().await;
    let session = in_transaction(&lab).await;
    let status = session.transaction_status();
    assert_eq!(status, Some(TransactionStatus::InTransaction));
    assert_eq!(lab.sessions().await, ["idle in transaction"]);
    assert!(session.close(LIMIT).await, "not acknowledged");
    assert_eq!(lab.sessions().await, [""; 0]);
    assert_eq!(lab.rows().await, 0);
    lab.assert_at_rest().await;
}

/// A job may wait for longer than a response would be held back.
#[tokio::test]
async fn close_takes_the_time_that_it_is_given() {
    let (lab, relay) = lab_over_relay(|config| config).await;
    let session = in_transaction(&lab).await;
    relay.stall_down();
    let answers = async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        relay.resume();
    };
    let (closed, ()) = join(session.close(Duration::MAX), answers).await;
    assert!(closed, "not acknowledged");
    assert_eq!(lab.sessions().await, [""; 0]);
}

#[tokio::test]
async fn close_cancels_a_dropped_statement() {
    let lab = lab().await;
    let session = in_transaction(&lab).await;
    assert!(
        poll_at_most(1, session.batch_execute(SLEEP))
            .await
            .is_none()
    );
    lab.eventually("it sleeps", async |lab| lab.sessions().await == ["active"])
        .await;
    assert!(session.close(LIMIT).await, "not acknowledged");
    assert_eq!(lab.sessions().await, [""; 0]);
    lab.assert_at_rest().await;
}

#[tokio::test]
async fn cancel_ends_the_statement_alone() {
    let lab = lab().await;
    let session = lab.database.session().await.expect("a session");
    let cancel = async {
        lab.eventually("it sleeps", async |lab| lab.sessions().await == ["active"])
            .await;
        session.cancel(LIMIT).await
    };
    let (slept, cancelled) = join(session.batch_execute(SLEEP), cancel).await;
    assert!(cancelled, "the server has not taken the request");
    let error = antifreeze::Error::from(slept.expect_err("cancelled"));
    assert_eq!(error.kind(), ErrorKind::Cancelled);
    session.batch_execute("select 1").await.expect("it goes on");
    assert!(!session.is_closed());
    assert!(session.close(LIMIT).await, "not acknowledged");
}

#[tokio::test]
async fn drop_cancels_and_terminates() {
    let lab = lab().await;
    let session = in_transaction(&lab).await;
    assert!(
        poll_at_most(1, session.batch_execute(SLEEP))
            .await
            .is_none()
    );
    lab.eventually("it sleeps", async |lab| lab.sessions().await == ["active"])
        .await;
    drop(session);
    lab.eventually("it is gone", async |lab| lab.sessions().await.is_empty())
        .await;
    lab.assert_at_rest().await;
}

#[tokio::test]
async fn close_rests_a_server_behind_a_pooler() {
    for mode in MODES {
        let pooled = pooled(mode).await;
        let lab = &pooled.lab;
        let session = in_transaction(lab).await;
        assert!(
            poll_at_most(1, session.batch_execute(SLEEP))
                .await
                .is_none()
        );
        lab.eventually("it sleeps", async |_| {
            pooled.servers().await.contains(&"active".to_owned())
        })
        .await;
        assert!(session.close(LIMIT).await, "not acknowledged: {mode:?}");
        let servers = pooled.servers().await;
        assert!(
            servers.iter().all(|state| state == "idle"),
            "{mode:?}: {servers:?}"
        );
        // The pooler's own reset of its server has the client's application_name.
        lab.eventually("the server is reset", async |lab| {
            lab.sessions().await.iter().all(|state| state == "idle")
        })
        .await;
        lab.assert_at_rest().await;
    }
}
