//! Uses that the documentation warns of, or that behave in another way than they look.
#![cfg(all(feature = "lambda", feature = "axum"))]

mod common;

use std::time::Duration;

use antifreeze::{
    Connection, DatabaseLayer, Error, ErrorKind, Invocation, connection, invocation, transaction,
};
use axum::Router;
use axum::body::Body;
use axum::routing::get;
use common::{BoxError, PLENTY, lab, lease_and_return};
use futures_util::TryStreamExt;
use http::{Method, Request, Response, StatusCode};
use lambda_runtime::{Context, LambdaEvent};
use serde_json::Value;
use tokio::sync::oneshot;
use tokio::time::timeout;
use tower::{Layer, Service, ServiceBuilder, ServiceExt};

const INSERT: &str = "insert into t values (1)";

/// An event's answer is whole: whatever still reads from the database has lost it.
#[tokio::test]
async fn event_does_not_stream() {
    let lab = lab().await;
    let mut service = DatabaseLayer::new(lab.database.clone()).layer(tower::service_fn(
        async |_: LambdaEvent<Value>| {
            let connection = connection().await?;
            let _stream = invocation()?.stream(());
            Ok::<_, BoxError>(connection)
        },
    ));
    let mut context = Context::default();
    let soon = std::time::SystemTime::now() + PLENTY;
    let soon = soon.duration_since(std::time::UNIX_EPOCH);
    context.deadline = soon.expect("after 1970").as_millis() as u64;
    let event = LambdaEvent::new(Value::Null, context);
    let connection = service.call(event).await.expect("an answer");
    let error = connection.batch_execute("select 1").await;
    let error = error.expect_err("it was taken away");
    assert!(Error::is_invocation_ended(&error), "{error}");
    lab.assert_at_rest().await;
}

/// As tower's `Buffer`: a worker calls the service, and the caller polls the future.
async fn buffered<S>(mut service: S, request: Request<()>) -> Result<S::Response, S::Error>
where
    S: Service<Request<()>, Future: Send + 'static> + Send + 'static,
{
    let (told, future) = oneshot::channel();
    tokio::spawn(async move {
        let _ = told.send(service.call(request));
    });
    future.await.expect("it was called").await
}

#[tokio::test]
async fn buffer_calls_outside_the_invocation() {
    let lab = lab().await;
    let kind = |error: Error| error.kind();
    // The body of an `async` handler runs where its future is polled.
    let polled = tower::service_fn(async |_: Request<()>| connection().await.map(drop));
    // What runs before it, in `call`, is the worker's.
    let called = tower::service_fn(|_: Request<()>| {
        let connection = connection();
        async { connection.await.map(drop) }
    });
    // The request has the invocation wherever it goes.
    let carried = tower::service_fn(|request: Request<()>| {
        let invocation = request.extensions().get::<Invocation>().cloned();
        let connection = invocation.expect("the layer's").connection();
        async { connection.await.map(drop) }
    });
    let layer = DatabaseLayer::new(lab.database.clone());
    let answers = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
    let seen = answers.clone();
    let service = layer.layer(tower::service_fn(move |request: Request<()>| {
        let answers = answers.clone();
        async move {
            let of = || {
                let mut copy = Request::new(());
                *copy.extensions_mut() = request.extensions().clone();
                copy
            };
            let outcomes = [
                buffered(polled, of()).await.map_err(kind),
                buffered(called, of()).await.map_err(kind),
                buffered(carried, of()).await.map_err(kind),
            ];
            answers.lock().expect("no panic").extend(outcomes);
            Ok::<_, BoxError>(Response::new(Body::empty()))
        }
    }));
    service.oneshot(Request::new(())).await.expect("a response");
    let expected = [Ok(()), Err(ErrorKind::NotInInvocation), Ok(())];
    assert_eq!(*seen.lock().expect("no panic"), expected);
}

/// Each is committed for itself, the inner one first.
#[tokio::test]
async fn two_databases_commit_one_after_the_other() {
    let (outer, inner) = (lab().await, lab().await);
    let deferred = "alter table t add constraint once unique (a) deferrable initially deferred; \
                    insert into t values (1)";
    outer.server.execute(deferred).await.expect("a constraint");
    let (first, second) = (outer.database.clone(), inner.database.clone());
    let service = ServiceBuilder::new()
        .layer(DatabaseLayer::new(first.clone()))
        .layer(DatabaseLayer::new(second.clone()))
        .service_fn(move |_: Request<()>| {
            let (first, second) = (first.clone(), second.clone());
            async move {
                for database in [first, second] {
                    let transaction = database.transaction().await?;
                    transaction.execute(INSERT, &[]).await?;
                }
                Ok::<_, BoxError>(Response::new(Body::empty()))
            }
        });
    let response = service.oneshot(Request::new(())).await.expect("a response");
    // The outer one's COMMIT was refused, and the inner one's is done.
    assert_eq!(response.status(), 409);
    assert_eq!((outer.rows().await, inner.rows().await), (1, 1));
}

async fn list(invocation: Invocation, connection: Connection) -> Result<Body, Error> {
    let rows = connection
        .query_raw(
            "select repeat('x', 1000) from generate_series(1, 100000)",
            &[] as &[i32],
        )
        .await?;
    let rows = rows.map_ok(move |row| {
        let _ = &connection;
        row.get::<_, String>(0)
    });
    Ok(Body::new(invocation.stream(Body::from_stream(rows))))
}

/// axum has GET's handler answer HEAD, unless there is one for it.
#[tokio::test]
async fn head_handler_spares_the_query() {
    let lab = lab().await;
    let layer = || DatabaseLayer::new(lab.database.clone());
    let head = || Request::builder().method(Method::HEAD).uri("/");
    for (route, connections) in [(get(list), 1), (get(list).head(async || StatusCode::OK), 0)] {
        let router = Router::new().route("/", route).layer(layer());
        let request = head().body(Body::empty()).expect("a request");
        let response = router.oneshot(request).await.expect("a response");
        assert_eq!(response.status(), 200);
        drop(response);
        // One more, so that there is something to wait for where none was used.
        lab.run(lease_and_return()).await.expect("fine");
        let mut used = 0;
        let all = async {
            while used <= connections {
                used += lab.torn_down().len();
                tokio::task::yield_now().await;
            }
        };
        timeout(PLENTY, all).await.expect("all are torn down");
        assert_eq!(used, connections + 1);
    }
}

/// What outlives the response has no invocation any more, and begins one of its own.
#[tokio::test]
async fn work_after_the_response_is_an_invocation() {
    let lab = lab().await;
    let (answered, after) = oneshot::channel::<()>();
    let (done, result) = oneshot::channel();
    let database = lab.database.clone();
    let late = lab.run(async move {
        let invocation = invocation()?;
        tokio::spawn(async move {
            let _ = after.await;
            let late = invocation.connection().await.map(drop);
            let own = database.invocation(PLENTY, async {
                transaction().await?.execute(INSERT, &[]).await?;
                Ok::<_, BoxError>(())
            });
            let _ = done.send((late.map_err(|error| error.kind()), own.await.is_ok()));
        });
        Ok(())
    });
    late.await.expect("a response");
    drop(answered);
    let (late, own) = result.await.expect("it ends");
    assert_eq!(late, Err(ErrorKind::InvocationEnded));
    assert!(own);
    assert_eq!(lab.rows().await, 1);
}

/// A paused clock jumps to the next timer while all tasks wait for the network.
#[tokio::test]
async fn paused_clock_ends_waits_for_the_server() {
    let lab = lab().await;
    let asleep = async |seconds: f64| {
        let work = async {
            let connection = connection().await?;
            let sleep = format!("select pg_sleep({seconds})");
            connection.batch_execute(&sleep).await?;
            Ok::<_, Error>(())
        };
        let ended = lab
            .database
            .invocation(Duration::from_secs(600), work)
            .await;
        ended.map_err(|error| error.kind())
    };
    assert_eq!(asleep(0.1).await, Ok(()));
    tokio::time::pause();
    assert_eq!(asleep(60.0).await, Err(ErrorKind::Deadline));
    tokio::time::resume();
    assert_eq!(asleep(0.1).await, Ok(()));
}
