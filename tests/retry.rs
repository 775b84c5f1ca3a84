//! Retries of connecting and of whole transactions.

mod common;

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use antifreeze::invocation::IsolationLevel;
use antifreeze::{Config, Connection, Database, Error, ErrorKind, connection, retry_transaction};
use common::{BoxError, PLENTY, black_hole, kind, lab, lab_over_relay};
use lab::postgres::Postgres;
use lab::relay::Cut;
use tokio::time::{Instant, sleep};
use tokio_postgres::error::SqlState;

/// Reads the sum, lets the other one do so, and stores what both would: one of two
/// serializable transactions has to give way.
async fn add_the_sum(
    connection: &mut Connection,
    meet: &tokio::sync::Barrier,
    runs: &AtomicU32,
) -> Result<(), Error> {
    connection
        .build_retry()
        .isolation_level(IsolationLevel::Serializable)
        .run(async |transaction| {
            let sum = "select coalesce(sum(a), 0)::int from t";
            let sum: i32 = transaction.query_one(sum, &[]).await?.try_get(0)?;
            if runs.fetch_add(1, Ordering::Relaxed) < 2 {
                meet.wait().await;
            }
            let insert = "insert into t values ($1)";
            transaction.execute(insert, &[&(sum + 1)]).await?;
            Ok(())
        })
        .await
}

#[tokio::test]
async fn serialization_failure_reruns_the_transaction() {
    let lab = lab().await;
    let (meet, runs) = (tokio::sync::Barrier::new(2), AtomicU32::new(0));
    lab.run(async {
        let (mut one, mut other) = (connection().await?, connection().await?);
        let (one, other) = tokio::join!(
            add_the_sum(&mut one, &meet, &runs),
            add_the_sum(&mut other, &meet, &runs),
        );
        one?;
        other?;
        Ok(())
    })
    .await
    .expect("both, one after the other");
    assert!(runs.load(Ordering::Relaxed) >= 3, "{runs:?}");
    // Had they not seen each other there would be two of the first.
    let rows = lab.server.query("select a from t order by a").await;
    let rows = rows.expect("rows");
    let values: Vec<_> = rows.iter().map(|row| row[0].as_deref()).collect();
    assert_eq!(values, [Some("1"), Some("2")]);
    lab.assert_at_rest().await;
}

#[tokio::test]
async fn deadlock_reruns_the_transaction() {
    let lab = lab().await;
    lab.server
        .execute("insert into t values (1), (2)")
        .await
        .expect("rows");
    lab.server
        .execute("alter role postgres set deadlock_timeout = '20ms'")
        .await
        .expect("set");
    let (meet, runs) = (tokio::sync::Barrier::new(2), AtomicU32::new(0));
    let both_ways = async |first: i32, second: i32| {
        retry_transaction(async |transaction| {
            let update = "update t set a = a where a = $1";
            transaction.execute(update, &[&first]).await?;
            if runs.fetch_add(1, Ordering::Relaxed) < 2 {
                meet.wait().await;
            }
            transaction.execute(update, &[&second]).await?;
            // An error type that knows nothing of SQLSTATEs would do as well.
            Ok::<_, BoxError>(())
        })
        .await
    };
    lab.run(async {
        let (one, other) = tokio::join!(both_ways(1, 2), both_ways(2, 1));
        one?;
        other
    })
    .await
    .expect("one gave way and came again");
    assert!(runs.load(Ordering::Relaxed) >= 3, "{runs:?}");
    lab.assert_at_rest().await;
}

/// Fails as the server does when a transaction has to give way.
const GIVE_WAY: &str = "do $$ begin raise sqlstate '40001'; end $$";

#[tokio::test]
async fn exhausted_attempts_return_the_last_error() {
    let lab = lab().await;
    for (attempts, expected) in [(0, 1), (1, 1), (3, 3)] {
        let mut runs = 0;
        let error = lab
            .run(async {
                let mut connection = connection().await?;
                let retry = connection.build_retry().attempts(attempts);
                retry
                    .run(async |transaction| {
                        runs += 1;
                        transaction.batch_execute(GIVE_WAY).await?;
                        Ok::<_, Error>(())
                    })
                    .await?;
                Ok(())
            })
            .await
            .expect_err("never");
        assert_eq!(kind(&error), Some(ErrorKind::SerializationFailure));
        assert_eq!(runs, expected, "attempts({attempts})");
    }
    lab.assert_at_rest().await;
}

#[tokio::test]
async fn other_failures_run_once() {
    let lab = lab().await;
    for (statement, expected) in [
        ("insert into nowhere values (1)", ErrorKind::Database),
        ("insert into t values ('x')", ErrorKind::DataException),
    ] {
        let mut runs = 0;
        let error = lab
            .run(async {
                let work = async |transaction: &tokio_postgres::Transaction<'_>| {
                    runs += 1;
                    transaction.execute("insert into t values (1)", &[]).await?;
                    transaction.batch_execute(statement).await?;
                    Ok::<_, Error>(())
                };
                connection().await?.retry_transaction(work).await?;
                Ok(())
            })
            .await
            .expect_err(statement);
        assert_eq!(kind(&error), Some(expected), "{error}");
        assert_eq!(runs, 1);
    }
    assert_eq!(lab.rows().await, 0, "rolled back");
    lab.assert_at_rest().await;
}

#[tokio::test]
async fn swallowed_error_does_not_commit() {
    let lab = lab().await;
    let error = lab
        .run(async {
            retry_transaction(async |transaction| {
                transaction.execute("insert into t values (1)", &[]).await?;
                let _ = transaction.batch_execute("select 1/0").await;
                Ok::<_, Error>(())
            })
            .await?;
            Ok(())
        })
        .await
        .expect_err("nothing is stored");
    assert_eq!(kind(&error), Some(ErrorKind::TransactionFailed), "{error}");
    assert_eq!(lab.rows().await, 0);
}

#[tokio::test]
async fn connection_lost_in_commit_is_not_retried() {
    let (lab, relay) = lab_over_relay(|config| config).await;
    let mut runs = 0;
    let error = lab.run(async {
        retry_transaction(async |transaction| {
            runs += 1;
            transaction.execute("insert into t values (1)", &[]).await?;
            relay.quiet(Duration::from_millis(20)).await;
            relay.stall_down();
            Ok::<_, Error>(())
        })
        .await?;
        Ok(())
    });
    let cut = async {
        // COMMIT reaches the server, its answer does not reach us.
        lab.eventually("committed", async |lab| lab.rows().await == 1)
            .await;
        relay.cut(Cut::Reset).await;
        relay.resume();
    };
    let (result, ()) = tokio::join!(error, cut);
    let error = result.expect_err("the outcome is unknown");
    assert_eq!(kind(&error), Some(ErrorKind::CommitUnknown), "{error}");
    assert_eq!(runs, 1);
}

/// A task outlives its handler, and the teardown takes its session while COMMIT is under way.
#[tokio::test]
async fn commit_that_a_teardown_cuts_off_is_not_known() {
    tokio::task::LocalSet::new().run_until(cut_off()).await;
}

async fn cut_off() {
    let (lab, relay) = lab_over_relay(|config| config).await;
    let relay = std::rc::Rc::new(relay);
    let task = lab.run(async {
        let mut connection = connection().await?;
        let stalls = std::rc::Rc::clone(&relay);
        let task = tokio::task::spawn_local(async move {
            let work = async |transaction: &tokio_postgres::Transaction<'_>| {
                transaction.execute("insert into t values (1)", &[]).await?;
                stalls.quiet(Duration::from_millis(20)).await;
                stalls.stall_down();
                Ok::<_, Error>(())
            };
            connection.retry_transaction(work).await
        });
        lab.eventually("committed", async |lab| lab.rows().await == 1)
            .await;
        Ok(task)
    });
    let task = task.await.expect("fine");
    relay.resume();
    let error = task.await.expect("no panic").expect_err("it was cut off");
    assert_eq!(error.kind(), ErrorKind::CommitUnknown, "{error}");
}

#[tokio::test]
async fn retry_transaction_works_in_a_task() {
    let lab = lab().await;
    lab.run(async {
        let task = antifreeze::invocation()?.spawn(async {
            retry_transaction(async |transaction| {
                let insert = "insert into t values ($1)";
                Ok::<_, Error>(transaction.execute(insert, &[&1]).await?)
            })
            .await
        });
        assert_eq!(task.await??, 1);
        Ok(())
    })
    .await
    .expect("it is Send");
    assert_eq!(lab.rows().await, 1);
}

fn database_at(url: &str, change: impl FnOnce(Config) -> Config) -> Database {
    let mut config = Config::from_url(url).expect("a URL");
    config = change(config);
    Database::new(config).expect("settings")
}

async fn lease(database: &Database) -> Result<i32, Error> {
    let lease = async { Ok(connection().await?.process_id()) };
    database.invocation(PLENTY, lease).await
}

#[tokio::test]
async fn restarting_server_is_awaited() {
    let postgres = Postgres::start().await.expect("a server");
    let database = database_at(&postgres.url(), |config| config);
    postgres.halt().await.expect("down");
    let (leased, restarted) = tokio::join!(lease(&database), async {
        sleep(Duration::from_millis(300)).await;
        postgres.restart().await
    });
    restarted.expect("up");
    leased.expect("connected");
}

#[tokio::test]
async fn connect_retries_end_before_the_deadline() {
    let (lab, relay) = lab_over_relay(|config| config).await;
    relay.refuse(true).await.expect("refusing");
    let begin = Instant::now();
    let error = lab.run(common::lease_and_return()).await;
    let error = error.expect_err("refused");
    assert_eq!(kind(&error), Some(ErrorKind::Refused), "{error}");
    let elapsed = begin.elapsed();
    assert!(elapsed > Duration::from_millis(500), "tried: {elapsed:?}");
    assert!(elapsed < Duration::from_secs(8), "given up: {elapsed:?}");
}

#[tokio::test]
async fn full_server_is_left_alone() {
    let lab = lab().await;
    let role = format!("full_{}", lab.server.name);
    let postgres = Postgres::shared().await.expect("a server");
    postgres.create_role(&role).await.expect("a role");
    let limit = format!("alter role {role} connection limit 0");
    postgres.execute(&limit).await.expect("a limit");
    let relay = lab::relay::Relay::start(postgres.address()).await;
    let relay = relay.expect("a relay");
    let database = database_at(&relay.url(&lab.server.url_for(&role)), |config| config);
    let asks = async { connection().await.map(drop) };
    let asked = database.invocation(Duration::from_secs(2), asks).await;
    let error = asked.expect_err("full");
    assert_eq!(error.kind(), ErrorKind::TooManyConnections, "{error}");
    assert_eq!(error.sqlstate(), Some(&SqlState::TOO_MANY_CONNECTIONS));
    // By the circuit breaker, whose delays grow to a second; connecting itself does not
    // try again.
    let asked = relay.counts().connections;
    assert!((1..20).contains(&asked), "{asked}");
}

#[tokio::test]
async fn silent_host_leaves_time_for_the_next() {
    let lab = lab().await;
    let (silent, _held) = black_hole().await;
    let postgres = Postgres::shared().await.expect("a server").address();
    let url = format!(
        "postgres://postgres@{silent},{postgres}/{}",
        lab.server.name
    );
    let database = database_at(&url, |config| {
        config.connect_timeout(Duration::from_secs(4))
    });
    lease(&database).await.expect("the second host answers");

    let alone = format!("postgres://postgres@{silent}/x");
    let database = database_at(&alone, |config| {
        config.connect_timeout(Duration::from_millis(1500))
    });
    let error = lease(&database).await.expect_err("silence");
    assert_eq!(error.kind(), ErrorKind::NetworkBlocked, "{error}");
    assert!(error.to_string().contains("security group"), "{error}");
}

const GIVES_WAY: &str = "do $$ begin raise exception 'x' using errcode = '40P01'; end $$";

#[tokio::test]
async fn handled_failure_is_not_retried() {
    let lab = lab().await;
    let mut runs = 0;
    let told: Result<(), BoxError> = lab
        .run(async {
            let runs = &mut runs;
            let mut connection = connection().await?;
            connection
                .retry_transaction(async |transaction| {
                    *runs += 1;
                    transaction.batch_execute("savepoint a").await?;
                    let failed = transaction.batch_execute(GIVES_WAY).await;
                    failed.expect_err("it gives way");
                    transaction.batch_execute("rollback to a").await?;
                    Err::<(), BoxError>("out of stock".into())
                })
                .await
        })
        .await;
    assert_eq!(told.expect_err("its own").to_string(), "out of stock");
    assert_eq!(runs, 1);
}

/// What is asked of the failed transaction afterwards is refused with another code.
#[tokio::test]
async fn failure_is_retried_whatever_follows() {
    let lab = lab().await;
    let mut runs = 0;
    lab.run(async {
        let runs = &mut runs;
        let mut connection = connection().await?;
        connection
            .retry_transaction(async |transaction| {
                *runs += 1;
                if *runs == 1 {
                    let failed = transaction.batch_execute(GIVES_WAY).await;
                    failed.expect_err("it gives way");
                }
                transaction
                    .batch_execute("insert into t values (1)")
                    .await?;
                Ok::<_, BoxError>(())
            })
            .await
    })
    .await
    .expect("the second time");
    assert_eq!((runs, lab.rows().await), (2, 1));
}
