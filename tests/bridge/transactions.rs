//! Other drivers in the transaction of the invocation: what they send beside their statements, and
//! how they leave it.

use std::time::Duration;

use antifreeze::{ErrorKind, invocation};
use lab::relay::Relay;

use crate::common::{
    BoxError, Lab, PLENTY, kind, lab, lab_over_relay, lab_with, lease_and_return, sleeps,
};
use crate::connect;
use crate::raw::{Raw, SYNC, query};

/// Terminate.
const END: &[u8] = b"X\0\0\0\x04";

/// Close of the unnamed portal, or of the unnamed statement.
const CLOSE_PORTAL: &[u8] = b"C\0\0\0\x06P\0";
const CLOSE_STATEMENT: &[u8] = b"C\0\0\0\x06S\0";

/// Makes a database that was far away when its only session was opened, so that answers are awaited
/// for longer than a busy machine takes.
async fn patient_lab() -> (Lab, Relay) {
    let (lab, relay) = lab_over_relay(|config| config.max_connections(1)).await;
    relay.delay(Duration::from_millis(400));
    // Where drivers have theirs.
    lab.run(async {
        let mut raw = Raw::start(&invocation()?.url()?, &[]).await;
        raw.ready().await;
        raw.send(&query("select 1")).await;
        assert_eq!(raw.ready().await.0, "TDCZ");
        Ok(())
    })
    .await
    .expect("it connects");
    // What is read behind the connect has been answered.
    relay.quiet(Duration::from_millis(50)).await;
    relay.delay(Duration::ZERO);
    (lab, relay)
}

/// Connects to a URL, and inserts a row.
async fn inserted(url: &str) -> Raw {
    let mut raw = Raw::start(url, &[]).await;
    raw.ready().await;
    raw.send(&query("insert into t values (1)")).await;
    assert_eq!(raw.ready().await.0, "CZ");
    raw
}

/// Inserts a row in the transaction; then a Close is on its way to the server.
async fn closing(lab: &Lab, relay: &Relay) -> Result<Raw, BoxError> {
    let mut raw = inserted(&invocation()?.transaction_url()?).await;
    relay.quiet(Duration::from_millis(50)).await;
    relay.delay(Duration::from_millis(300));
    let up = relay.counts().bytes_up;
    raw.send(&[CLOSE_PORTAL, SYNC].concat()).await;
    let sent = async |_: &Lab| relay.counts().bytes_up > up;
    lab.eventually("it is under way", sent).await;
    Ok(raw)
}

/// Reads to the end, and returns the tags.
async fn rest(raw: &mut Raw) -> String {
    let read = async {
        let mut tags = String::new();
        while let Some(message) = raw.next().await {
            tags.push(char::from(message.tag));
        }
        tags
    };
    tokio::time::timeout(PLENTY, read).await.expect("it ends")
}

async fn assert_in_use(lab: &Lab, done: Result<(), BoxError>) {
    let kind = done.as_ref().err().and_then(kind);
    assert_eq!(kind, Some(ErrorKind::TransactionInUse), "{done:?}");
    lab.ends_at_rest().await;
    assert_eq!(lab.rows().await, 0);
}

/// As drivers send it that drop a statement: nobody waits for the answer.
#[tokio::test]
async fn housekeeping_under_way_is_committed_with() {
    let (lab, relay) = patient_lab().await;
    let mut held = None;
    lab.run(async {
        held = Some(closing(&lab, &relay).await?);
        Ok(())
    })
    .await
    .expect("committed");
    assert_eq!(lab.rows().await, 1);
    lab.assert_at_rest().await;
    let mut raw = held.expect("it was kept");
    assert_eq!(raw.ready().await, ("3Z".to_owned(), 'T'));
}

/// Its own task ends the connection while the invocation ends.
#[tokio::test]
async fn driver_that_leaves_late_is_committed() {
    let (lab, relay) = patient_lab().await;
    let mut leaving = None;
    lab.run(async {
        let mut raw = closing(&lab, &relay).await?;
        let leave = async move {
            tokio::time::sleep(Duration::from_millis(20)).await;
            raw.send(END).await;
            raw
        };
        leaving = Some(tokio::spawn(leave));
        Ok(())
    })
    .await
    .expect("committed");
    assert_eq!(lab.rows().await, 1);
    lab.assert_at_rest().await;
    drop(leaving.expect("it was sent").await);
}

#[tokio::test]
async fn statement_that_runs_on_is_not_committed() {
    let lab = lab().await;
    let mut held = None;
    let done = lab
        .run(async {
            let mut raw = inserted(&invocation()?.transaction_url()?).await;
            raw.send(&query("select pg_sleep(60)")).await;
            sleeps(&lab.server).await;
            held = Some(raw);
            Ok(())
        })
        .await;
    assert_in_use(&lab, done).await;
}

/// The end of its connection is no end of its work, once that is answered.
#[tokio::test]
async fn driver_that_leaves_in_order_is_committed() {
    let (lab, _relay) = patient_lab().await;
    let insert = query("insert into t values (2)");
    for (last, answers) in [
        (&[CLOSE_STATEMENT, SYNC][..], "3Z"),
        (&[CLOSE_PORTAL, SYNC], "3Z"),
        (&[SYNC], "Z"),
        (&[&insert], "CZ"),
    ] {
        let before = lab.rows().await;
        lab.run(async {
            let mut raw = inserted(&invocation()?.transaction_url()?).await;
            raw.send(&[&last.concat(), END].concat()).await;
            assert_eq!(rest(&mut raw).await, answers);
            Ok(())
        })
        .await
        .expect("committed");
        let rows = if answers == "CZ" { 2 } else { 1 };
        assert_eq!(lab.rows().await, before + rows);
        lab.assert_at_rest().await;
    }
}

/// It is gone before it could be answered.
#[tokio::test]
async fn driver_that_is_gone_is_committed() {
    let (lab, relay) = patient_lab().await;
    let long = query("select repeat('x', 1000000)");
    for message in [&[CLOSE_PORTAL, SYNC].concat()[..], &long] {
        let before = lab.rows().await;
        lab.run(async {
            let url = invocation()?.transaction_url()?;
            let mut raw = inserted(&url).await;
            relay.quiet(Duration::from_millis(50)).await;
            let up = relay.counts().bytes_up;
            raw.send(message).await;
            drop(raw);
            let sent = async |_: &Lab| relay.counts().bytes_up > up;
            lab.eventually("it is sent", sent).await;
            // The next one has the transaction.
            let mut next = Raw::start(&url, &[]).await;
            next.ready().await;
            next.send(&query("select 1")).await;
            assert_eq!(next.ready().await, ("TDCZ".to_owned(), 'T'));
            Ok(())
        })
        .await
        .expect("committed");
        assert_eq!(lab.rows().await, before + 1);
        lab.assert_at_rest().await;
    }
}

/// What cannot be answered is cut off, and nothing waits for it.
#[tokio::test]
async fn driver_that_leaves_half_done_rolls_back() {
    let sleep = query("select pg_sleep(60)");
    let copy = query("copy t from stdin");
    // Half of a message that is passed on before it is whole.
    for last in [&sleep[..], &copy, b"B\0\x01\0\0\0\0"] {
        let lab = lab().await;
        let done = lab
            .run(async {
                let mut raw = inserted(&invocation()?.transaction_url()?).await;
                raw.send(&[last, if last[0] == b'B' { b"" } else { END }].concat())
                    .await;
                raw.end().await;
                rest(&mut raw).await;
                Ok(())
            })
            .await;
        assert_in_use(&lab, done).await;
    }
}

/// As PostgreSQL executes it.
#[tokio::test]
async fn statement_with_a_terminate_is_executed() {
    let (lab, _relay) = patient_lab().await;
    let url = lab.database.url().expect("a socket");
    lab.run(async {
        let mut raw = Raw::start(&url, &[]).await;
        raw.ready().await;
        let insert = query("insert into t values (1)");
        raw.send(&[&insert[..], END].concat()).await;
        assert_eq!(rest(&mut raw).await, "CZ");
        Ok(())
    })
    .await
    .expect("it returns");
    assert_eq!(lab.rows().await, 1);
    lab.assert_at_rest().await;
}

#[tokio::test]
async fn unread_rows_of_one_driver_refuse_another() {
    let lab = lab_with(|config| config.acquire_timeout(Duration::from_millis(300))).await;
    lab.run(lease_and_return()).await.expect("warm");
    lab.run(async {
        let url = invocation()?.transaction_url()?;
        let mut reads_not = inserted(&url).await;
        let rows = "select repeat('x', 1000) from generate_series(1, 5000)";
        reads_not.send(&query(rows)).await;
        assert_eq!(reads_not.next().await.map(|first| first.tag), Some(b'T'));
        let mut other = Raw::start(&url, &[]).await;
        other.ready().await;
        other.send(&query("select 1")).await;
        let refused = tokio::time::timeout(PLENTY, other.error()).await?;
        assert_eq!(refused.field(b'C').as_deref(), Some("25001"));
        assert_eq!(other.ready().await.0, "Z");
        // Both go on once they are read.
        assert!(reads_not.ready().await.0.ends_with("DCZ"));
        other.send(&query("select 1")).await;
        assert_eq!(other.ready().await, ("TDCZ".to_owned(), 'T'));
        Ok(())
    })
    .await
    .expect("committed");
    assert_eq!(lab.rows().await, 1);
}

/// With `standard_conforming_strings` off, the server reads a COMMIT where it is else a literal.
/// The second time that it is off is not answered yet.
#[tokio::test]
async fn hidden_commit_is_refused() {
    for pipelined in [false, true] {
        let lab = lab().await;
        let done: Result<(), BoxError> = lab
            .run(async {
                let mut raw = inserted(&invocation()?.transaction_url()?).await;
                let changes = query("set standard_conforming_strings = off");
                let hides = query("select '\\''; commit; --'");
                if pipelined {
                    raw.send(&[changes, hides].concat()).await;
                    assert_eq!(raw.ready().await.1, 'T');
                } else {
                    raw.send(&changes).await;
                    assert_eq!(raw.ready().await.1, 'T');
                    raw.send(&hides).await;
                }
                let refused = raw.error().await;
                assert_eq!(refused.field(b'C').as_deref(), Some("25001"));
                Err("it fails".into())
            })
            .await;
        done.expect_err("it failed");
        assert_eq!(lab.rows().await, 0, "pipelined {pipelined}");
        lab.assert_at_rest().await;
    }
}

/// The handler has a pool of its own, and drivers have one.
#[tokio::test]
async fn single_connections_of_both_pools_are_used() {
    let lab = lab_with(|config| config.max_connections(1)).await;
    for decided in [false, true] {
        let done = lab.run(async {
            let insert = "insert into t values (1)";
            if decided {
                let client = connect(&invocation()?.transaction_url()?).await?;
                client.batch_execute(insert).await?;
                antifreeze::connection()
                    .await?
                    .batch_execute(insert)
                    .await?;
            } else {
                antifreeze::transaction()
                    .await?
                    .batch_execute(insert)
                    .await?;
                let client = connect(&invocation()?.url()?).await?;
                client.batch_execute(insert).await?;
            }
            Ok(())
        });
        done.await.expect("each has its connection");
        lab.assert_at_rest().await;
    }
    assert_eq!(lab.rows().await, 4);
}

#[tokio::test]
async fn transaction_url_is_committed_with_success() {
    let lab = lab().await;
    for (success, rows) in [(true, 2), (false, 2)] {
        let done = lab
            .run(async {
                let client = connect(&invocation()?.transaction_url()?).await?;
                client.batch_execute("insert into t values (1)").await?;
                client.batch_execute("insert into t values (2)").await?;
                if success {
                    Ok(())
                } else {
                    Err("it failed".into())
                }
            })
            .await;
        assert_eq!(done.is_ok(), success, "{done:?}");
        assert_eq!(lab.rows().await, rows);
        lab.assert_at_rest().await;
    }
    let refused = lab
        .run(async {
            let client = connect(&invocation()?.transaction_url()?).await?;
            client.batch_execute("insert into t values (3)").await?;
            let error = client.batch_execute("commit").await.expect_err("refused");
            assert_eq!(error.code().map(|code| code.code()), Some("25001"));
            Ok(())
        })
        .await;
    refused.expect("what was refused has changed nothing");
    assert_eq!(lab.rows().await, 3);
}
