//! The invocation's own transaction: begun with its first statement, ended by the
//! response.

mod common;

use std::sync::Arc;
use std::time::Duration;

use antifreeze::invocation::{IsolationLevel, TransactionStatus};
use antifreeze::teardown::Step;
use antifreeze::{ErrorKind, connection, invocation, transaction};
use bytes::Bytes;
use common::{BoxError, Lab, PLENTY, kind, lab, lab_over_relay, lab_with};
use futures_util::SinkExt;
use lab::relay::Cut;
use tokio::time::timeout;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::Type;

const INSERT: &str = "insert into t values (1)";

/// Every way in which tokio-postgres can send a first statement.
async fn send(client: &tokio_postgres::Client, how: &str) -> Result<(), BoxError> {
    match how {
        "simple" => client.batch_execute(INSERT).await?,
        "several" => {
            client
                .batch_execute("select 1; insert into t values (1); select 2")
                .await?
        }
        "extended" => drop(client.execute(INSERT, &[]).await?),
        "typed" => drop(
            client
                .execute_typed("insert into t values ($1)", &[(&1i32, Type::INT4)])
                .await?,
        ),
        "pipelined" => {
            futures_util::try_join!(
                client.execute_typed("insert into t values ($1)", &[(&1i32, Type::INT4)]),
                client.query_typed("select 1", &[]),
                client.batch_execute("select 2"),
            )?;
        }
        "copy" => {
            let mut sink = std::pin::pin!(client.copy_in("copy t from stdin").await?);
            sink.send(Bytes::from_static(b"1\n")).await?;
            sink.finish().await?;
        }
        "after a sync" => {
            client.check_connection().await?;
            client.execute(INSERT, &[]).await?;
        }
        "after an empty query" => {
            client.batch_execute("  ").await?;
            client.execute(INSERT, &[]).await?;
        }
        other => unreachable!("{other}"),
    }
    Ok(())
}

const WAYS: [&str; 8] = [
    "simple",
    "several",
    "extended",
    "typed",
    "pipelined",
    "copy",
    "after a sync",
    "after an empty query",
];

async fn end(lab: &Lab, how: &str, fails: bool) -> Result<(), BoxError> {
    lab.run(async {
        let transaction = invocation()?.transaction().await?;
        send(&transaction, how).await?;
        let in_it: bool = transaction
            .query_one(
                "select exists (select from t where xmin = pg_current_xact_id()::xid)",
                &[],
            )
            .await?
            .get(0);
        assert!(in_it, "{how}");
        if fails {
            Err("a failure".into())
        } else {
            Ok(())
        }
    })
    .await
}

#[tokio::test]
async fn first_statement_is_in_the_transaction() {
    let lab = lab().await;
    for (at, how) in WAYS.iter().enumerate() {
        end(&lab, how, true).await.expect_err("a failure");
        lab.assert_at_rest().await;
        assert_eq!(lab.rows().await, at as i64, "{how}: rolled back");
        lab.torn_down();
        end(&lab, how, false).await.expect(how);
        assert!(lab.outcome().is_clean());
        lab.assert_at_rest().await;
        assert_eq!(lab.rows().await, at as i64 + 1, "{how}: committed");
    }
}

#[tokio::test]
async fn earlier_prepared_copy_is_in_the_transaction() {
    let lab = lab_with(|config| config.max_connections(1)).await;
    let copy = "copy t from stdin";
    lab.run(async {
        connection().await?.prepare_cached(copy).await?;
        Ok(())
    })
    .await
    .expect("fine");
    for fails in [true, false] {
        let work = lab.run(async {
            let transaction = transaction().await?;
            // Known to the connection that was kept: nothing is sent for it.
            let statement = transaction.as_ref().prepare_cached(copy).await?;
            let mut sink = std::pin::pin!(transaction.copy_in(&statement).await?);
            sink.send(Bytes::from_static(b"1\n2\n")).await?;
            assert_eq!(sink.finish().await?, 2);
            if fails {
                Err("a failure".into())
            } else {
                Ok::<_, BoxError>(())
            }
        });
        let result = timeout(PLENTY / 2, work).await;
        assert_eq!(result.expect("it does not hang").is_err(), fails);
        lab.assert_at_rest().await;
        assert_eq!(lab.rows().await, if fails { 0 } else { 2 });
    }
}

#[tokio::test]
async fn unused_transaction_costs_nothing() {
    let lab = lab().await;
    lab.run(async {
        let _transaction = transaction().await?;
        Ok(())
    })
    .await
    .expect("fine");
    let torn = lab.torn_down().remove(0);
    assert!(torn.outcome.is_clean() && torn.round_trips == 0);
    // The next one's statements are its own.
    lab.run(async {
        let connection = connection().await?;
        connection.execute(INSERT, &[]).await?;
        assert_eq!(
            connection.transaction_status(),
            Some(TransactionStatus::Idle)
        );
        Ok(())
    })
    .await
    .expect("fine");
    assert_eq!(lab.rows().await, 1);
}

#[tokio::test]
async fn errors_keep_their_position() {
    let lab = lab().await;
    let text = "select 1 as one, nonsense";
    let expected = u32::try_from(text.find("nonsense").expect("there") + 1).expect("small");
    lab.run(async {
        let transaction = transaction().await?;
        let error = transaction
            .batch_execute(text)
            .await
            .expect_err("no such column");
        let position = error
            .as_db_error()
            .and_then(|error| error.position().cloned());
        assert_eq!(
            position,
            Some(tokio_postgres::error::ErrorPosition::Original(expected))
        );
        Ok::<_, BoxError>(())
    })
    .await
    .expect_err("the transaction failed");
    lab.assert_at_rest().await;
}

#[tokio::test]
async fn options_are_honoured_and_must_agree() {
    let lab = lab().await;
    lab.run(async {
        let transaction = transaction()
            .isolation_level(IsolationLevel::RepeatableRead)
            .read_only(true)
            .await?;
        let shown = |name: &'static str| {
            let transaction = transaction.clone();
            async move {
                let row = transaction.query_one(&format!("show {name}"), &[]).await?;
                Ok::<String, tokio_postgres::Error>(row.get(0))
            }
        };
        assert_eq!(shown("transaction_isolation").await?, "repeatable read");
        assert_eq!(shown("transaction_read_only").await?, "on");
        // A call without options gets the same transaction.
        let again = invocation()?.transaction().await?;
        assert_eq!(again.process_id(), transaction.process_id());
        let other = invocation()?.transaction().read_only(false).await;
        let error = other.expect_err("they contradict each other");
        assert_eq!(error.kind(), ErrorKind::Configuration);
        assert!(error.to_string().contains("transaction.rs"), "{error}");
        Err::<(), BoxError>("done".into())
    })
    .await
    .expect_err("done");
    lab.assert_at_rest().await;
}

#[tokio::test]
async fn savepoints_roll_back_alone() {
    let lab = lab().await;
    lab.run(async {
        let transaction = transaction().await?;
        transaction.execute(INSERT, &[]).await?;

        let dropped = transaction.savepoint().await?;
        dropped.execute(INSERT, &[]).await?;
        assert!(dropped.execute("select 1 / 0", &[]).await.is_err());
        drop(dropped);

        let kept = transaction.savepoint().await?;
        kept.execute(INSERT, &[]).await?;
        kept.release().await?;

        let undone = transaction.savepoint().await?;
        undone.execute(INSERT, &[]).await?;
        undone.rollback().await?;

        transaction.execute(INSERT, &[]).await?;
        Ok(())
    })
    .await
    .expect("fine");
    assert_eq!(lab.rows().await, 3);
    lab.assert_at_rest().await;
}

#[tokio::test]
async fn local_setting_ends_with_the_transaction() {
    let lab = lab_with(|config| config.max_connections(1)).await;
    lab.run(async {
        let transaction = transaction().await?;
        transaction.local("app.user", "it's me").await?;
        let row = transaction
            .query_one("select current_setting('app.user')", &[])
            .await?;
        assert_eq!(row.get::<_, String>(0), "it's me");
        Ok(())
    })
    .await
    .expect("fine");
    assert!(lab.outcome().is_clean(), "no reset is needed");
    lab.run(async {
        let connection = connection().await?;
        let row = connection
            .query_one("select current_setting('app.user', true)", &[])
            .await?;
        assert_eq!(row.get::<_, Option<String>>(0).unwrap_or_default(), "");
        Ok(())
    })
    .await
    .expect("fine");
}

#[tokio::test]
async fn failed_transaction_is_not_reported_as_stored() {
    let lab = lab().await;
    let result = lab
        .run(async {
            let transaction = transaction().await?;
            transaction.execute(INSERT, &[]).await?;
            // The handler looks away.
            let _ = transaction.execute("select 1 / 0", &[]).await;
            Ok(())
        })
        .await;
    assert_eq!(
        kind(&result.expect_err("not stored")),
        Some(ErrorKind::TransactionFailed)
    );
    assert_eq!(lab.outcome().steps().last(), Some(&Step::RolledBack));
    assert_eq!(lab.rows().await, 0);
}

#[tokio::test]
async fn refused_commit_is_an_error() {
    let lab = lab().await;
    lab.server
        .execute("create table u (a int unique deferrable initially deferred)")
        .await
        .expect("a table");
    let error = lab
        .run(async {
            let transaction = transaction().await?;
            transaction
                .execute("insert into u values (1), (1)", &[])
                .await?;
            Ok(())
        })
        .await
        .expect_err("a constraint");
    let error = error.downcast_ref::<antifreeze::Error>().expect("ours");
    assert_eq!(error.kind(), ErrorKind::TransactionFailed);
    assert_eq!(error.sqlstate(), Some(&SqlState::UNIQUE_VIOLATION));
    lab.assert_at_rest().await;
}

#[tokio::test]
async fn transaction_told_to_fail_is_rolled_back() {
    let lab = lab().await;
    lab.run(async {
        let transaction = transaction().await?;
        transaction.execute(INSERT, &[]).await?;
        invocation()?.fail();
        Ok(())
    })
    .await
    .expect("fine all the same");
    assert_eq!(lab.outcome().steps(), [Step::RolledBack]);
    assert_eq!(lab.rows().await, 0);
}

#[tokio::test]
async fn transaction_in_use_is_not_committed() {
    let lab = lab().await;
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let result = lab
        .run(async {
            let transaction = transaction().await?;
            transaction.execute(INSERT, &[]).await?;
            tokio::spawn(async move {
                let _ = stopped.await;
                drop(transaction);
            });
            Ok(())
        })
        .await;
    assert_eq!(
        kind(&result.expect_err("in use")),
        Some(ErrorKind::TransactionInUse)
    );
    lab.assert_at_rest().await;
    assert_eq!(lab.rows().await, 0);
    drop(stop);
}

#[tokio::test]
async fn joined_tasks_share_the_transaction() {
    let lab = lab().await;
    lab.run(async {
        let invocation = invocation()?;
        let both = [1, 2].map(|_| {
            invocation.spawn(async {
                let transaction = transaction().await?;
                transaction.execute(INSERT, &[]).await?;
                Ok::<_, BoxError>(())
            })
        });
        for task in both {
            task.await??;
        }
        Ok(())
    })
    .await
    .expect("fine");
    assert_eq!(lab.rows().await, 2);
    lab.assert_at_rest().await;
}

#[tokio::test]
async fn connection_lost_before_the_commit_is_an_error() {
    let (lab, relay) = lab_over_relay(|config| config).await;
    let relay = Arc::new(relay);
    let result = lab
        .run(async {
            let transaction = transaction().await?;
            transaction.execute(INSERT, &[]).await?;
            let relay = Arc::clone(&relay);
            invocation()?.defer(async move { relay.cut(Cut::Fin).await });
            Ok(())
        })
        .await;
    let error = result.expect_err("lost");
    assert_eq!(kind(&error), Some(ErrorKind::Closed), "{error}");
    lab.eventually("the session is gone", async |lab| {
        lab.sessions().await.is_empty()
    })
    .await;
    assert_eq!(lab.rows().await, 0);
}

#[tokio::test]
async fn connection_lost_during_the_commit_is_uncertain() {
    let (lab, relay) = lab_over_relay(|config| config).await;
    let relay = Arc::new(relay);
    let result = lab
        .run(async {
            let transaction = transaction().await?;
            transaction.execute(INSERT, &[]).await?;
            let relay = Arc::clone(&relay);
            invocation()?.defer(async move {
                // COMMIT reaches the server, its answer does not reach us.
                relay.quiet(Duration::from_millis(20)).await;
                relay.stall_down();
                let before = relay.counts();
                tokio::spawn(async move {
                    while relay.counts().since(before).bytes_up == 0 {
                        tokio::time::sleep(Duration::from_millis(2)).await;
                    }
                    relay.quiet(Duration::from_millis(20)).await;
                    relay.cut(Cut::Reset).await;
                    relay.resume();
                });
            });
            Ok(())
        })
        .await;
    let error = result.expect_err("the outcome is unknown");
    assert_eq!(kind(&error), Some(ErrorKind::CommitUnknown), "{error}");
    lab.eventually("the session is gone", async |lab| {
        lab.sessions().await.is_empty()
    })
    .await;
    assert_eq!(lab.rows().await, 1, "it was committed, as it happens");
}

#[tokio::test]
async fn abandoned_statement_fails_the_transaction() {
    let lab = lab().await;
    let result = lab
        .run(async {
            let transaction = transaction().await?;
            transaction.execute(INSERT, &[]).await?;
            let slow = transaction.batch_execute("select pg_sleep(60)");
            assert!(timeout(Duration::from_millis(20), slow).await.is_err());
            Ok(())
        })
        .await;
    assert_eq!(
        kind(&result.expect_err("cancelled")),
        Some(ErrorKind::TransactionFailed)
    );
    lab.ends_at_rest().await;
    assert_eq!(lab.rows().await, 0);
}

#[tokio::test]
async fn cached_statements_belong_to_the_transaction() {
    let lab = lab().await;
    let result = lab
        .run(async {
            let transaction = transaction().await?;
            let insert = "insert into t values ($1)";
            for at in 1..=2 {
                transaction.execute_cached(insert, &[&at]).await?;
            }
            let count = "select count(*) from t";
            let row = transaction.query_one_cached(count, &[]).await?;
            assert_eq!(row.get::<_, i64>(0), 2);
            Err::<(), BoxError>("rolled back".into())
        })
        .await;
    assert!(result.is_err());
    assert_eq!(lab.rows().await, 0);
    lab.assert_at_rest().await;
}

#[tokio::test]
async fn outside_an_invocation_awaiting_one_fails() {
    let lab = lab().await;
    for builder in [transaction(), lab.database.transaction()] {
        let error = builder.await.expect_err("outside");
        assert_eq!(error.kind(), ErrorKind::NotInInvocation);
    }
}
