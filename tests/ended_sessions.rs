//! Sessions that the server ends: the error names the reason, for the statement that was running
//! and for the next one.

mod common;

use std::time::Duration;

use antifreeze::{Error, ErrorKind, connection, transaction};
use common::{BoxError, Lab, PLENTY, kind, lab, lab_with};
use lab::postgres::{Installation, Postgres};
use lab::relay::Relay;

/// Nothing of the invocation's is left at the server.
async fn gone(lab: &Lab) {
    lab.eventually("the session is gone", async |lab| {
        lab.sessions().await.is_empty()
    })
    .await;
}

/// What the next statement of a session says that the server has ended, which `prepare`
/// sees to.
async fn next_statement(lab: &Lab, prepare: &str) -> Error {
    let error = lab
        .run(async {
            let connection = connection().await?;
            connection.batch_execute(prepare).await?;
            gone(lab).await;
            lab.eventually("it is known", async |_| connection.is_closed())
                .await;
            let error = connection
                .query("select 1", &[])
                .await
                .expect_err("it is gone");
            let again = connection
                .batch_execute("select 1")
                .await
                .expect_err("it is gone");
            assert_eq!(error.code(), again.code(), "told as often as it is asked");
            Err::<(), _>(BoxError::from(Error::from(error)))
        })
        .await
        .expect_err("it failed");
    let outcome = lab.outcome();
    assert_eq!(outcome.closed(), Some(true), "{outcome:?}");
    *error.downcast::<Error>().expect("ours")
}

fn assert_says(error: &Error, kind: ErrorKind, sqlstate: &str, words: &str) {
    assert_eq!(error.kind(), kind, "{error}");
    assert_eq!(error.sqlstate().map(|state| state.code()), Some(sqlstate));
    assert!(error.to_string().contains(words), "{error}");
    assert!(!error.is_retryable(), "{error}");
}

#[tokio::test]
async fn termination_names_its_reason() {
    let lab = lab().await;
    let error = lab
        .run(async {
            let connection = connection().await?;
            let end = format!("select pg_terminate_backend({})", connection.process_id());
            lab.server.query(&end).await?;
            gone(&lab).await;
            connection.batch_execute("select 1").await?;
            Ok(())
        })
        .await
        .expect_err("it is gone");
    let error = Error::from(
        *error
            .downcast::<tokio_postgres::Error>()
            .expect("the server's"),
    );
    assert_says(
        &error,
        ErrorKind::ServerStopping,
        "57P01",
        "an administrator ended the session",
    );
    assert!(error.is_unavailable());
    // Nothing is left of it for the next one.
    lab.run(async {
        connection().await?.batch_execute("select 1").await?;
        Ok(())
    })
    .await
    .expect("fine");
}

/// The answer belonged to a dropped statement: the next statement gets the reason.
#[tokio::test]
async fn session_ends_in_an_abandoned_statement() {
    let lab = lab().await;
    let error = lab
        .run(async {
            let connection = connection().await?;
            let active = lab.eventually("it is under way", async |lab| {
                lab.sessions().await == ["active"]
            });
            tokio::select! {
                _ = connection.batch_execute("select pg_sleep(60)") => panic!("it ended"),
                () = active => {}
            }
            let end = format!("select pg_terminate_backend({})", connection.process_id());
            lab.server.query(&end).await?;
            gone(&lab).await;
            connection.batch_execute("select 1").await?;
            Ok(())
        })
        .await
        .expect_err("it is gone");
    let error = error.downcast_ref::<tokio_postgres::Error>();
    let code = error.expect("the server's").code();
    assert_eq!(code.map(|code| code.code()), Some("57P01"));
}

#[tokio::test]
async fn idle_in_transaction_timeout_names_its_reason() {
    let lab =
        lab_with(|config| config.idle_in_transaction_timeout(Duration::from_millis(50))).await;
    let error = next_statement(&lab, "begin; insert into t values (1)").await;
    assert_says(
        &error,
        ErrorKind::TransactionFailed,
        "25P03",
        "idle_in_transaction_session_timeout",
    );
    assert_eq!(lab.rows().await, 0);
}

#[tokio::test]
async fn idle_session_timeout_names_its_reason() {
    let lab = lab().await;
    let error = next_statement(&lab, "set idle_session_timeout = '50ms'").await;
    assert_says(&error, ErrorKind::Closed, "57P05", "idle_session_timeout");
}

#[tokio::test]
async fn transaction_timeout_names_its_reason() {
    let installation = Installation::embedded("17").expect("PostgreSQL 17");
    let postgres = Postgres::builder().installation(installation);
    let postgres = postgres.start().await.expect("a server");
    let server = postgres.fresh_database().await.expect("a database");
    let url = server.url.clone();
    let lab = Lab::over(server, &url, |config| config);
    // Once it runs, a transaction keeps the timeout that it began with.
    let ours = "set transaction_timeout = '50ms'; commit; begin";
    let error = next_statement(&lab, ours).await;
    assert_says(
        &error,
        ErrorKind::TransactionFailed,
        "25P04",
        "transaction_timeout",
    );
}

/// Dead before COMMIT was sent: nothing is committed, and that is certain.
#[tokio::test]
async fn lazy_transaction_is_known_to_be_lost() {
    let lab =
        lab_with(|config| config.idle_in_transaction_timeout(Duration::from_millis(50))).await;
    let error = lab
        .run(async {
            let transaction = transaction().await?;
            // In one message with its BEGIN: it is idle from then on.
            transaction
                .batch_execute("insert into t values (1)")
                .await?;
            gone(&lab).await;
            Ok(())
        })
        .await
        .expect_err("not committed");
    assert_eq!(kind(&error), Some(ErrorKind::Closed), "{error}");
    assert!(error.to_string().contains("rolled the transaction back"));
    assert_eq!(lab.rows().await, 0);
}

/// An ended session without a holder takes no place, in an invocation or in the pool.
#[tokio::test]
async fn ended_idle_session_takes_no_place() {
    let lab = lab_with(|config| config.max_connections(1)).await;
    let end = async || {
        let all = "select pg_terminate_backend(pid) from pg_stat_activity \
                   where datname = current_database() and pid <> pg_backend_pid()";
        lab.server.query(all).await.expect("ended");
        gone(&lab).await;
    };
    for _ in 0..2 {
        lab.run(async {
            connection().await?.batch_execute("select 1").await?;
            end().await;
            connection().await?.batch_execute("select 1").await?;
            Ok(())
        })
        .await
        .expect("another one");
        end().await;
    }
}

/// The last message may come behind other unrequested ones.
#[tokio::test]
async fn farewell_behind_a_notification_is_seen() {
    let postgres = Postgres::shared().await.expect("a server");
    let server = postgres.fresh_database().await.expect("a database");
    let relay = Relay::start(postgres.address()).await.expect("a relay");
    let url = relay.url(&server.url);
    let lab = Lab::over(server, &url, |config| config);
    let result = lab.run(async {
        let connection = connection().await?;
        connection.batch_execute("listen news").await?;
        relay.stall_down();
        lab.server.query("notify news").await?;
        let end = format!("select pg_terminate_backend({})", connection.process_id());
        lab.server.query(&end).await?;
        gone(&lab).await;
        relay.resume();
        let statement = connection.batch_execute("select 1");
        Ok(tokio::time::timeout(PLENTY, statement).await?)
    });
    let error = result.await.expect("fine").expect_err("gone");
    assert_eq!(error.code().map(|code| code.code()), Some("57P01"));
}
