//! Other drivers behind the private socket. The driver here is tokio-postgres over the socket.

#[path = "../common/mod.rs"]
mod common;

use antifreeze::teardown::Step;
use antifreeze::{claim, invocation};
use common::{BoxError, Lab, lab, lab_over_relay, lab_with};
use tokio_postgres::{Client, NoTls, SimpleQueryMessage};

/// Connects a driver to the private socket.
async fn connect(url: &str) -> Result<Client, tokio_postgres::Error> {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await?;
    tokio::spawn(connection);
    Ok(client)
}

async fn value(client: &Client, sql: &str) -> Result<String, tokio_postgres::Error> {
    for message in client.simple_query(sql).await? {
        if let SimpleQueryMessage::Row(row) = message {
            return Ok(row.get(0).unwrap_or_default().to_owned());
        }
    }
    Ok(String::new())
}

/// Each test's work at the URL of its invocation.
async fn with_driver(
    lab: &Lab,
    work: impl AsyncFnOnce(&Client) -> Result<(), BoxError>,
) -> Result<(), BoxError> {
    lab.run(async {
        let client = connect(&invocation()?.url()?).await?;
        work(&client).await
    })
    .await
}

/// The steps of the only teardown that had something to do.
fn unclean(lab: &Lab) -> Vec<Step> {
    let mut all = lab.torn_down();
    all.retain(|one| !one.outcome.is_clean());
    assert_eq!(all.len(), 1, "{all:?}");
    all[0].outcome.steps().to_vec()
}

#[tokio::test]
async fn driver_queries_through_the_socket() {
    let lab = lab().await;
    let url = lab.database.url().expect("a socket");
    let client = connect(&url).await.expect("outside an invocation");
    lab.run(async {
        assert_eq!(value(&client, "select 1 + 1").await?, "2");
        client.batch_execute("insert into t values (1)").await?;
        Ok(())
    })
    .await
    .expect("answered");
    assert_eq!(lab.rows().await, 1);
    assert!(lab.torn_down().iter().all(|one| one.outcome.is_clean()));
    lab.run(async {
        assert_eq!(value(&client, "select 3").await?, "3");
        Ok(())
    })
    .await
    .expect("the next invocation has the same connection");
    let error = value(&client, "select 1").await.expect_err("no invocation");
    assert_eq!(error.code().map(|code| code.code()), Some("08003"));
    lab.assert_at_rest().await;
}

#[tokio::test]
async fn open_transaction_is_rolled_back() {
    let lab = lab().await;
    let mut client = None;
    lab.run(async {
        let driver = connect(&invocation()?.url()?).await?;
        driver
            .batch_execute("begin; insert into t values (1)")
            .await?;
        client = Some(driver);
        Ok(())
    })
    .await
    .expect("it returns");
    assert_eq!(unclean(&lab), [Step::RolledBack]);
    lab.assert_at_rest().await;
    assert_eq!(lab.rows().await, 0);
    let client = client.expect("made");
    let error = client
        .batch_execute("commit")
        .await
        .expect_err("it has ended");
    assert_eq!(
        error.code().map(|code| code.code()),
        Some("08003"),
        "{error:?}"
    );
    assert_eq!(lab.sessions().await.len(), 1, "the session was kept");
}

#[tokio::test]
async fn running_statement_is_cancelled() {
    let lab = lab().await;
    with_driver(&lab, async |client| {
        client
            .batch_execute("begin; insert into t values (1)")
            .await?;
        let slow = client.batch_execute("select pg_sleep(600)");
        let _ = tokio::time::timeout(std::time::Duration::from_millis(20), slow).await;
        Ok(())
    })
    .await
    .expect("it returns");
    assert_eq!(unclean(&lab), [Step::Cancelled, Step::RolledBack]);
    lab.assert_at_rest().await;
    assert_eq!(lab.rows().await, 0);
}

#[tokio::test]
async fn session_state_is_reset() {
    let lab = lab_with(|config| config.max_connections(1)).await;
    with_driver(&lab, async |client| {
        client
            .batch_execute("set search_path = nowhere; select pg_advisory_lock(1)")
            .await?;
        Ok(())
    })
    .await
    .expect("it returns");
    assert_eq!(unclean(&lab), [Step::Reset]);
    with_driver(&lab, async |client| {
        assert_eq!(
            value(client, "show search_path").await?,
            "\"$user\", public"
        );
        assert_eq!(
            value(
                client,
                "select count(*) from pg_locks where locktype = 'advisory'"
            )
            .await?,
            "0"
        );
        Ok(())
    })
    .await
    .expect("nothing is left");
}

#[tokio::test]
async fn warm_driver_costs_one_round_trip() {
    let (lab, relay) = lab_over_relay(|config| config).await;
    let url = lab.database.url().expect("a socket");
    let query = async || {
        lab.run(async {
            let client = connect(&url).await?;
            assert_eq!(value(&client, "select 1").await?, "1");
            Ok(())
        })
        .await
        .expect("answered");
    };
    query().await;
    let before = relay.counts();
    query().await;
    assert_eq!(relay.counts().since(before).round_trips, 1);
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
    assert!(
        refused.is_err(),
        "what the driver wanted to commit is not stored"
    );
    assert_eq!(lab.rows().await, 2);
}

#[tokio::test]
async fn claims_tell_concurrent_invocations_apart() {
    let lab = lab().await;
    let url = lab.database.url().expect("a socket");
    let (first, second) = (
        connect(&url).await.expect("one"),
        connect(&url).await.expect("two"),
    );
    let (told, tell) = tokio::sync::oneshot::channel();
    let (begun, begin) = tokio::sync::oneshot::channel();
    let long = lab.run(async {
        first.batch_execute(&claim()).await?;
        first
            .batch_execute("begin; insert into t values (1)")
            .await?;
        let _ = begun.send(());
        tell.await?;
        first.batch_execute("commit").await?;
        Ok(())
    });
    let short = async {
        let _ = begin.await;
        lab.run(async {
            second.batch_execute(&claim()).await?;
            second
                .batch_execute("begin; insert into t values (2)")
                .await?;
            Ok(())
        })
        .await
        .expect("it returns");
        // The other invocation still runs, and is not disturbed.
        assert_eq!(unclean(&lab), [Step::RolledBack]);
        assert_eq!(lab.rows().await, 0);
        let _ = told.send(());
    };
    let (long, ()) = tokio::join!(long, short);
    long.expect("committed");
    assert_eq!(lab.rows().await, 1);
    lab.assert_at_rest().await;
}
