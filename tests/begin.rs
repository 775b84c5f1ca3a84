//! The BEGIN of an invocation's transaction: when it is refused, fails or has to be sent again,
//! no statement runs outside a transaction.

mod common;

use antifreeze::invocation::IsolationLevel;
use antifreeze::{ErrorKind, connection, transaction};
use common::{BoxError, Lab, kind, lab};
use lab::postgres::Postgres;
use tokio_postgres::error::SqlState;

const INSERT: &str = "insert into t values (1)";

#[tokio::test]
async fn transaction_ended_by_hand_begins_again() {
    let lab = lab().await;
    let result = lab
        .run(async {
            let transaction = transaction()
                .isolation_level(IsolationLevel::Serializable)
                .read_only(false)
                .await?;
            transaction.batch_execute("select 1").await?;
            // What follows opens another, and is not autocommitted.
            transaction.batch_execute("commit").await?;
            transaction.execute(INSERT, &[]).await?;
            assert_eq!(
                transaction
                    .query_one("show transaction_isolation", &[])
                    .await?
                    .get::<_, String>(0),
                "serializable"
            );
            Err::<(), BoxError>("a failure".into())
        })
        .await;
    result.expect_err("a failure");
    assert_eq!(lab.rows().await, 0, "never an autocommit");
    lab.assert_at_rest().await;
}

/// What was sent behind the COMMIT before its answer.
#[tokio::test]
async fn pipelined_statement_begins_again() {
    let lab = lab().await;
    for prepared in [true, false] {
        let result = lab
            .run(async {
                let transaction = transaction().await?;
                transaction.batch_execute("select 1").await?;
                if prepared {
                    let commit = transaction.prepare("commit").await?;
                    let insert = transaction.prepare(INSERT).await?;
                    let commit = transaction.execute(&commit, &[]);
                    futures_util::try_join!(commit, transaction.execute(&insert, &[]))?;
                } else {
                    let commit = transaction.query_typed("commit", &[]);
                    futures_util::try_join!(commit, transaction.query_typed(INSERT, &[]))?;
                }
                Err::<(), BoxError>("a failure".into())
            })
            .await;
        assert_eq!(result.expect_err("a failure").to_string(), "a failure");
        assert_eq!(lab.rows().await, 0, "an autocommit: {prepared}");
        lab.assert_at_rest().await;
    }
}

#[tokio::test]
async fn refused_begin_fails_the_next_statements_too() {
    // A standby, which refuses to begin anything that may write.
    let server = Postgres::start().await.expect("a server of its own");
    let database = server.create_database("d").await.expect("a database");
    server.halt().await.expect("halted");
    let signal = server.directory().join("data/standby.signal");
    std::fs::write(signal, "").expect("a file");
    server.restart().await.expect("a standby");
    let lab = Lab::over(database, &server.url_for("postgres", "d"), |config| {
        config.max_connections(1)
    });
    // All but the lab's own sessions, which may be on their way out.
    let names = async || {
        let names = "select application_name from pg_stat_activity \
                     where datname = current_database() and application_name <> 'lab'";
        lab.server.query(names).await.expect("activity")
    };
    // What would show at once, had it been executed outside a transaction.
    let ran = "select set_config('application_name', 'it ran', false)";
    for how in ["simple", "extended", "typed", "pipelined", "prepared"] {
        let result = lab
            .run(async {
                let prepared = match how {
                    "prepared" => Some(connection().await?.prepare_cached(ran).await?),
                    _ => None,
                };
                let transaction = transaction().read_only(false).await?;
                for _ in 0..2 {
                    let refused = match how {
                        "simple" => transaction.batch_execute(ran).await.map(drop),
                        "typed" => transaction.query_typed(ran, &[]).await.map(drop),
                        "pipelined" => {
                            let (first, second) = futures_util::join!(
                                transaction.query_typed("select 1", &[]),
                                transaction.batch_execute(ran),
                            );
                            second.and(first.map(drop))
                        }
                        _ => match &prepared {
                            Some(statement) => transaction.query(statement, &[]).await.map(drop),
                            None => transaction.query(ran, &[]).await.map(drop),
                        },
                    };
                    let refused = refused.expect_err(how);
                    let code = refused.code();
                    assert_eq!(code, Some(&SqlState::FEATURE_NOT_SUPPORTED), "{refused:?}");
                    assert_eq!(names().await, [[Some("under test".into())]], "{how}");
                }
                Ok(())
            })
            .await;
        let error = result.expect_err("nothing was done, and that is no success");
        assert_eq!(kind(&error), Some(ErrorKind::TransactionFailed), "{error}");
        assert_eq!(names().await, [[Some("under test".into())]], "{how}");
        assert_eq!(lab.sessions().await, ["idle"], "{how}");
    }
}

#[tokio::test]
async fn unparsable_first_text_fails_the_transaction() {
    let lab = lab().await;
    // BEGIN stands before the text of a simple query, and the server parses both or
    // neither. The next statement begins it again, but what has failed stays failed.
    let error = lab
        .run(async {
            let transaction = transaction().await?;
            let error = transaction.batch_execute("selekt 1").await;
            let code = error.as_ref().err().and_then(|error| error.code());
            assert_eq!(code, Some(&SqlState::SYNTAX_ERROR), "{error:?}");
            transaction.execute(INSERT, &[]).await?;
            Ok(())
        })
        .await
        .expect_err("nothing was stored, and that is no success");
    assert_eq!(kind(&error), Some(ErrorKind::TransactionFailed), "{error}");
    assert_eq!(lab.rows().await, 0);
    lab.assert_at_rest().await;
}
