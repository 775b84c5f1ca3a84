//! Bodies that are dropped after the head of their response.

mod common;

use std::iter::empty;
use std::sync::Arc;
use std::time::Duration;

use antifreeze::invocation::StreamedBody;
use antifreeze::teardown::{Step, Teardown};
use antifreeze::{DatabaseLayer, connection, invocation};
use bytes::Bytes;
use common::{BoxError, Lab, lab, lab_with};
use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use http::{Method, Request, Response, StatusCode};
use http_body::{Body as _, Frame};
use http_body_util::{BodyExt, StreamBody};
use tower::{Layer, ServiceExt};

/// More rows than any test reads, without delay from the first on.
const ENDLESS: &str = "select repeat('x', 1000) from t, pg_class a, pg_class b, pg_class c";

type Frames = StreamedBody<StreamBody<BoxStream<'static, Result<Frame<Bytes>, BoxError>>>>;

/// A response whose body reads from the database.
async fn streamed(what: &str) -> Result<Response<Frames>, BoxError> {
    let connection = connection().await?;
    let frame = |row: tokio_postgres::Row| Frame::data(Bytes::from(row.get::<_, String>(0)));
    if what != "rows" {
        connection
            .batch_execute("begin; insert into t values (1)")
            .await?;
    }
    let frames = match what {
        "rows" | "rows in a transaction" => {
            let rows = connection.query_raw(ENDLESS, empty::<i32>()).await?;
            let rows = rows.map(move |row| Ok(frame(row?)));
            let held = futures_util::stream::once(async move {
                let _connection = connection;
                std::future::pending().await
            });
            rows.boxed().chain(held).boxed()
        }
        "idle in a transaction" => futures_util::stream::once(async move {
            let row = connection.query_one("select 'row'", &[]).await?;
            Ok(frame(row))
        })
        .boxed(),
        _ => {
            let mut slow = Box::pin(async move {
                connection.batch_execute("select pg_sleep(600)").await?;
                Ok(Frame::data(Bytes::new()))
            });
            assert!(futures_util::poll!(slow.as_mut()).is_pending());
            tokio::task::yield_now().await;
            futures_util::stream::once(slow).boxed()
        }
    };
    Ok(Response::new(invocation()?.stream(StreamBody::new(frames))))
}

/// Calls the layer around a body of this kind. The body is not read.
async fn head(lab: &Lab, method: Method, status: StatusCode, what: &'static str) -> Head {
    let service = DatabaseLayer::new(lab.database.clone()).layer(tower::service_fn(
        move |_: Request<()>| async move {
            let mut response = streamed(what).await?;
            *response.status_mut() = status;
            Ok::<_, BoxError>(response)
        },
    ));
    let request = Request::builder().method(method).body(());
    let response = service.oneshot(request.expect("a request")).await;
    response.expect("a head").into_body()
}

type Head = antifreeze::layer::Body<Frames>;

const KINDS: [&str; 4] = [
    "rows",
    "rows in a transaction",
    "idle in a transaction",
    "busy in a transaction",
];

/// How often an ending is tried: on a busy machine an answer may come later than its step of the
/// teardown waits for.
const TRIES: usize = 3;

#[tokio::test]
async fn unread_body_ends_before_the_head() {
    for what in KINDS {
        let mut tries = Vec::new();
        while let Err(late) = ends_unread(what).await {
            tries.push(late);
            assert!(tries.len() < TRIES, "{what}: {tries:?}");
        }
    }
}

/// Fails with the teardown whose close the server has not confirmed in time.
async fn ends_unread(what: &'static str) -> Result<(), Vec<Teardown>> {
    let lab = lab_with(|config| config.max_connections(1)).await;
    for (method, status) in [
        (Method::HEAD, StatusCode::OK),
        (Method::GET, StatusCode::NOT_MODIFIED),
    ] {
        lab.server
            .execute("truncate t; insert into t values (0)")
            .await
            .expect("a row");
        let body = head(&lab, method, status, what).await;
        if !lab.is_acknowledged() {
            return Err(lab.torn_down());
        }
        // No wait: the teardown was before the head.
        lab.assert_at_rest().await;
        assert_eq!(lab.torn_down().len(), 1, "{what}");
        assert!(body.is_end_stream(), "{what}");
        let read = body.collect().await.expect("a body").to_bytes();
        assert!(read.is_empty(), "{what}");
        assert_eq!(lab.rows().await, 1, "{what}");
    }
    Ok(())
}

#[tokio::test]
async fn unread_body_at_rest_keeps_its_connection() {
    let lab = lab().await;
    // The first statement of a session has the reading of the slots behind it, for which a
    // dropped body cannot wait.
    lab.run(async {
        connection().await?.batch_execute("select 1").await?;
        Ok(())
    })
    .await
    .expect("warm");
    lab.torn_down();
    let service =
        DatabaseLayer::new(lab.database.clone()).layer(tower::service_fn(async |_: Request<()>| {
            let connection = connection().await?;
            connection.batch_execute("select 1").await?;
            let body = futures_util::stream::once(async move {
                connection.batch_execute("select 1").await?;
                Ok::<_, BoxError>(Frame::data(Bytes::new()))
            });
            Ok::<_, BoxError>(Response::new(invocation()?.stream(StreamBody::new(body))))
        }));
    drop(service.oneshot(Request::new(())).await.expect("a head"));
    assert!(lab.outcome().is_clean());
    assert_eq!(lab.sessions().await, ["idle"]);
}

/// Nothing of the runtime moves any more once the body was dropped: as in a process that is
/// frozen at once.
#[test]
fn dropped_body_leaves_nothing_to_a_task() {
    let observer = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .expect("a runtime");
    for what in ["rows", "rows in a transaction", "idle in a transaction"] {
        let lab = Arc::new(observer.block_on(lab()));
        observer
            .block_on(lab.server.execute("insert into t values (0)"))
            .expect("a row");
        let function = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime");
        function.block_on(async {
            drop(head(&lab, Method::GET, StatusCode::OK, what).await);
        });
        observer.block_on(async {
            lab.eventually(what, async |lab| lab.sessions().await.is_empty())
                .await;
            lab.assert_at_rest().await;
        });
        // With it goes what a task would have done.
        drop(function);
    }
}

#[tokio::test]
async fn statement_of_a_dropped_body_is_cancelled() {
    let steps = [
        Step::Cancelled,
        Step::Closed {
            acknowledged: false,
        },
    ];
    let mut tries = Vec::new();
    for _ in 0..TRIES {
        let lab = lab().await;
        drop(head(&lab, Method::GET, StatusCode::OK, "busy in a transaction").await);
        lab.eventually("its session is gone", async |lab| {
            lab.sessions().await.is_empty() && lab.has_torn_down()
        })
        .await;
        let outcome = lab.outcome();
        if outcome.steps() == steps {
            return;
        }
        tries.push(outcome);
    }
    panic!("{tries:?}");
}

/// The tasks of a body lease again what the layer is about to bring to rest.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streaming_tasks_lease_while_the_head_rests() {
    const SEVERAL: usize = 4;
    let lab = lab_with(|config| config.max_connections(SEVERAL)).await;
    for round in 0..300 {
        let service = DatabaseLayer::new(lab.database.clone()).layer(tower::service_fn(
            move |_: Request<()>| async move {
                let invocation = invocation()?;
                let all = (0..SEVERAL).map(|_| connection());
                for connection in futures_util::future::try_join_all(all).await? {
                    connection.batch_execute("begin").await?;
                }
                let (answer, answered) = tokio::sync::oneshot::channel();
                let clone = invocation.clone();
                invocation.spawn(async move {
                    for _ in 0..round % 40 {
                        std::hint::spin_loop();
                    }
                    let ask = async || {
                        let connection = clone.connection().await?;
                        connection.batch_execute("select 1").await?;
                        Ok::<_, BoxError>(())
                    };
                    let asked = futures_util::future::try_join_all((0..SEVERAL).map(|_| ask()));
                    let _ = answer.send(asked.await.map_err(|error| error.to_string()));
                });
                let body = futures_util::stream::once(async move {
                    answered.await??;
                    Ok::<_, BoxError>(Frame::data(Bytes::new()))
                });
                Ok::<_, BoxError>(Response::new(invocation.stream(StreamBody::new(body))))
            },
        ));
        let response = service.oneshot(Request::new(())).await.expect("a head");
        let read = response.into_body().collect().await;
        read.unwrap_or_else(|error| panic!("round {round}: {error}"));
    }
}

/// Long enough to notice polling in a loop.
const WHILE: Duration = Duration::from_millis(200);

#[tokio::test]
async fn leftover_task_sees_its_connection_closed() {
    let lab = lab().await;
    let (told, rounds) = tokio::sync::oneshot::channel();
    lab.run(async {
        let connection = connection().await?;
        tokio::spawn(async move {
            let mut rounds = 0;
            while !connection.is_closed() {
                rounds += 1;
                let _ = connection.batch_execute("select 1").await;
                tokio::task::yield_now().await;
            }
            let _ = told.send(rounds);
        });
        Ok(())
    })
    .await
    .expect("fine");
    let rounds = tokio::time::timeout(WHILE * 100, rounds).await;
    assert!(rounds.is_ok(), "it goes round for ever");
}
