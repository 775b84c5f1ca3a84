//! Several parts of one invocation that share too few connections.

mod common;

use std::time::Duration;

use antifreeze::{ErrorKind, connection, invocation, transaction};
use common::{BoxError, PLENTY, kind, lab_with, lease_and_return};
use futures_util::future::{join_all, try_join};
use tokio::time::timeout;

async fn one() -> Result<(), BoxError> {
    let connection = connection().await?;
    connection
        .query_one("select pg_sleep(0.01)::text", &[])
        .await?;
    Ok(())
}

#[tokio::test]
async fn siblings_wait_for_each_other() {
    for max in [1, 3] {
        let lab = lab_with(|config| config.max_connections(max)).await;
        lab.run(async {
            let all = join_all((0..10).map(|_| one())).await;
            all.into_iter().collect::<Result<(), _>>()
        })
        .await
        .expect("each has its turn");
        assert!(lab.sessions().await.len() <= max);
        lab.assert_at_rest().await;
    }
}

/// What was left in a transaction stays with the invocation: it is brought to rest for the
/// one that waits.
#[tokio::test]
async fn sibling_gets_a_rested_connection() {
    let lab = lab_with(|config| config.max_connections(1)).await;
    let dirty = || async {
        let connection = connection().await?;
        connection
            .batch_execute("begin; insert into t values (1)")
            .await?;
        Ok::<_, BoxError>(())
    };
    let work = lab.run(async {
        let all = join_all((0..5).map(|_| dirty())).await;
        all.into_iter().collect::<Result<(), _>>()
    });
    work.await.expect("each has its turn");
    assert_eq!(lab.rows().await, 0);
    lab.assert_at_rest().await;
}

#[tokio::test]
async fn spawned_tasks_wait_for_each_other() {
    let lab = lab_with(|config| config.max_connections(1)).await;
    lab.run(async {
        let invocation = invocation()?;
        let tasks: Vec<_> = (0..5).map(|_| invocation.spawn(one())).collect();
        for task in tasks {
            task.await??;
        }
        Ok(())
    })
    .await
    .expect("each has its turn");
}

#[tokio::test]
async fn nested_invocation_waits_for_the_outer_one() {
    let lab = lab_with(|config| config.max_connections(1)).await;
    lab.run(async {
        try_join(one(), lab.run(one())).await?;
        Ok(())
    })
    .await
    .expect("one after the other");
}

/// The transaction is kept until the end, so its connection cannot come back.
#[tokio::test]
async fn wait_for_the_own_transaction_fails_at_once() {
    let lab = lab_with(|config| config.max_connections(1).acquire_timeout(PLENTY)).await;
    let beside = lab.run(async {
        let _transaction = transaction().await?;
        lease_and_return().await
    });
    let inside = lab.run(async {
        let _transaction = transaction().await?;
        lab.run(lease_and_return()).await
    });
    let begun_meanwhile = lab.run(async {
        let begins = async { Ok(transaction().await?) };
        try_join(begins, lease_and_return()).await?;
        Ok(())
    });
    for work in [
        Box::pin(beside) as std::pin::Pin<Box<dyn Future<Output = _>>>,
        Box::pin(inside),
        Box::pin(begun_meanwhile),
    ] {
        let told = timeout(PLENTY / 2, work).await.expect("at once");
        let error = told.expect_err("it waits for itself");
        assert_eq!(kind(&error), Some(ErrorKind::PoolSelfDeadlock), "{error}");
    }
    lab.assert_at_rest().await;
}

/// The same future asks twice: the crate cannot know that no sibling will give one back.
#[tokio::test]
async fn wait_for_the_own_connections_says_so() {
    let limit = Duration::from_millis(50);
    let lab = lab_with(|config| config.max_connections(2).acquire_timeout(limit)).await;
    let beside = lab.run(async {
        let _first = connection().await?;
        let _second = connection().await?;
        lease_and_return().await
    });
    let error = beside.await.expect_err("it has both");
    assert_eq!(kind(&error), Some(ErrorKind::PoolSelfDeadlock));
    let told = error.to_string();
    assert!(
        told.contains("tests/common/mod.rs:") && told.contains("max_connections"),
        "{told}"
    );
    let inside = lab.run(async {
        let _first = connection().await?;
        let _second = connection().await?;
        lab.run(lease_and_return()).await
    });
    let error = inside.await.expect_err("the outer one has both");
    assert_eq!(kind(&error), Some(ErrorKind::PoolSelfDeadlock));
}
