//! Other drivers behind the private socket. The driver here is tokio-postgres over the socket.

#[path = "../common/mod.rs"]
mod common;
mod faults;
mod parameters;
mod programs;
mod protocol;
mod raw;
mod strangers;
mod transactions;

use antifreeze::teardown::Step;
use antifreeze::{claim, invocation};
use common::{BoxError, Lab, lab, lab_over_relay, lab_with, sleeps};
use raw::{Raw, query};
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

/// The steps of the only teardown that had something to do. On a busy machine it may have to wait
/// for an answer, too.
fn unclean(lab: &Lab) -> Vec<Step> {
    let all = lab.torn_down();
    let steps = all.iter().map(|one| {
        let mut steps = one.outcome.steps().to_vec();
        steps.retain(|step| *step != Step::Settled);
        steps
    });
    let mut unclean: Vec<_> = steps.filter(|steps| !steps.is_empty()).collect();
    assert!(unclean.len() < 2, "{all:?}");
    unclean.pop().unwrap_or_default()
}

/// Nothing was left, and no answer was missing but on a busy machine.
fn assert_clean(lab: &Lab) {
    assert_eq!(unclean(lab), []);
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
    assert_clean(&lab);
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

/// The driver waits for the answer to its ROLLBACK, as one does that was dropped with it.
#[tokio::test]
async fn rollback_under_way_is_not_left_open() {
    let (lab, relay) = lab_over_relay(|config| config).await;
    relay.delay(std::time::Duration::from_millis(100));
    with_driver(&lab, async |client| {
        client
            .batch_execute("begin; insert into t values (1)")
            .await?;
        let client = &client;
        let rollback = client.batch_execute("rollback");
        let executed = lab.eventually("it is executed", async |lab| {
            !lab.sessions().await.contains(&"idle in transaction".into())
        });
        tokio::select! {
            biased;
            () = executed => Ok(()),
            answered = rollback => Ok(answered?),
        }
    })
    .await
    .expect("it returns");
    let torn_down = lab.torn_down();
    let left = torn_down.iter().find(|one| one.left_open_at.is_some());
    assert!(left.is_none(), "{torn_down:?}");
    lab.assert_at_rest().await;
}

#[tokio::test]
async fn running_statement_is_cancelled() {
    // A busy machine may take the time of a step of the teardown, but not each time.
    let tries = [
        cancels_what_runs().await,
        cancels_what_runs().await,
        cancels_what_runs().await,
    ];
    let expected = [Step::Cancelled, Step::RolledBack];
    assert!(tries.iter().any(|steps| *steps == expected), "{tries:?}");
}

async fn cancels_what_runs() -> Vec<Step> {
    let lab = lab().await;
    with_driver(&lab, async |client| {
        client
            .batch_execute("begin; insert into t values (1)")
            .await?;
        tokio::select! {
            _ = client.batch_execute("select pg_sleep(600)") => unreachable!("it sleeps"),
            () = sleeps(&lab.server) => {}
        }
        Ok(())
    })
    .await
    .expect("it returns");
    let steps = unclean(&lab);
    lab.eventually("it ends, however late", async |lab| {
        lab.sessions().await.iter().all(|state| state == "idle")
    })
    .await;
    lab.assert_at_rest().await;
    assert_eq!(lab.rows().await, 0);
    steps
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
    // On a busy machine the driver's own goodbye has to be awaited first.
    let steps = unclean(&lab);
    assert!(steps.ends_with(&[Step::Reset]), "{steps:?}");
    with_driver(&lab, async |client| {
        assert_eq!(
            value(client, "show search_path").await?,
            "\"$user\", public"
        );
        assert_eq!(
            value(
                client,
                "select count(*) from pg_locks where locktype = 'advisory' and database = \
                 (select oid from pg_database where datname = current_database())"
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
    // What is read behind the first statement has been answered.
    relay.quiet(std::time::Duration::from_millis(50)).await;
    let before = relay.counts();
    query().await;
    assert_eq!(relay.counts().since(before).round_trips, 1);
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

#[tokio::test]
async fn local_connections_share_few_sessions() {
    let lab = lab_with(|config| config.max_connections(1)).await;
    lab.run(async {
        let url = invocation()?.url()?;
        let mut all = Vec::new();
        for _ in 0..8 {
            all.push(connect(&url).await?);
        }
        for round in 0..3 {
            let answers = all
                .iter()
                .map(|one| value(one, "select pg_sleep(0.001)::text || 'x'"));
            for answer in futures_util::future::join_all(answers).await {
                assert_eq!(answer?, "x", "{round}");
            }
        }
        Ok(())
    })
    .await
    .expect("they queue");
    assert_eq!(lab.sessions().await.len(), 1);
    lab.assert_at_rest().await;
}

#[tokio::test]
async fn full_pool_is_told_as_the_server_would() {
    let lab = lab_with(|config| {
        config
            .max_connections(1)
            .acquire_timeout(std::time::Duration::from_millis(50))
    })
    .await;
    lab.run(async {
        let url = invocation()?.url()?;
        let (one, other) = (connect(&url).await?, connect(&url).await?);
        one.batch_execute("begin").await?;
        let error = other.batch_execute("select 1").await.expect_err("full");
        let error = error.as_db_error().expect("an answer");
        assert_eq!(error.code().code(), "53300");
        assert!(
            error
                .hint()
                .is_some_and(|hint| hint.contains("max_connections")),
            "{error:?}"
        );
        one.batch_execute("commit").await?;
        other.batch_execute("select 1").await?;
        Ok(())
    })
    .await
    .expect("it goes on");
}

#[tokio::test]
async fn driver_that_leaves_is_rolled_back_at_once() {
    let lab = lab_with(|config| config.max_connections(1)).await;
    lab.run(async {
        let url = invocation()?.url()?;
        for sql in ["begin; insert into t values (1)", "copy t from stdin"] {
            let mut raw = Raw::start(&url, &[]).await;
            raw.ready().await;
            raw.send(&query(sql)).await;
            let answered = if sql.starts_with("copy") { b'G' } else { b'Z' };
            while raw
                .next()
                .await
                .is_some_and(|message| message.tag != answered)
            {}
            drop(raw);
            // The only session is free again.
            assert_eq!(value(&connect(&url).await?, "select 1").await?, "1");
        }
        Ok(())
    })
    .await
    .expect("it goes on");
    assert_eq!(lab.rows().await, 0);
    lab.assert_at_rest().await;
}

/// As a pool does that hands out its connections in turn, for row-level security.
#[tokio::test]
async fn local_setting_holds_no_session() {
    let lab = lab_with(|config| config.max_connections(1)).await;
    lab.run(async {
        let url = invocation()?.url()?;
        let mut clients = Vec::new();
        for _ in 0..2 {
            let client = connect(&url).await?;
            client.batch_execute("begin").await?;
            let set = "select set_config('app.tenant', $1, true)";
            client.query(set, &[&"7"]).await?;
            client.batch_execute("commit").await?;
            let shown = value(&client, "select current_setting('app.tenant', true)").await?;
            assert_eq!(shown, "");
            clients.push(client);
        }
        Ok(())
    })
    .await
    .expect("both have their turn");
    assert_clean(&lab);
}

#[tokio::test]
async fn runtime_of_the_function_can_serve_drivers() {
    let lab = lab_with(|config| config.drivers_on_runtime(true)).await;
    lab.run(async {
        let client = connect(&invocation()?.url()?).await?;
        client
            .batch_execute("begin; insert into t values (1)")
            .await?;
        antifreeze::connection()
            .await?
            .batch_execute("select 1")
            .await?;
        Ok(())
    })
    .await
    .expect("answered");
    assert_eq!(lab.rows().await, 0);
    lab.assert_at_rest().await;
}

#[tokio::test]
async fn unclaimed_connection_rests_with_the_last() {
    let lab = lab().await;
    let url = lab.database.url().expect("a socket");
    let client = connect(&url).await.expect("a driver");
    let (told, tell) = tokio::sync::oneshot::channel();
    let (begun, begin) = tokio::sync::oneshot::channel();
    let long = lab.run(async {
        let _ = begun.send(());
        tell.await?;
        Ok(())
    });
    let short = async {
        let _ = begin.await;
        lab.run(async {
            client
                .batch_execute("begin; insert into t values (1)")
                .await?;
            Ok(())
        })
        .await
        .expect("it returns");
        let sessions = lab.sessions().await;
        assert!(
            sessions.contains(&"idle in transaction".to_owned()),
            "{sessions:?}"
        );
        let _ = told.send(());
    };
    let (long, ()) = tokio::join!(long, short);
    long.expect("it returns");
    assert_eq!(unclean(&lab), [Step::RolledBack]);
    lab.assert_at_rest().await;
}

#[tokio::test]
async fn nested_invocation_has_the_unclaimed_connection() {
    let lab = lab().await;
    let client = connect(&lab.database.url().expect("a socket"))
        .await
        .expect("a driver");
    lab.run(async {
        lab.run(async {
            client
                .batch_execute("begin; insert into t values (1)")
                .await?;
            Ok(())
        })
        .await?;
        assert_eq!(unclean(&lab), [Step::RolledBack]);
        lab.assert_at_rest().await;
        Ok(())
    })
    .await
    .expect("it returns");
}

#[cfg(unix)]
#[tokio::test]
async fn socket_is_private_and_removed() {
    use std::os::unix::fs::PermissionsExt;
    let lab = lab().await;
    let url = lab.database.url().expect("a socket");
    let host = url
        .split('@')
        .nth(1)
        .and_then(|rest| rest.split(':').next())
        .expect("a host");
    let directory = std::path::PathBuf::from(host.replace("%2F", "/"));
    let mode = std::fs::metadata(&directory)
        .expect("a directory")
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o700);
    drop(lab);
    assert!(!directory.exists());
}
