//! Leases that a task still has, and several leases at once.

use antifreeze::connection;
use antifreeze::teardown::{Outcome, Step};

use crate::common::{lab, lab_with};
use crate::{RESET, ROLLED_BACK, ROLLED_BACK_RESET, TRIES, check};

#[tokio::test]
async fn lease_of_an_idle_task_gets_a_new_client() {
    let lab = lab().await;
    for (statement, expected) in [
        ("begin; insert into t values (1)", ROLLED_BACK_RESET),
        ("prepare p as select 1", RESET),
    ] {
        let (tell, told) = tokio::sync::oneshot::channel();
        let (go_on, going_on) = tokio::sync::oneshot::channel::<()>();
        let process = lab
            .run(async move {
                let (begun, beginning) = tokio::sync::oneshot::channel();
                let connection = connection().await?;
                let process = connection.process_id();
                tokio::spawn(async move {
                    let first = connection.batch_execute(statement).await;
                    let _ = begun.send(());
                    let _ = going_on.await;
                    let _ = tell.send((first, connection.batch_execute("select 2").await));
                });
                beginning.await?;
                Ok(process)
            })
            .await
            .expect("fine");
        check(&lab, expected).await;
        let again = lab
            .run(async { Ok(connection().await?.process_id()) })
            .await;
        assert_eq!(again.expect("fine"), process, "the session stays");
        lab.torn_down();
        let _ = go_on.send(());
        let (first, later) = told.await.expect("the task ends");
        first.expect("its own time was its own");
        let later = later.expect_err("too late");
        assert!(antifreeze::Error::is_invocation_ended(&later), "{later:?}");
    }
}

#[tokio::test]
async fn lease_of_a_busy_task_gets_a_new_client() {
    let mut tries = Vec::new();
    for _ in 0..TRIES {
        let outcome = busy_task().await;
        let steps = [Step::Cancelled, Step::RolledBack, Step::Reset];
        if outcome.steps().ends_with(&steps) {
            return;
        }
        tries.push(outcome);
    }
    panic!("{tries:?}");
}

async fn busy_task() -> Outcome {
    let lab = lab().await;
    let (tell, told) = tokio::sync::oneshot::channel();
    lab.run(async move {
        let connection = connection().await?;
        let (begun, beginning) = tokio::sync::oneshot::channel();
        tokio::spawn(async move {
            let _ = connection.batch_execute("begin").await;
            let _ = begun.send(());
            let _ = tell.send(connection.batch_execute("select pg_sleep(60)").await);
        });
        beginning.await?;
        tokio::task::yield_now().await;
        Ok(())
    })
    .await
    .expect("fine");
    let outcome = lab.ends_at_rest().await.remove(0).outcome;
    let error = told.await.expect("the task is told").expect_err("ended");
    assert!(antifreeze::Error::is_invocation_ended(&error), "{error:?}");
    outcome
}

#[tokio::test]
async fn lease_of_a_blocking_task_gets_a_new_client() {
    let lab = lab().await;
    let (go_on, going_on) = std::sync::mpsc::channel::<()>();
    let blocked = lab
        .run(async move {
            let connection = connection().await?;
            connection
                .batch_execute("begin; insert into t values (1)")
                .await?;
            let blocked = tokio::task::spawn_blocking(move || {
                let _ = going_on.recv();
                drop(connection);
            });
            Ok(blocked)
        })
        .await
        .expect("fine");
    check(&lab, ROLLED_BACK_RESET).await;
    drop(go_on);
    blocked.await.expect("it ends");
}

#[tokio::test]
async fn two_leases_are_both_rolled_back() {
    let lab = lab_with(|config| config.max_connections(2)).await;
    lab.run(async {
        let first = connection().await?;
        let second = connection().await?;
        first
            .batch_execute("begin; insert into t values (1)")
            .await?;
        second
            .batch_execute("begin; insert into t values (2)")
            .await?;
        Ok(())
    })
    .await
    .expect("fine");
    let outcomes: Vec<_> = lab
        .torn_down()
        .into_iter()
        .map(|torn| torn.outcome)
        .collect();
    assert!(outcomes.len() == 2 && outcomes.iter().all(|o| o.steps() == ROLLED_BACK));
    lab.assert_at_rest().await;
    assert_eq!(lab.sessions().await.len(), 2);
}

/// The session has another client by then, and its status is not the task's.
#[tokio::test]
async fn late_commit_of_a_task_is_refused() {
    tokio::task::LocalSet::new().run_until(late_commit()).await;
}

async fn late_commit() {
    let lab = lab_with(|config| config.max_connections(1)).await;
    let (go_on, going_on) = tokio::sync::oneshot::channel::<()>();
    let task = lab
        .run(async move {
            let (begun, beginning) = tokio::sync::oneshot::channel();
            let mut connection = connection().await?;
            let task = tokio::task::spawn_local(async move {
                let mut waits = Some((begun, going_on));
                let stored = connection
                    .retry_transaction(async |transaction| {
                        transaction.execute("insert into t values (1)", &[]).await?;
                        if let Some((begun, going_on)) = waits.take() {
                            let _ = begun.send(());
                            let _ = going_on.await;
                        }
                        Ok::<_, antifreeze::Error>(())
                    })
                    .await;
                (
                    stored,
                    connection.transaction_status(),
                    connection.is_closed(),
                )
            });
            beginning.await?;
            Ok(task)
        })
        .await
        .expect("fine");
    check(&lab, ROLLED_BACK_RESET).await;
    // Idle, committed, and in another transaction.
    lab.run(async {
        let next = connection().await?;
        next.batch_execute("begin; insert into t values (2); commit; begin")
            .await?;
        let _ = go_on.send(());
        let (stored, status, is_closed) = task.await?;
        assert!(stored.is_err(), "nothing was stored");
        assert_eq!((status, is_closed), (None, true));
        assert!(!next.is_closed());
        next.batch_execute("commit").await?;
        Ok(())
    })
    .await
    .expect("undisturbed");
    assert_eq!(lab.rows().await, 1);
    lab.assert_at_rest().await;
}
