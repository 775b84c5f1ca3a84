//! The layer around HTTP services.

#[path = "../common/mod.rs"]
mod common;
mod streaming;

use antifreeze::layer::Body;
use antifreeze::teardown::Step;
use antifreeze::{DatabaseLayer, ErrorKind, Invocation, connection, invocation, transaction};
use bytes::Bytes;
use common::{BoxError, PLENTY, kind, lab, lease_and_return};
use futures_util::{FutureExt, StreamExt};
use http::{Request, Response, StatusCode};
use http_body::{Body as _, Frame};
use http_body_util::{BodyExt, Empty, Full, StreamBody};
use std::convert::Infallible;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::time::{Instant, timeout};
use tower::{Layer, Service, ServiceBuilder, ServiceExt};

type Reply = Response<Full<Bytes>>;

fn reply(status: u16) -> Reply {
    let mut reply = Response::new(Full::from("hello"));
    *reply.status_mut() = StatusCode::from_u16(status).expect("a status");
    reply
}

const INSERT: &str = "insert into t values (1)";

#[tokio::test]
async fn status_decides_over_the_transaction() {
    let lab = lab().await;
    let mut rows = 0;
    for (status, commits) in [
        (200, true),
        (201, true),
        (303, true),
        (404, false),
        (500, false),
    ] {
        let service = DatabaseLayer::new(lab.database.clone()).layer(tower::service_fn(
            move |_: Request<()>| async move {
                let transaction = transaction().await?;
                transaction.execute(INSERT, &[]).await?;
                Ok::<_, BoxError>(reply(status))
            },
        ));
        let response = service.oneshot(Request::new(())).await.expect("a response");
        assert_eq!(response.status(), status);
        assert_eq!(
            response
                .into_body()
                .collect()
                .await
                .expect("whole")
                .to_bytes(),
            "hello"
        );
        rows += i64::from(commits);
        assert_eq!(lab.rows().await, rows, "{status}");
        lab.assert_at_rest().await;
    }

    let picky = DatabaseLayer::new(lab.database.clone()).commit_when(|status| status == 404);
    let service = picky.layer(tower::service_fn(async |_: Request<()>| {
        transaction().await?.execute(INSERT, &[]).await?;
        Ok::<_, BoxError>(reply(404))
    }));
    service.oneshot(Request::new(())).await.expect("a response");
    assert_eq!(lab.rows().await, rows + 1);
}

#[tokio::test]
async fn handler_error_passes_and_rolls_back() {
    let lab = lab().await;
    let service =
        DatabaseLayer::new(lab.database.clone()).layer(tower::service_fn(async |_: Request<()>| {
            transaction().await?.execute(INSERT, &[]).await?;
            Err::<Reply, BoxError>("mine".into())
        }));
    let error = service.oneshot(Request::new(())).await.expect_err("mine");
    assert_eq!(error.to_string(), "mine");
    assert_eq!(lab.rows().await, 0);
    lab.assert_at_rest().await;
}

async fn problem<B>(response: Response<B>) -> serde_json::Value
where
    B: http_body::Body<Data = Bytes, Error: std::fmt::Debug>,
{
    assert_eq!(
        response.headers()["content-type"],
        "application/problem+json"
    );
    let body = response
        .into_body()
        .collect()
        .await
        .expect("whole")
        .to_bytes();
    serde_json::from_slice(&body).expect("a document")
}

#[tokio::test]
async fn success_that_was_not_stored_is_a_500() {
    let lab = lab().await;
    let service =
        DatabaseLayer::new(lab.database.clone()).layer(tower::service_fn(async |_: Request<()>| {
            let transaction = transaction().await?;
            let _ = transaction.execute("select 1 / 0", &[]).await;
            Ok::<_, BoxError>(reply(200))
        }));
    let response = service.oneshot(Request::new(())).await.expect("a response");
    assert_eq!(response.status(), 500);
    let problem = problem(response).await;
    assert_eq!(problem["status"], 500);
    assert!(
        problem["detail"]
            .as_str()
            .is_some_and(|text| text.contains("nothing was changed"))
    );
}

#[tokio::test]
async fn slow_handler_is_a_504_in_time() {
    // A busy machine may take the 50 ms that are left for the response, but not each time.
    let in_time = [
        is_a_504_in_time().await,
        is_a_504_in_time().await,
        is_a_504_in_time().await,
    ];
    assert!(in_time.contains(&true));
}

async fn is_a_504_in_time() -> bool {
    let lab = lab().await;
    // Connecting is not what takes its time here.
    lab.run(lease_and_return()).await.expect("warm");
    lab.torn_down();
    let deadline = Duration::from_secs(2);
    let begin = Instant::now();
    let layer = DatabaseLayer::new(lab.database.clone()).max_duration(deadline);
    let service = layer.layer(tower::service_fn(async |_: Request<()>| {
        let transaction = transaction().await?;
        transaction.execute(INSERT, &[]).await?;
        transaction.execute("select pg_sleep(60)", &[]).await?;
        Ok::<_, BoxError>(reply(200))
    }));
    let response = timeout(PLENTY, service.oneshot(Request::new(())))
        .await
        .expect("it ends")
        .expect("a response");
    let took = begin.elapsed();
    assert_eq!(response.status(), 504);
    assert_eq!(problem(response).await["title"], "Gateway Timeout");
    let torn_down = lab.ends_at_rest().await;
    assert_eq!(lab.rows().await, 0);
    let steps = torn_down[0].outcome.steps();
    took < deadline && steps == [Step::Cancelled, Step::RolledBack]
}

/// Panics when it is called, when its future is polled, or when that is dropped.
#[derive(Clone, Copy)]
enum Panics {
    Call,
    Poll,
    Drop,
}

struct PanicsInDrop;

impl Drop for PanicsInDrop {
    fn drop(&mut self) {
        panic!("in drop");
    }
}

#[tokio::test]
async fn panic_goes_on_after_teardown() {
    let lab = lab().await;
    for (panics, says) in [(Panics::Call, "in call"), (Panics::Poll, "in poll")] {
        let mut service = DatabaseLayer::new(lab.database.clone()).layer(tower::service_fn(
            move |_: Request<()>| {
                let invocation = invocation().expect("call is inside it");
                assert!(!matches!(panics, Panics::Call), "in call");
                async move {
                    invocation
                        .connection()
                        .await?
                        .batch_execute("begin")
                        .await?;
                    assert!(!matches!(panics, Panics::Poll), "in poll");
                    Ok::<_, BoxError>(reply(200))
                }
            },
        ));
        let called = service.ready().await.expect("ready").call(Request::new(()));
        let panic = std::panic::AssertUnwindSafe(called)
            .catch_unwind()
            .await
            .expect_err("a panic");
        assert_eq!(panic.downcast_ref::<&str>(), Some(&says));
        lab.assert_at_rest().await;
    }

    // One while the handler is being dropped at its deadline is caught, too.
    let layer = DatabaseLayer::new(lab.database.clone()).max_duration(Duration::from_secs(1));
    let service = layer.layer(tower::service_fn(async |_: Request<()>| {
        connection().await?.batch_execute("begin").await?;
        let _panics: (PanicsInDrop, Panics) = (PanicsInDrop, Panics::Drop);
        std::future::pending::<()>().await;
        Ok::<_, BoxError>(reply(200))
    }));
    let response = service.oneshot(Request::new(())).await.expect("a response");
    assert_eq!(response.status(), 504);
    lab.ends_at_rest().await;
}

#[tokio::test]
async fn invocation_is_in_the_request_and_the_task() {
    let lab = lab().await;
    let service = DatabaseLayer::new(lab.database.clone()).layer(tower::service_fn(
        async |request: Request<()>| {
            let given = request
                .extensions()
                .get::<Invocation>()
                .expect("in the extensions");
            assert_eq!(given.request_id(), "abc");
            assert_eq!(invocation()?.request_id(), "abc");
            given.connection().await?.execute(INSERT, &[]).await?;
            Ok::<_, BoxError>(reply(200))
        },
    ));
    let request = Request::builder()
        .header("x-request-id", "abc")
        .body(())
        .expect("a request");
    service.oneshot(request).await.expect("a response");
    assert_eq!(lab.rows().await, 1);
}

#[tokio::test]
async fn inner_layer_of_the_same_database_joins() {
    let lab = lab().await;
    let layer = || DatabaseLayer::new(lab.database.clone());
    let service = ServiceBuilder::new()
        .layer(layer())
        .layer(layer())
        .service_fn(async |_: Request<()>| {
            connection().await?.batch_execute("begin").await?;
            Ok::<_, BoxError>(reply(200))
        });
    let outer = service.map_response(|response| response);
    let response = outer.oneshot(Request::new(())).await.expect("a response");
    assert_eq!(response.status(), 200);
    assert_eq!(lab.outcome().steps(), [Step::RolledBack], "torn down once");
}

#[tokio::test]
async fn several_databases_have_a_layer_each() {
    let (outer, inner) = (lab().await, lab().await);
    inner
        .server
        .execute("create table only_here ()")
        .await
        .expect("a table");
    let service = ServiceBuilder::new()
        .layer(DatabaseLayer::new(outer.database.clone()))
        .layer(DatabaseLayer::new(inner.database.clone()))
        .service_fn({
            let (outer, inner) = (outer.database.clone(), inner.database.clone());
            move |_: Request<()>| {
                let (outer, inner) = (outer.clone(), inner.clone());
                async move {
                    // The free function means the innermost.
                    connection()
                        .await?
                        .execute("select from only_here", &[])
                        .await?;
                    inner.connection().await?.batch_execute("begin").await?;
                    outer
                        .connection()
                        .await?
                        .batch_execute("begin; insert into t values (1)")
                        .await?;
                    Ok::<_, BoxError>(reply(200))
                }
            }
        });
    service.oneshot(Request::new(())).await.expect("a response");
    outer.assert_at_rest().await;
    inner.assert_at_rest().await;
    assert_eq!(outer.rows().await, 0);
}

#[tokio::test]
async fn hooks_run_in_order_whatever_they_do() {
    let lab = lab().await;
    // A hook has no time to connect.
    lab.run(lease_and_return()).await.expect("warm");
    let order = Arc::new(std::sync::Mutex::new(Vec::new()));
    let note = |what: &'static str| {
        let order = Arc::clone(&order);
        move || order.lock().expect("no panic").push(what)
    };
    lab.run(async {
        let invocation = invocation()?;
        let (first, second, last) = (
            note("deferred first"),
            note("deferred second"),
            note("after"),
        );
        invocation.defer(async move {
            // Connections are still given out.
            connection()
                .await
                .expect("the gate is open")
                .execute(INSERT, &[])
                .await
                .expect("fine");
            first();
        });
        invocation.defer(async move { second() });
        invocation.defer(async { panic!("a clean-up panics") });
        invocation.defer(std::future::pending());
        let late = invocation.clone();
        invocation.after(async move {
            let error = late.connection().await.expect_err("the gate is closed");
            assert_eq!(error.kind(), ErrorKind::InvocationEnded);
            last();
        });
        note("handler")();
        Ok(())
    })
    .await
    .expect("fine");
    let order = order.lock().expect("no panic").clone();
    assert_eq!(
        order,
        ["handler", "deferred second", "deferred first", "after"]
    );
    assert_eq!(lab.rows().await, 1);
}

#[tokio::test]
async fn readiness_is_the_inner_services() {
    struct Never;
    impl Service<Request<()>> for Never {
        type Response = Reply;
        type Error = &'static str;
        type Future = std::future::Ready<Result<Reply, &'static str>>;

        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
            Poll::Ready(Err("not ready"))
        }

        fn call(&mut self, _: Request<()>) -> Self::Future {
            unreachable!("it was never ready")
        }
    }
    let lab = lab().await;
    let mut service = DatabaseLayer::new(lab.database.clone()).layer(Never);
    assert_eq!(service.ready().await.err(), Some("not ready"));
}

#[tokio::test]
async fn future_dropped_from_outside_cleans_up_at_once() {
    let lab = lab().await;
    let (tell, told) = tokio::sync::oneshot::channel();
    let tell = Arc::new(std::sync::Mutex::new(Some(tell)));
    let layer = DatabaseLayer::new(lab.database.clone());
    let service = layer.layer(tower::service_fn(move |_: Request<()>| {
        let tell = tell.lock().expect("no panic").take();
        async move {
            let connection = connection().await?;
            connection
                .batch_execute("begin; insert into t values (1)")
                .await?;
            let _ = tell.expect("called once").send(connection.process_id());
            std::future::pending::<()>().await;
            Ok::<_, BoxError>(reply(200))
        }
    }));
    // What a `TimeoutLayer` does.
    let pid = tokio::select! {
        _ = service.oneshot(Request::new(())) => unreachable!("it is pending"),
        pid = told => pid.expect("it has begun"),
    };
    lab.eventually("its session is gone", async |lab| {
        lab.sessions().await.is_empty()
    })
    .await;
    lab.assert_at_rest().await;
    // The server is shared: others may be as rude as they like.
    let log = lab::postgres::Postgres::shared()
        .await
        .expect("a server")
        .log();
    let unexpected = "unexpected EOF on client connection with an open transaction";
    let ours = format!("[{pid}]");
    let said = log
        .lines()
        .find(|line| line.contains(&ours) && line.contains(unexpected));
    assert_eq!(said, None);
}

/// What decides whether to commit may panic too: everything is at rest nevertheless.
#[tokio::test]
async fn panic_of_the_judge_is_passed_on() {
    let lab = lab().await;
    let layer = DatabaseLayer::new(lab.database.clone()).commit_when(|_| panic!("undecided"));
    let service = layer.layer(tower::service_fn(async |_: Request<()>| {
        connection().await?.batch_execute("begin").await?;
        Ok::<_, BoxError>(Response::new(Empty::<Bytes>::new()))
    }));
    let call = std::panic::AssertUnwindSafe(service.oneshot(Request::new(())));
    assert!(call.catch_unwind().await.is_err(), "the panic goes on");
    assert_eq!(lab.outcome().steps(), [Step::RolledBack]);
    lab.assert_at_rest().await;
}
