//! However a handler ends, its connection is at rest when the invocation is over.

mod common;

use std::time::Duration;

use antifreeze::{ConnectionLifetime, ErrorKind, Reset, Step, connection};
use bytes::Bytes;
use common::{BoxError, Lab, PLENTY, kind, lab, lab_with, lease_and_return};
use futures_util::{SinkExt, StreamExt};
use tokio::time::timeout;

const ROLLED_BACK: &[Step] = &[Step::RolledBack];
const RESET: &[Step] = &[Step::Reset];
const CLOSED: &[Step] = &[Step::Closed { acknowledged: true }];
const CANCELLED_CLOSED: &[Step] = &[Step::Cancelled, Step::Closed { acknowledged: true }];

/// The ending leaves everything at rest, in these steps, and the next invocation
/// works.
async fn check(lab: &Lab, expected: &[Step]) {
    let outcome = lab.outcome();
    // Whether an answer is there already when the handler returns is up to the network.
    let steps = outcome.steps().iter().copied();
    let steps: Vec<_> = steps.filter(|step| *step != Step::Settled).collect();
    assert_eq!(steps, expected, "{outcome}");
    lab.assert_at_rest().await;
    lab.run(async {
        let connection = connection().await?;
        connection.query_one("select 1", &[]).await?;
        Ok(())
    })
    .await
    .expect("the next invocation works");
    assert!(lab.outcome().is_clean());
}

#[tokio::test]
async fn returns() {
    let lab = lab().await;
    lab.run(async {
        connection()
            .await?
            .execute("insert into t values (1)", &[])
            .await?;
        Ok(())
    })
    .await
    .expect("fine");
    check(&lab, &[]).await;
    assert_eq!(lab.rows().await, 1);
}

#[tokio::test]
async fn early_return_with_an_open_transaction() {
    let lab = lab().await;
    let error = lab
        .run(async {
            let mut connection = connection().await?;
            let transaction = connection.transaction().await?;
            transaction.execute("insert into t values (1)", &[]).await?;
            transaction
                .query_one("select no_such_function()", &[])
                .await?;
            transaction.commit().await?;
            Ok(())
        })
        .await;
    assert!(error.is_err());
    // tokio-postgres queued a ROLLBACK: it was sent and waited for.
    check(&lab, &[]).await;
    assert_eq!(lab.rows().await, 0);
}

#[tokio::test]
async fn a_transaction_forgotten() {
    let lab = lab().await;
    lab.run(async {
        let mut connection = connection().await?;
        let transaction = connection.transaction().await?;
        transaction.execute("insert into t values (1)", &[]).await?;
        std::mem::forget(transaction);
        Ok(())
    })
    .await
    .expect("fine");
    check(&lab, ROLLED_BACK).await;
    assert_eq!(lab.rows().await, 0);
}

#[tokio::test]
async fn begin_by_hand() {
    let lab = lab().await;
    lab.run(async {
        connection()
            .await?
            .batch_execute("begin; insert into t values (1)")
            .await?;
        Ok(())
    })
    .await
    .expect("fine");
    check(&lab, ROLLED_BACK).await;
    assert_eq!(lab.torn_down().len(), 0);
}

#[tokio::test]
async fn savepoints() {
    let lab = lab().await;
    lab.run(async {
        let mut connection = connection().await?;
        let mut transaction = connection.transaction().await?;
        let savepoint = transaction.savepoint("here").await?;
        savepoint.execute("insert into t values (1)", &[]).await?;
        std::mem::forget(savepoint);
        std::mem::forget(transaction);
        Ok(())
    })
    .await
    .expect("fine");
    check(&lab, ROLLED_BACK).await;
}

#[tokio::test]
async fn a_failed_statement_inside_a_transaction() {
    let lab = lab().await;
    lab.run(async {
        let connection = connection().await?;
        connection.batch_execute("begin").await?;
        assert!(connection.batch_execute("select 1 / 0").await.is_err());
        Ok(())
    })
    .await
    .expect("fine");
    check(&lab, ROLLED_BACK).await;
}

#[tokio::test]
async fn a_commit_of_an_aborted_transaction() {
    let lab = lab().await;
    lab.run(async {
        let mut connection = connection().await?;
        let transaction = connection.transaction().await?;
        transaction.execute("insert into t values (1)", &[]).await?;
        assert!(transaction.batch_execute("select 1 / 0").await.is_err());
        transaction.commit().await?;
        Ok(())
    })
    .await
    .expect("tokio-postgres says so");
    check(&lab, &[]).await;
    assert_eq!(lab.rows().await, 0);
}

#[tokio::test]
async fn a_panic() {
    let lab = lab().await;
    let panicked = tokio::spawn({
        let database = lab.database.clone();
        async move {
            database
                .invocation(PLENTY, async {
                    let mut connection = connection().await?;
                    let transaction = connection.transaction().await?;
                    transaction.execute("insert into t values (1)", &[]).await?;
                    assert!(transaction.client().is_closed(), "as it must");
                    Ok::<_, BoxError>(())
                })
                .await
        }
    });
    let panic = panicked.await.expect_err("the panic goes on");
    assert_eq!(
        panic.into_panic().downcast_ref::<&str>(),
        Some(&"as it must")
    );
    check(&lab, &[]).await;
    assert_eq!(lab.rows().await, 0);
}

#[tokio::test]
async fn too_slow_in_a_statement() {
    let lab = lab().await;
    // Connecting is not what takes its time here.
    lab.run(lease_and_return()).await.expect("warm");
    lab.torn_down();
    let deadline = Duration::from_secs(2);
    let result = timeout(
        deadline,
        lab.database.invocation(deadline, async {
            let mut connection = connection().await?;
            let transaction = connection.transaction().await?;
            transaction.execute("insert into t values (1)", &[]).await?;
            transaction.execute("select pg_sleep(60)", &[]).await?;
            Ok::<_, BoxError>(())
        }),
    )
    .await
    .expect("in time");
    assert_eq!(
        kind(&result.expect_err("a deadline")),
        Some(ErrorKind::Deadline)
    );
    check(&lab, &[Step::Cancelled]).await;
}

#[tokio::test]
async fn too_slow_between_statements() {
    let lab = lab().await;
    // Connecting is not what takes its time here.
    lab.run(lease_and_return()).await.expect("warm");
    lab.torn_down();
    let deadline = Duration::from_secs(2);
    let result = timeout(
        deadline,
        lab.database.invocation(deadline, async {
            let mut connection = connection().await?;
            let transaction = connection.transaction().await?;
            transaction.execute("insert into t values (1)", &[]).await?;
            std::future::pending::<()>().await;
            Ok::<_, BoxError>(())
        }),
    )
    .await
    .expect("in time");
    assert_eq!(
        kind(&result.expect_err("a deadline")),
        Some(ErrorKind::Deadline)
    );
    check(&lab, &[]).await;
}

#[tokio::test]
async fn a_statement_dropped_by_a_timeout() {
    let lab = lab().await;
    lab.run(async {
        let connection = connection().await?;
        let slow = connection.batch_execute("begin; select pg_sleep(60)");
        assert!(timeout(Duration::from_millis(20), slow).await.is_err());
        Ok(())
    })
    .await
    .expect("fine");
    check(&lab, &[Step::Cancelled, Step::RolledBack]).await;
}

#[tokio::test]
async fn a_begin_dropped() {
    let lab = lab().await;
    lab.run(async {
        let mut connection = connection().await?;
        // Polled once: the request is queued and nobody waits for its answer.
        let begin = connection.build_transaction().start();
        assert!(futures_util::FutureExt::now_or_never(begin).is_none());
        Ok(())
    })
    .await
    .expect("fine");
    check(&lab, &[]).await;
    lab.run(async {
        let connection = connection().await?;
        let begin = connection.batch_execute("begin");
        assert!(futures_util::FutureExt::now_or_never(begin).is_none());
        Ok(())
    })
    .await
    .expect("fine");
    check(&lab, ROLLED_BACK).await;
}

#[tokio::test]
async fn copy_in_abandoned() {
    let lab = lab().await;
    lab.run(async {
        let connection = connection().await?;
        let sink = connection.copy_in("copy t from stdin").await?;
        let mut sink = std::pin::pin!(sink);
        sink.send(Bytes::from_static(b"1\n")).await?;
        Ok(())
    })
    .await
    .expect("fine");
    check(&lab, &[]).await;

    // Kept: nobody will ever end the COPY.
    let (keep, kept) = std::sync::mpsc::channel();
    lab.run(async move {
        let connection = connection().await?;
        let sink = connection.copy_in::<_, Bytes>("copy t from stdin").await?;
        keep.send(Box::pin(sink)).expect("kept");
        Ok(())
    })
    .await
    .expect("fine");
    check(&lab, CLOSED).await;
    drop(kept);

    // By the simple protocol tokio-postgres cannot even begin to end it.
    lab.run(async {
        let connection = connection().await?;
        assert!(connection.batch_execute("copy t from stdin").await.is_err());
        Ok(())
    })
    .await
    .expect("fine");
    check(&lab, CLOSED).await;
    assert_eq!(lab.rows().await, 0);
}

#[tokio::test]
async fn copy_in_that_fails() {
    let lab = lab().await;
    lab.run(async {
        let connection = connection().await?;
        let statement = connection.prepare("copy t from stdin").await?;
        let sink = connection.copy_in(&statement).await?;
        let mut sink = std::pin::pin!(sink);
        sink.send(Bytes::from_static(b"no number\n")).await?;
        assert!(sink.finish().await.is_err());
        Ok(())
    })
    .await
    .expect("fine");
    check(&lab, &[]).await;

    // tokio-postgres sends a CopyFail that nobody asked for, is surprised by the
    // answer to it, and gives the connection up.
    lab.run(async {
        let connection = connection().await?;
        let copy = connection.copy_in::<_, Bytes>("copy no_table from stdin");
        assert!(copy.await.is_err());
        Ok(())
    })
    .await
    .expect("fine");
    check(&lab, CLOSED).await;
}

#[tokio::test]
async fn copy_out_abandoned() {
    let lab = lab().await;
    let copy = "copy (select repeat('x', 1000) from pg_class a, pg_class b, pg_class c) to stdout";
    lab.run(async {
        let connection = connection().await?;
        let mut stream = std::pin::pin!(connection.copy_out(copy).await?);
        assert!(stream.next().await.is_some_and(|chunk| chunk.is_ok()));
        Ok(())
    })
    .await
    .expect("fine");
    check(&lab, &[Step::Cancelled]).await;

    let (keep, kept) = std::sync::mpsc::channel();
    lab.run(async move {
        let connection = connection().await?;
        let mut stream = Box::pin(connection.copy_out(copy).await?);
        assert!(stream.next().await.is_some_and(|chunk| chunk.is_ok()));
        keep.send(stream).expect("kept");
        Ok(())
    })
    .await
    .expect("fine");
    check(&lab, CANCELLED_CLOSED).await;
    drop(kept);
}

#[tokio::test]
async fn a_row_stream_half_read() {
    let lab = lab().await;
    let query = "select repeat('x', 1000) from pg_class a, pg_class b, pg_class c";
    let none = std::iter::empty::<i32>;
    lab.run(async {
        let connection = connection().await?;
        let mut stream = std::pin::pin!(connection.query_raw(query, none()).await?);
        assert!(stream.next().await.is_some_and(|row| row.is_ok()));
        Ok(())
    })
    .await
    .expect("fine");
    check(&lab, &[Step::Cancelled]).await;

    let (keep, kept) = std::sync::mpsc::channel();
    lab.run(async move {
        let connection = connection().await?;
        let mut stream = Box::pin(connection.query_raw(query, none()).await?);
        assert!(stream.next().await.is_some_and(|row| row.is_ok()));
        keep.send(stream).expect("kept");
        Ok(())
    })
    .await
    .expect("fine");
    check(&lab, CANCELLED_CLOSED).await;
    drop(kept);
}

#[tokio::test]
async fn a_task_keeps_the_lease() {
    let lab = lab().await;
    for (statement, expected) in [
        ("begin; insert into t values (1)", CLOSED),
        ("select 1", CLOSED),
    ] {
        let (tell, told) = tokio::sync::oneshot::channel();
        let (go_on, going_on) = tokio::sync::oneshot::channel::<()>();
        lab.run(async move {
            let (begun, beginning) = tokio::sync::oneshot::channel();
            let connection = connection().await?;
            tokio::spawn(async move {
                let first = connection.batch_execute(statement).await;
                let _ = begun.send(());
                let _ = going_on.await;
                let _ = tell.send((first, connection.batch_execute("select 2").await));
            });
            beginning.await?;
            Ok(())
        })
        .await
        .expect("fine");
        check(&lab, expected).await;
        let _ = go_on.send(());
        let (first, later) = told.await.expect("the task ends");
        first.expect("its own time was its own");
        let later = later.expect_err("too late");
        assert!(antifreeze::Error::is_invocation_ended(&later), "{later:?}");
    }
}

#[tokio::test]
async fn a_busy_task_keeps_the_lease() {
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
    let outcome = lab.outcome();
    assert_eq!(outcome.closed(), Some(true), "{outcome}");
    lab.assert_at_rest().await;
    let error = told.await.expect("the task is told").expect_err("ended");
    assert!(antifreeze::Error::is_invocation_ended(&error), "{error:?}");
}

#[tokio::test]
async fn a_blocking_task_keeps_the_lease() {
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
    check(&lab, CLOSED).await;
    drop(go_on);
    blocked.await.expect("it ends");
}

#[tokio::test]
async fn two_leases() {
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

#[tokio::test]
async fn session_state_left_behind() {
    let lab = lab_with(|config| config.max_connections(1)).await;
    let clean = async || {
        lab.run(async {
            let connection = connection().await?;
            let row = connection
                .query_one(
                    "select current_setting('work_mem'), \
                     coalesce(current_setting('app.user', true), ''), \
                     (select count(*) from pg_listening_channels()), \
                     (select count(*) from pg_locks where locktype = 'advisory' and pid = pg_backend_pid()), \
                     to_regclass('pg_temp.left_behind')::text",
                    &[],
                )
                .await?;
            assert_ne!(row.get::<_, String>(0), "7MB");
            assert_eq!(row.get::<_, String>(1), "");
            assert_eq!(row.get::<_, i64>(2), 0);
            assert_eq!(row.get::<_, i64>(3), 0);
            assert_eq!(row.get::<_, Option<String>>(4), None);
            Ok(())
        })
        .await
        .expect("nothing is left");
        assert!(lab.outcome().is_clean());
    };
    for statement in [
        "set work_mem = '7MB'",
        "select set_config('app.user', 'mallory', false)",
        "listen something",
        "select pg_advisory_lock(1)",
        "create temp table left_behind (a int)",
        "select 1 as a into temp left_behind",
        "do $$ begin perform set_config('app.user', 'mallory', false); end $$",
        "do $$ begin perform pg_advisory_lock(2); end $$",
        "begin; set work_mem = '7MB'; commit",
    ] {
        lab.run(async {
            connection().await?.batch_execute(statement).await?;
            Ok(())
        })
        .await
        .expect(statement);
        assert_eq!(lab.outcome().steps(), RESET, "{statement}");
        lab.assert_at_rest().await;
        clean().await;
    }

    // By the extended protocol, and from a statement prepared earlier.
    for _ in 0..2 {
        lab.run(async {
            let connection = connection().await?;
            let statement = connection
                .prepare_cached("select pg_advisory_lock($1)")
                .await?;
            connection.execute(&statement, &[&3i64]).await?;
            Ok(())
        })
        .await
        .expect("fine");
        assert_eq!(lab.outcome().steps(), RESET);
        clean().await;
    }

    // In a transaction that is open too: one round trip for both.
    lab.run(async {
        let connection = connection().await?;
        connection
            .batch_execute("begin; select pg_advisory_lock(4)")
            .await?;
        Ok(())
    })
    .await
    .expect("fine");
    let torn = lab.torn_down().remove(0);
    assert_eq!(torn.outcome.steps(), [Step::RolledBack, Step::Reset]);
    assert_eq!(torn.round_trips, 1);
    clean().await;

    // What ends with the transaction costs nothing.
    lab.run(async {
        let connection = connection().await?;
        connection
            .batch_execute("begin; set local work_mem = '7MB'; commit")
            .await?;
        connection
            .batch_execute("select pg_advisory_xact_lock(5)")
            .await?;
        Ok(())
    })
    .await
    .expect("fine");
    assert!(lab.outcome().is_clean());
}

#[tokio::test]
async fn what_a_reset_cannot_undo_is_closed() {
    let lab = lab_with(|config| config.max_connections(1)).await;
    for statement in ["discard all", "deallocate all", "prepare p as select 1"] {
        lab.run(async {
            connection().await?.batch_execute(statement).await?;
            Ok(())
        })
        .await
        .expect(statement);
        assert_eq!(lab.outcome().steps(), CLOSED, "{statement}");
    }
}

#[tokio::test]
async fn resets_as_configured() {
    for (reset, expected) in [(Reset::Always, RESET), (Reset::Never, &[][..])] {
        let lab = lab_with(|config| config.reset(reset)).await;
        lab.run(async {
            connection()
                .await?
                .batch_execute("set work_mem = '7MB'")
                .await?;
            Ok(())
        })
        .await
        .expect("fine");
        assert_eq!(lab.outcome().steps(), expected);
        lab.run(async {
            let connection = connection().await?;
            let row = connection.query_one("show work_mem", &[]).await?;
            let left = row.get::<_, String>(0) == "7MB";
            assert_eq!(left, reset == Reset::Never);
            Ok(())
        })
        .await
        .expect("fine");
        assert_eq!(lab.outcome().steps(), expected);
    }
}

#[tokio::test]
async fn the_types_that_were_looked_up_survive_a_reset() {
    let lab = lab_with(|config| config.max_connections(1)).await;
    lab.server
        .execute("create type mood as enum ('well', 'unwell'); create table m (a mood)")
        .await
        .expect("a type");
    for _ in 0..2 {
        lab.run(async {
            let connection = connection().await?;
            connection.query("select a from m", &[]).await?;
            connection.batch_execute("set work_mem = '7MB'").await?;
            Ok(())
        })
        .await
        .expect("fine");
        assert_eq!(lab.outcome().steps(), RESET);
    }
    lab.server
        .execute("create type other as enum ('x'); create table o (a other)")
        .await
        .expect("a type");
    lab.run(async {
        connection().await?.query("select a from o", &[]).await?;
        Ok(())
    })
    .await
    .expect("a type that is new");
}

#[tokio::test]
async fn the_backend_killed_in_the_middle() {
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
    // The kernel may say "reset" where the server's goodbye was not read in time.
    let outcome = lab.outcome();
    assert!(outcome.closed().is_some(), "{outcome}");
    lab.assert_at_rest().await;
    assert_eq!(lab.rows().await, 0);
}

#[tokio::test]
async fn per_invocation_leaves_no_session_at_all() {
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
    lab.run(async {
        let connection = connection().await?;
        let slow = connection.batch_execute("begin; select pg_sleep(60)");
        assert!(timeout(Duration::from_millis(20), slow).await.is_err());
        Ok(())
    })
    .await
    .expect("fine");
    assert_eq!(lab.outcome().steps(), CANCELLED_CLOSED);
    assert_eq!(lab.sessions().await, [""; 0]);
}

#[tokio::test]
async fn the_invocations_future_dropped_from_outside() {
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
