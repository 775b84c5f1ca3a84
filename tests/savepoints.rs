//! Savepoints of the invocation's transaction, which several parts of a handler share.

mod common;

use std::time::Duration;

use antifreeze::transaction;
use common::{BoxError, PLENTY, lab, lab_with, poll_at_most};
use futures_util::future::join3;
use tokio::sync::oneshot;
use tokio::time::timeout;

/// One part undoes its own work while another keeps its own.
#[tokio::test]
async fn rollback_undoes_no_other_savepoint() {
    let lab = lab().await;
    let (begun, beginning) = oneshot::channel();
    lab.run(async {
        let undone = async {
            let transaction = transaction().await?;
            let savepoint = transaction.savepoint().await?;
            savepoint.execute("insert into t values (1)", &[]).await?;
            let _ = begun.send(());
            // Long enough for the others to come in between, if they could.
            savepoint
                .query_one("select pg_sleep(0.1)::text", &[])
                .await?;
            savepoint.rollback().await?;
            Ok::<_, BoxError>(())
        };
        let kept = async {
            let _ = beginning.await;
            let transaction = transaction().await?;
            let savepoint = transaction.savepoint().await?;
            savepoint.execute("insert into t values (2)", &[]).await?;
            savepoint.release().await?;
            Ok::<_, BoxError>(())
        };
        let third = async {
            let transaction = transaction().await?;
            let savepoint = transaction.savepoint().await?;
            savepoint.execute("insert into t values (3)", &[]).await?;
            savepoint.release().await?;
            Ok::<_, BoxError>(())
        };
        let (undone, kept, third) = join3(undone, kept, third).await;
        undone.and(kept).and(third)
    })
    .await
    .expect("fine");
    assert_eq!(lab.rows().await, 2);
    lab.assert_at_rest().await;
}

/// A dropped `release` was sent already.
#[tokio::test]
async fn dropped_release_sends_no_rollback() {
    let lab = lab().await;
    for (polls, rows) in [(0, 0), (1, 1)] {
        lab.run(async {
            let transaction = transaction().await?;
            transaction.execute("delete from t", &[]).await?;
            let savepoint = transaction.savepoint().await?;
            savepoint.execute("insert into t values (1)", &[]).await?;
            assert!(poll_at_most(polls, savepoint.release()).await.is_none());
            transaction.execute("select 1", &[]).await?;
            Ok(())
        })
        .await
        .expect("committed");
        assert_eq!(lab.rows().await, rows, "{polls} polls");
    }
}

#[tokio::test]
async fn failed_release_rolls_back() {
    let lab = lab().await;
    lab.run(async {
        let transaction = transaction().await?;
        transaction.execute("insert into t values (1)", &[]).await?;
        let savepoint = transaction.savepoint().await?;
        savepoint
            .batch_execute("select 1 / 0")
            .await
            .expect_err("failed");
        savepoint.release().await.expect_err("a part that failed");
        transaction.execute("insert into t values (2)", &[]).await?;
        Ok(())
    })
    .await
    .expect("committed");
    assert_eq!(lab.rows().await, 2);
}

#[tokio::test]
async fn nested_savepoints_end_with_the_outer_one() {
    let lab = lab().await;
    lab.run(async {
        let transaction = transaction().await?;
        let mut outer = transaction.savepoint().await?;
        outer.execute("insert into t values (1)", &[]).await?;

        let mut inner = outer.savepoint().await?;
        inner.execute("insert into t values (2)", &[]).await?;
        let innermost = inner.savepoint().await?;
        innermost.execute("insert into t values (3)", &[]).await?;
        innermost.release().await?;
        inner.rollback().await?;

        let kept = outer.savepoint().await?;
        kept.execute("insert into t values (4)", &[]).await?;
        kept.release().await?;
        outer.release().await?;

        let mut undone = transaction.savepoint().await?;
        let kept = undone.savepoint().await?;
        kept.execute("insert into t values (5)", &[]).await?;
        kept.release().await?;
        undone.rollback().await?;
        Ok(())
    })
    .await
    .expect("committed");
    assert_eq!(lab.rows().await, 2);
}

/// One task that asks for a second savepoint beside its first would wait for itself.
#[tokio::test]
async fn second_savepoint_waits_as_long_as_a_checkout() {
    let lab = lab_with(|config| config.acquire_timeout(Duration::from_millis(50))).await;
    let work = lab.run(async {
        let transaction = transaction().await?;
        let first = transaction.savepoint().await?;
        first.execute("insert into t values (1)", &[]).await?;
        let told = transaction
            .savepoint()
            .await
            .expect_err("the first is open");
        assert!(told.to_string().contains("Savepoint::savepoint"), "{told}");
        first.release().await?;
        transaction.savepoint().await?.release().await?;
        Ok(())
    });
    timeout(PLENTY / 2, work)
        .await
        .expect("it does not hang")
        .expect("committed");
    assert_eq!(lab.rows().await, 1);
}
