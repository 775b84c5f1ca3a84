//! The log: one event for each thing that happened, without secrets, SQL or values.

mod common;

use std::collections::BTreeMap;
use std::time::Duration;

use antifreeze::teardown::Step;
use antifreeze::{DatabaseLayer, connection, invocation, transaction};
use common::capture::{Capture, Seen};
use common::{BoxError, Lab, PLENTY, lab, lab_with, lease_and_return};
use http::{Request, Response};
use http_body_util::Empty;
use lab::pgbouncer::PgBouncer;
use lab::postgres::{Auth, Postgres};
use tower::{Layer as _, ServiceExt};
use tracing::Level;

#[tokio::test]
async fn teardown_is_one_event_with_its_steps() {
    let lab = lab().await;
    lab.run(lease_and_return()).await.expect("warm");
    lab.torn_down();
    let (capture, _guard) = Capture::start();
    let service =
        DatabaseLayer::new(lab.database.clone()).layer(tower::service_fn(async |_: Request<()>| {
            connection().await?.batch_execute("begin").await?;
            Ok::<_, BoxError>(Response::new(Empty::<bytes::Bytes>::new()))
        }));
    let request = Request::builder().header("x-request-id", "abc").body(());
    let request = request.expect("a request");
    service.oneshot(request).await.expect("a response");
    let torn = lab.torn_down().remove(0);
    assert_eq!(torn.outcome.steps(), [Step::RolledBack]);

    let events = capture.of("teardown");
    let [event] = events.as_slice() else {
        panic!("one event: {events:?}");
    };
    assert_eq!(event.level, Level::DEBUG);
    let place = torn.left_open_at.expect("something was left open");
    assert!(place.starts_with("tests/events.rs:"), "{place}");
    let expected = [
        ("elapsed", format!("{:?}", torn.elapsed)),
        ("kept", "true".into()),
        ("left_open_at", place),
        ("outcome", "rolled back".into()),
        ("process", torn.process_id.to_string()),
        ("request_id", "abc".into()),
        ("round_trips", "1".into()),
    ];
    assert_eq!(event.fields, BTreeMap::from(expected));
}

#[tokio::test]
async fn clean_teardown_is_a_debug_event() {
    let lab = lab_with(|config| config.slow_invocation(Duration::MAX)).await;
    let (capture, _guard) = Capture::start();
    for _ in 0..2 {
        lab.run(async {
            connection().await?.query_typed("select 1", &[]).await?;
            Ok(())
        })
        .await
        .expect("fine");
        let events = capture.take();
        assert!(events.iter().all(|seen| seen.level >= Level::DEBUG));
        let torn: Vec<_> = events
            .iter()
            .filter(|seen| seen.message == "teardown")
            .collect();
        assert_eq!(torn.len(), 1, "{events:?}");
        assert_eq!(torn[0].fields["outcome"], "clean");
        assert_eq!(torn[0].fields["round_trips"], "0");
    }
}

#[tokio::test]
async fn each_connection_has_its_own_event() {
    let lab = lab_with(|config| config.max_connections(2)).await;
    let (capture, _guard) = Capture::start();
    lab.run(async {
        let (first, second) = (connection().await?, connection().await?);
        first.batch_execute("begin").await?;
        second.query_typed("select 1", &[]).await?;
        Ok(())
    })
    .await
    .expect("fine");
    let events = capture.of("teardown");
    let mut outcomes: Vec<_> = events.iter().map(|seen| &seen.fields["outcome"]).collect();
    outcomes.sort();
    assert_eq!(outcomes, ["clean", "rolled back"]);
}

#[tokio::test]
async fn warm_up_is_one_event() {
    let lab = lab_with(|config| config.max_connections(2)).await;
    let (capture, _guard) = Capture::start();
    let warmed_up = lab.database.warm_up().await.expect("fine");
    // Level by level: the more severe is the lesser.
    let mut lines = capture.take();
    lines.retain(|seen| seen.level <= Level::INFO);
    let [line] = lines.as_slice() else {
        panic!("one line: {lines:?}");
    };
    assert_eq!(
        (line.level, line.message.as_str()),
        (Level::INFO, "warmed up")
    );
    let expected = [
        ("elapsed", format!("{:?}", warmed_up.elapsed)),
        ("requested", "2".into()),
        ("warmed", "2".into()),
    ];
    assert_eq!(line.fields, BTreeMap::from(expected));
}

/// What must not be in any event.
const SECRETS: [&str; 6] = [
    "hunter2",
    "tr0ub4dor",
    "mallory",
    "accounts",
    "select",
    "insert",
];

fn assert_nothing_is_told(events: &[Seen]) {
    for seen in events {
        let text = format!("{seen:?}");
        for secret in SECRETS {
            assert!(!text.contains(secret), "{secret} is in {text}");
        }
    }
}

#[tokio::test]
async fn events_hide_statements_values_and_password() {
    let server = Postgres::builder().auth(Auth::Scram).start().await;
    let server = server.expect("a server");
    let database = server.create_database("d").await.expect("a database");
    database
        .execute(
            "create role visitor superuser login password 'hunter2'; \
             create table t (a int); create table accounts (name text unique)",
        )
        .await
        .expect("a role");
    let url = |password: &str| {
        let address = server.address();
        format!("postgres://visitor:{password}@{address}/d?sslmode=disable")
    };
    let lab = Lab::over(database, &url("hunter2"), |config| {
        config.max_connections(1)
    });
    let (capture, _guard) = Capture::start();

    // An error that quotes the value, and a notice, from a statement that is quoted.
    let clash = "insert into accounts values ($1)";
    lab.run(async {
        let transaction = transaction().await?;
        transaction.execute(clash, &[&"mallory"]).await?;
        let quoted = transaction.execute(clash, &[&"mallory"]).await;
        let quoted = quoted.expect_err("there is one").into_source();
        assert!(
            quoted
                .expect("the server's")
                .to_string()
                .contains("accounts")
        );
        Ok(())
    })
    .await
    .expect_err("it failed");
    lab.run(async {
        let connection = connection().await?;
        let notice = "do $$ begin raise notice 'mallory'; end $$";
        connection.batch_execute(notice).await?;
        // Session state, a transaction, and a backend that is killed under it.
        connection.batch_execute("listen mallory; begin").await?;
        let pid = connection.process_id();
        let kill = format!("select pg_terminate_backend({pid}, 5000)");
        lab.server.execute(&kill).await?;
        assert!(connection.batch_execute("select 'mallory'").await.is_err());
        Ok(())
    })
    .await
    .expect("fine");
    // Clean-ups that do not end well, and a deadline in a statement.
    let late: Result<(), BoxError> = lab
        .database
        .invocation(Duration::from_secs(1), async {
            invocation()?.defer(async { panic!("mallory") });
            let connection = connection().await?;
            connection
                .batch_execute("begin; select 'mallory', pg_sleep(60)")
                .await?;
            Ok(())
        })
        .await;
    late.expect_err("too late");
    // Something outside drops the whole.
    let dropped = lab.run(async {
        connection()
            .await?
            .batch_execute("begin; select 'mallory', pg_sleep(60)")
            .await?;
        Ok(())
    });
    let active = lab.eventually("it runs", async |lab| lab.sessions().await == ["active"]);
    tokio::select! {
        _ = dropped => unreachable!("it sleeps"),
        () = active => {}
    }
    lab.eventually("its session is gone", async |lab| {
        lab.sessions().await.is_empty()
    })
    .await;
    // A connection that is refused.
    let config = antifreeze::Config::from_url(&url("tr0ub4dor")).expect("a URL");
    let refused = antifreeze::Database::new(config).expect("settings");
    let warmed_up = tokio::time::timeout(PLENTY, refused.warm_up()).await;
    let warmed_up = warmed_up.expect("in time").expect("a report");
    assert!(warmed_up.first_error.is_some());

    let events = capture.take();
    for message in [
        "teardown",
        "notice from the server",
        "a hook or task failed at the end of an invocation",
        "warm-up incomplete",
    ] {
        assert!(
            events.iter().any(|seen| seen.message == message),
            "{message} was not seen in {events:?}"
        );
    }
    assert_nothing_is_told(&events);
}

#[tokio::test]
async fn health_is_one_event_per_reading() {
    let lab = lab().await;
    let (capture, _listening) = Capture::start();
    for _ in 0..3 {
        let health = lab.database.health().await;
        assert_eq!(health.database.to_string(), "connected");
    }
    let read = capture.of("the health query succeeded");
    assert_eq!(read.len(), 1, "{read:?}");
    assert_eq!(read[0].level, Level::DEBUG);
    for field in ["used", "limit", "latency"] {
        assert!(read[0].fields.contains_key(field), "{field}: {read:?}");
    }
    let nowhere = antifreeze::Database::from_url("postgres://127.0.0.1:1/none?sslmode=disable");
    let health = nowhere.expect("a URL").health().await;
    assert_eq!(health.database.to_string(), "refused");
    let failed = capture.of("the health query failed");
    assert_eq!(failed.len(), 1, "{failed:?}");
    assert_eq!(failed[0].level, Level::WARN);
    assert_eq!(failed[0].fields["kind"], "refused");
}

#[tokio::test]
async fn breaker_reports_opening_refusals_and_closing() {
    let postgres = Postgres::start().await.expect("a server");
    postgres.create_role("limited").await.expect("a role");
    let server = postgres.fresh_database().await.expect("a database");
    let limit = async |limit: i32| {
        let sql = format!("alter role limited connection limit {limit}");
        postgres.execute(&sql).await.expect("a limit");
    };
    limit(0).await;
    let url = server.url_for("limited");
    let lab = Lab::over(server, &url, |config| config);
    let visit = async |time| lab.database.invocation(time, lease_and_return()).await;
    let (capture, _guard) = Capture::start();
    let told = || {
        let all = capture.take().into_iter();
        let told = all.filter(|seen| {
            seen.message.starts_with("the circuit") || seen.message.starts_with("load shedding")
        });
        told.collect::<Vec<_>>()
    };

    visit(Duration::from_secs(4)).await.expect_err("it is full");
    let opened = &told()[0];
    assert_eq!(opened.level, Level::WARN);
    assert!(opened.message.starts_with("the circuit breaker opened"));
    let kind = [("kind", "too_many_connections".to_owned())];
    assert_eq!(opened.fields, BTreeMap::from(kind));

    visit(Duration::ZERO).await.expect_err("it cannot wait");
    let events = told();
    let [turned_away] = events.as_slice() else {
        panic!("one event: {events:?}");
    };
    assert_eq!(turned_away.level, Level::WARN);
    assert_eq!(turned_away.message, "load shedding rejected an invocation");
    let error = &turned_away.fields["error"];
    assert!(error.starts_with("the server has been full"), "{error}");

    limit(1).await;
    visit(PLENTY).await.expect("room");
    let events = told();
    let [closed] = events.as_slice() else {
        panic!("one event: {events:?}");
    };
    assert_eq!(closed.level, Level::INFO);
    assert_eq!(closed.message, "the circuit breaker closed");
    assert_eq!(closed.fields.keys().collect::<Vec<_>>(), [&"elapsed"]);
}

#[tokio::test]
async fn logged_settings_are_those_in_health() {
    let (capture, _guard) = Capture::start();
    let lab = lab_with(|config| {
        config
            .max_connections(2)
            .pooler(antifreeze::config::Pooler::Transaction)
    })
    .await;
    let configured = capture.of("configured");
    let health = lab.database.health().await;
    let settings = serde_json::to_value(&health.postgres.settings).expect("JSON");
    let [configured] = configured.as_slice() else {
        panic!("one event: {configured:?}");
    };
    assert_eq!(configured.fields["pooler"], "transaction");
    assert_eq!(settings["pooler"], "transaction");
    assert_eq!(configured.fields["max_connections"], "2");
    assert_eq!(settings["max_connections"], 2);
}

#[tokio::test]
async fn undeclared_pooler_is_reported_once() {
    let postgres = Postgres::shared().await.expect("a server");
    let server = postgres.fresh_database().await.expect("a database");
    let pooler = PgBouncer::builder(postgres)
        .start()
        .await
        .expect("a pooler");
    let url = pooler.url(&server.url);
    let (capture, _guard) = Capture::start();
    let unexpected = || {
        let mut all = capture.take();
        all.retain(|seen| seen.fields.contains_key("found"));
        all
    };
    for (over, expected) in [(&url, 1), (&server.url, 0)] {
        let config = antifreeze::Config::from_url(over)
            .expect("a URL")
            .max_connections(2);
        let database = antifreeze::Database::new(config).expect("settings");
        let two = async {
            let (one, other) = tokio::try_join!(connection(), connection())?;
            drop((one, other));
            Ok::<_, BoxError>(())
        };
        database.invocation(PLENTY, two).await.expect("fine");
        let events = unexpected();
        assert_eq!(events.len(), expected, "{events:?}");
        for event in events {
            assert_eq!(event.level, Level::WARN);
            assert!(event.message.contains("ANTIFREEZE_POOLER"), "{event:?}");
            assert_eq!(event.fields["expected"], "none");
            assert_eq!(event.fields["found"], "transaction");
        }
    }
}
