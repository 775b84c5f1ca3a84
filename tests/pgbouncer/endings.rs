//! However a handler ends, nothing is left at the pooler.

use super::*;

#[tokio::test]
async fn committed_work_is_kept() {
    assert_ends_at_rest("a return", async |lab| {
        lab.run(async {
            let mut connection = connection().await?;
            connection
                .execute("insert into t values ($1)", &[&1])
                .await?;
            let transaction = connection.transaction().await?;
            transaction
                .execute("insert into t values ($1)", &[&2])
                .await?;
            transaction.commit().await?;
            Ok(())
        })
        .await
        .expect("fine");
        2
    })
    .await;
}

#[tokio::test]
async fn early_return_rolls_back() {
    assert_ends_at_rest("an early return", async |lab| {
        let result = lab
            .run(async {
                let mut connection = connection().await?;
                let transaction = connection.transaction().await?;
                transaction.execute("insert into t values (1)", &[]).await?;
                transaction.query_one("select no_such_thing", &[]).await?;
                transaction.commit().await?;
                Ok(())
            })
            .await;
        assert!(result.is_err());
        0
    })
    .await;
}

#[tokio::test]
async fn begin_by_hand_is_rolled_back() {
    assert_ends_at_rest("BEGIN as SQL", async |lab| {
        lab.run(async {
            let connection = connection().await?;
            connection.batch_execute("begin").await?;
            connection.execute("insert into t values (1)", &[]).await?;
            Ok(())
        })
        .await
        .expect("fine");
        0
    })
    .await;
}

#[tokio::test]
async fn panic_rolls_back() {
    assert_ends_at_rest("a panic", async |lab| {
        let database = lab.database.clone();
        let panicked = tokio::spawn(async move {
            let work = async {
                let mut connection = connection().await?;
                let transaction = connection.transaction().await?;
                transaction.execute("insert into t values (1)", &[]).await?;
                assert!(transaction.client().is_closed(), "as it must");
                Ok::<_, BoxError>(())
            };
            database.invocation(PLENTY, work).await
        });
        let panic = panicked.await.expect_err("the panic goes on");
        assert!(panic.is_panic());
        0
    })
    .await;
}

#[tokio::test]
async fn task_in_a_transaction_is_closed() {
    assert_ends_at_rest("a task", async |lab| {
        let (go_on, going_on) = tokio::sync::oneshot::channel::<()>();
        let (tell, told) = tokio::sync::oneshot::channel();
        lab.run(async move {
            let (begun, beginning) = tokio::sync::oneshot::channel();
            let connection = connection().await?;
            tokio::spawn(async move {
                let first = connection
                    .batch_execute("begin; insert into t values (1)")
                    .await;
                let _ = begun.send(first.is_ok());
                let _ = going_on.await;
                let _ = tell.send(connection.batch_execute("commit").await);
            });
            assert!(beginning.await?, "its own time was its own");
            Ok(())
        })
        .await
        .expect("fine");
        let _ = go_on.send(());
        let late = told.await.expect("the task ends").expect_err("too late");
        assert!(antifreeze::Error::is_invocation_ended(&late), "{late:?}");
        0
    })
    .await;
}

#[tokio::test]
async fn statement_timeout_rolls_back() {
    assert_ends_at_rest("a timeout of the server", async |lab| {
        let result = lab
            .run(async {
                let mut connection = connection().await?;
                let transaction = connection.transaction().await?;
                transaction
                    .batch_execute("set local statement_timeout = '50ms'")
                    .await?;
                transaction.execute("insert into t values (1)", &[]).await?;
                transaction.execute("select pg_sleep(60)", &[]).await?;
                transaction.commit().await?;
                Ok(())
            })
            .await;
        let error = result.expect_err("a timeout");
        let error = error
            .downcast_ref::<tokio_postgres::Error>()
            .expect("the server's");
        assert_eq!(error.code().map(|code| code.code()), Some("57014"));
        0
    })
    .await;
}

/// The caller gave up, the server did not: teardown cancels through the pooler.
#[tokio::test]
async fn abandoned_statement_is_cancelled() {
    assert_ends_at_rest("a statement given up", async |lab| {
        lab.run(async {
            let mut connection = connection().await?;
            let transaction = connection.transaction().await?;
            transaction.execute("insert into t values (1)", &[]).await?;
            let sleep = transaction.execute("select pg_sleep(60)", &[]);
            assert!(timeout(Duration::from_millis(100), sleep).await.is_err());
            Ok(())
        })
        .await
        .expect("fine");
        0
    })
    .await;
}

#[tokio::test]
async fn deadline_cancels_the_statement() {
    assert_ends_at_rest("a deadline", async |lab| {
        let work = async {
            let mut connection = connection().await?;
            let transaction = connection.transaction().await?;
            transaction.execute("insert into t values (1)", &[]).await?;
            transaction.execute("select pg_sleep(60)", &[]).await?;
            Ok::<_, BoxError>(())
        };
        let result = lab.database.invocation(Duration::from_secs(2), work).await;
        let error = result.expect_err("a deadline");
        let kind = common::kind(&error);
        assert_eq!(kind, Some(antifreeze::ErrorKind::Deadline), "{error}");
        0
    })
    .await;
}

#[tokio::test]
async fn unread_rows_are_cancelled() {
    assert_ends_at_rest("dropped rows", async |lab| {
        lab.run(async {
            let connection = connection().await?;
            connection.batch_execute("begin").await?;
            connection.execute("insert into t values (1)", &[]).await?;
            let none: [&(dyn ToSql + Sync); 0] = [];
            let query = "select repeat('x', 1000) from generate_series(1, 1000000)";
            let mut rows = std::pin::pin!(connection.query_raw(query, none).await?);
            assert!(rows.next().await.is_some_and(|row| row.is_ok()));
            Ok(())
        })
        .await
        .expect("fine");
        0
    })
    .await;
}

/// Begun with its first statement, under whichever form that has; ended by the result.
#[tokio::test]
async fn lazy_transaction_is_committed() {
    for mode in MODES {
        let pooled = pooled(mode).await;
        for (commits, expected) in [(true, 2), (false, 2)] {
            let result = pooled
                .lab
                .run(async {
                    let transaction = transaction().await?;
                    let insert = transaction.prepare("insert into t values ($1)").await?;
                    transaction.execute(&insert, &[&1]).await?;
                    transaction.batch_execute("select 1").await?;
                    transaction.execute(&insert, &[&2]).await?;
                    let row = transaction
                        .query_one("select pg_current_xact_id_if_assigned() is not null", &[])
                        .await?;
                    assert!(row.get::<_, bool>(0), "one transaction");
                    if commits {
                        Ok(())
                    } else {
                        Err("no success".into())
                    }
                })
                .await;
            assert_eq!(result.is_ok(), commits, "{mode:?}: {result:?}");
            pooled.assert_at_rest("a lazy transaction").await;
            assert_eq!(pooled.lab.rows().await, expected, "{mode:?}");
        }
    }
}

#[tokio::test]
async fn cancel_token_cancels_through_the_pooler() {
    for mode in MODES {
        let pooled = pooled(mode).await;
        pooled
            .lab
            .run(async {
                let connection = connection().await?;
                let token = connection.cancel_token();
                let cancel = async {
                    sleeps(&pooled.lab.server).await;
                    token.cancel().await
                };
                let sleep = connection.execute("select pg_sleep(60)", &[]);
                let (slept, cancelled) = tokio::join!(sleep, cancel);
                cancelled.expect("taken");
                let error = slept.expect_err("cancelled");
                assert_eq!(error.code().map(|code| code.code()), Some("57014"));
                Ok(())
            })
            .await
            .expect("fine");
        pooled.assert_at_rest("a cancel").await;
    }
}
