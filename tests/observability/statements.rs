//! What the wire knows of an invocation: figures, and statements that are executed again and again.

use antifreeze::{Connection, DatabaseLayer, connection};
use http::{Request, Response};
use http_body_util::Empty;
use tokio_postgres::types::Type;
use tower::{Layer, ServiceExt};

use crate::common::capture::{Capture, Seen};
use crate::common::{BoxError, Lab, lab, lab_with, lease_and_return};

const REPEATED: &str = "an invocation executed the same statement many times";

fn repeated(capture: &Capture) -> Vec<Seen> {
    let mut lines = capture.lines();
    lines.retain(|seen| seen.message.starts_with(REPEATED));
    lines
}

/// The ways to execute a statement.
#[derive(Debug, Clone, Copy)]
enum Way {
    Simple,
    /// Prepared for each call, as `query` does.
    Fresh,
    /// Prepared once, and bound again.
    Cached,
    /// Unnamed, with the types of its parameters.
    Typed,
}

const WAYS: [Way; 4] = [Way::Simple, Way::Fresh, Way::Cached, Way::Typed];

async fn execute(connection: &Connection, way: Way, value: i32) -> Result<(), BoxError> {
    let text = "select a from t where a = $1";
    match way {
        Way::Simple => {
            let text = format!("select a from t where a = {value}");
            connection.simple_query(&text).await?;
        }
        Way::Fresh => drop(connection.query(text, &[&value]).await?),
        Way::Cached => {
            let statement = connection.prepare_cached(text).await?;
            connection.query(&statement, &[&value]).await?;
        }
        Way::Typed => drop(
            connection
                .query_typed(text, &[(&value, Type::INT4)])
                .await?,
        ),
    }
    Ok(())
}

async fn times(lab: &Lab, way: Way, times: i32) {
    let work = async {
        let connection = connection().await?;
        for value in 0..times {
            execute(&connection, way, value).await?;
        }
        Ok(())
    };
    lab.run(work).await.expect("fine");
}

#[tokio::test]
async fn repeated_statement_is_one_line_of_the_process() {
    for way in WAYS {
        for reuses in [false, true] {
            let lab = lab_with(|config| config.reuse_statements(reuses)).await;
            let (capture, _guard) = Capture::start();
            times(&lab, way, 20).await;
            assert!(
                repeated(&capture).is_empty(),
                "{way:?}: 20 are not too many"
            );
            times(&lab, way, 21).await;
            let lines = repeated(&capture);
            assert_eq!(lines.len(), 1, "{way:?} {reuses}: {lines:?}");
            assert_eq!(lines[0].fields["times"], "21", "{way:?}");
            let statement = &lines[0].fields["statement"];
            let is_hash = statement.len() == 16 && u64::from_str_radix(statement, 16).is_ok();
            assert!(is_hash, "{statement}");
            times(&lab, way, 30).await;
            assert!(repeated(&capture).is_empty(), "{way:?}: it was reported");
        }
    }
}

#[tokio::test]
async fn repetitions_are_counted_over_connections() {
    let lab = lab().await;
    let (capture, _guard) = Capture::start();
    lab.run(async {
        for value in 0..21 {
            let connection = connection().await?;
            execute(&connection, Way::Fresh, value).await?;
        }
        Ok(())
    })
    .await
    .expect("fine");
    assert_eq!(repeated(&capture)[0].fields["times"], "21");
}

#[tokio::test]
async fn different_statements_are_not_repeated() {
    let lab = lab_with(|config| config.repeated_statements(2)).await;
    let (capture, _guard) = Capture::start();
    lab.run(async {
        let mut connection = connection().await?;
        for column in ["a", "a + a", "-a", "a * a", "a - a"] {
            let text = format!("select {column} from t");
            connection.query(&text, &[]).await?;
            connection
                .simple_query(&format!("{text} where true"))
                .await?;
        }
        // Transactions are not statements too many, and neither is a driver's question about types.
        for _ in 0..5 {
            let mut transaction = connection.transaction().await?;
            transaction.savepoint("s").await?.commit().await?;
            transaction.commit().await?;
        }
        for name in ["x", "y", "z", "w"] {
            let create =
                format!("create type {name} as enum ('a'); create table {name}s (c {name})");
            connection.simple_query(&create).await?;
        }
        for name in ["x", "y", "z", "w"] {
            connection
                .query(&format!("select c from {name}s"), &[])
                .await?;
        }
        Ok(())
    })
    .await
    .expect("fine");
    let lines = repeated(&capture);
    assert!(lines.is_empty(), "{lines:?}");
    // One portal in parts is one execution.
    let parts = lab.run(async {
        let mut connection = connection().await?;
        let transaction = connection.transaction().await?;
        let portal = transaction
            .bind("select generate_series(1, 50)", &[])
            .await?;
        for _ in 0..10 {
            transaction.query_portal(&portal, 5).await?;
        }
        transaction.commit().await?;
        Ok(())
    });
    parts.await.expect("fine");
    let lines = repeated(&capture);
    assert!(lines.is_empty(), "{lines:?}");
}

#[tokio::test]
async fn text_is_told_where_configured() {
    let lab = lab_with(|config| config.log_statements(true)).await;
    let (capture, _guard) = Capture::start();
    for way in WAYS {
        times(&lab, way, 21).await;
    }
    // All four are the same.
    let lines = repeated(&capture);
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert_eq!(lines[0].fields["statement"], "select a from t where a = ?");
}

#[tokio::test]
async fn zero_never_reports() {
    let lab = lab_with(|config| config.repeated_statements(0)).await;
    let (capture, _guard) = Capture::start();
    times(&lab, Way::Simple, 50).await;
    assert!(repeated(&capture).is_empty());
}

#[tokio::test]
async fn line_has_the_figures_and_the_first_statement() {
    let lab = lab_with(|config| config.log_statements(true)).await;
    lab.server
        .execute("insert into t values (1), (2), (3)")
        .await
        .expect("rows");
    lab.run(lease_and_return()).await.expect("warm");
    let (capture, _guard) = Capture::start();
    lab.run(async {
        let connection = connection().await?;
        connection.batch_execute("begin").await?;
        connection
            .simple_query("select a from t where a < 17")
            .await?;
        connection.simple_query("update t set a = a + 1").await?;
        Ok(())
    })
    .await
    .expect("fine");
    let lines = capture.lines();
    let [line] = lines.as_slice() else {
        panic!("one line: {lines:?}");
    };
    assert_eq!(line.fields["statement"], "select a from t where a < ?");
    // Teardown's own is none, but takes a round trip.
    assert_eq!(line.fields["statements"], "3");
    assert_eq!(line.fields["rows"], "6");
    assert_eq!(line.fields["round_trips"], "4");
}

#[tokio::test]
async fn server_timing_is_told_when_asked_for() {
    let lab = lab().await;
    let timing = async |asks: bool| {
        let layer = DatabaseLayer::new(lab.database.clone());
        let layer = if asks { layer.server_timing() } else { layer };
        let service = layer.layer(tower::service_fn(async |_: Request<()>| {
            let connection = connection().await?;
            connection.simple_query("select pg_sleep(0.05)").await?;
            connection.simple_query("select 1").await?;
            Ok::<_, BoxError>(Response::new(Empty::<bytes::Bytes>::new()))
        }));
        let response = service.oneshot(Request::new(())).await.expect("a response");
        let header = response.headers().get("server-timing");
        header.map(|value| value.to_str().expect("ASCII").to_owned())
    };
    assert_eq!(timing(false).await, None);
    // The first has connected, which is not counted.
    let header = timing(true).await.expect("a header");
    let (duration, description) = header
        .strip_prefix("db;dur=")
        .and_then(|rest| rest.split_once(';'))
        .expect("its form");
    assert_eq!(description, "desc=\"2 statements, 2 round trips\"");
    let duration: f64 = duration.parse().expect("a number");
    assert!(duration >= 50.0, "{duration}");
}
