//! Responses whose body goes on after the head.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::common::Lab;

/// A body that reads rows from the database while it is sent.
fn rows_of(
    connection: antifreeze::Connection,
    rows: i32,
    ends: bool,
) -> impl http_body::Body<Data = Bytes, Error = BoxError> + Send {
    let stream =
        futures_util::stream::unfold((connection, 0), move |(connection, at)| async move {
            if at == rows {
                if !ends {
                    std::future::pending::<()>().await;
                }
                return None;
            }
            let frame = match connection.query_one("select $1::int::text", &[&at]).await {
                Ok(row) => Ok(Frame::data(Bytes::from(row.get::<_, String>(0)))),
                Err(error) => Err(error.into()),
            };
            Some((frame, (connection, at + 1)))
        });
    StreamBody::new(stream)
}

#[tokio::test]
async fn streamed_body_holds_the_invocation_to_its_end() {
    let lab = lab().await;
    let service =
        DatabaseLayer::new(lab.database.clone()).layer(tower::service_fn(async |_: Request<()>| {
            transaction().await?.execute(INSERT, &[]).await?;
            let connection = invocation()?.connection().await?;
            connection.batch_execute("begin").await?;
            let body = rows_of(connection, 5, true);
            Ok::<_, BoxError>(Response::new(invocation()?.stream(body)))
        }));
    let response = service.oneshot(Request::new(())).await.expect("a response");
    assert_eq!(
        lab.rows().await,
        1,
        "the transaction was committed before the head"
    );
    assert_eq!(lab.torn_down().len(), 1, "its connection is free again");
    let mut body = pin!(response.into_body());
    let mut frames = Vec::new();
    loop {
        assert!(!body.is_end_stream() || frames.len() == 5);
        assert_eq!(body.size_hint().exact(), None);
        let Some(frame) = body.frame().await else {
            break;
        };
        frames.push(frame.expect("a frame").into_data().expect("data"));
        if frames.len() == 5 {
            // Everything is at rest before the reader has the last frame.
            lab.assert_at_rest().await;
        }
    }
    assert_eq!(frames, ["0", "1", "2", "3", "4"]);
    assert_eq!(lab.outcome().steps(), [Step::RolledBack]);
}

#[tokio::test]
async fn half_read_body_closes_its_connection() {
    let lab = lab().await;
    let service =
        DatabaseLayer::new(lab.database.clone()).layer(tower::service_fn(async |_: Request<()>| {
            let connection = connection().await?;
            connection.batch_execute("begin").await?;
            Ok::<_, BoxError>(Response::new(
                invocation()?.stream(rows_of(connection, 5, false)),
            ))
        }));
    let response = service.oneshot(Request::new(())).await.expect("a response");
    let mut body = Box::pin(response.into_body());
    assert!(body.frame().await.is_some());
    drop(body);
    lab.eventually("its session is gone", async |lab| {
        lab.sessions().await.is_empty()
    })
    .await;
    lab.assert_at_rest().await;
}

#[tokio::test]
async fn panicking_body_has_a_deadline_and_an_end() {
    let lab = lab().await;
    lab.run(lease_and_return()).await.expect("warm");
    lab.torn_down();
    let layer = DatabaseLayer::new(lab.database.clone()).max_duration(Duration::from_secs(2));
    let service = layer
        .clone()
        .layer(tower::service_fn(async |_: Request<()>| {
            let connection = connection().await?;
            connection.batch_execute("begin").await?;
            Ok::<_, BoxError>(Response::new(
                invocation()?.stream(rows_of(connection, 1, false)),
            ))
        }));
    let response = service.oneshot(Request::new(())).await.expect("a response");
    let mut body = Box::pin(response.into_body());
    assert_eq!(
        body.frame()
            .await
            .expect("the row")
            .expect("the row")
            .into_data()
            .expect("data"),
        "0"
    );
    let error = body
        .frame()
        .await
        .expect("an error")
        .expect_err("the deadline");
    assert!(error.to_string().contains("deadline"), "{error}");
    assert!(body.frame().await.is_none() && body.is_end_stream());
    lab.ends_at_rest().await;

    let service = layer.layer(tower::service_fn(async |_: Request<()>| {
        let connection = connection().await?;
        connection.batch_execute("begin").await?;
        let stream = futures_util::stream::poll_fn(
            move |_| -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
                assert!(connection.is_closed(), "in the body");
                Poll::Ready(None)
            },
        );
        Ok::<_, BoxError>(Response::new(invocation()?.stream(StreamBody::new(stream))))
    }));
    let response = service.oneshot(Request::new(())).await.expect("a response");
    let read = std::panic::AssertUnwindSafe(response.into_body().collect())
        .catch_unwind()
        .await;
    assert!(read.is_err(), "the panic goes on");
    lab.assert_at_rest().await;
}

#[tokio::test]
async fn failed_commit_replaces_a_streamed_response() {
    let lab = lab().await;
    let service =
        DatabaseLayer::new(lab.database.clone()).layer(tower::service_fn(async |_: Request<()>| {
            let transaction = transaction().await?;
            let _ = transaction.execute("select 1 / 0", &[]).await;
            let connection = invocation()?.connection().await?;
            Ok::<_, BoxError>(Response::new(
                invocation()?.stream(rows_of(connection, 5, true)),
            ))
        }));
    let response = service.oneshot(Request::new(())).await.expect("a response");
    assert_eq!(response.status(), 500);
    lab.assert_at_rest().await;
}

#[tokio::test]
async fn trailers_wait_like_any_frame() {
    let lab = lab().await;
    let service =
        DatabaseLayer::new(lab.database.clone()).layer(tower::service_fn(async |_: Request<()>| {
            let connection = connection().await?;
            connection.batch_execute("begin").await?;
            let frames = [
                Frame::data(Bytes::from("data")),
                Frame::trailers(http::HeaderMap::new()),
            ];
            let frames = futures_util::stream::iter(frames).map(move |frame| {
                let _in_use = &connection;
                Ok::<_, Infallible>(frame)
            });
            let body = StreamBody::new(frames);
            Ok::<_, BoxError>(Response::new(invocation()?.stream(body)))
        }));
    let response = service.oneshot(Request::new(())).await.expect("a response");
    let mut body = pin!(response.into_body());
    assert!(body.frame().await.expect("data").expect("data").is_data());
    assert_eq!(lab.torn_down().len(), 0);
    assert!(
        body.frame()
            .await
            .expect("trailers")
            .expect("trailers")
            .is_trailers()
    );
    assert_eq!(lab.torn_down().len(), 1);
}

#[tokio::test]
async fn plain_body_is_passed_unchanged() {
    let lab = lab().await;
    let service =
        DatabaseLayer::new(lab.database.clone()).layer(tower::service_fn(async |_: Request<()>| {
            Ok::<_, BoxError>(reply(200))
        }));
    let response = service.oneshot(Request::new(())).await.expect("a response");
    let body: Body<Full<Bytes>> = response.into_body();
    assert_eq!(body.size_hint().exact(), Some(5));
}

/// A client that does not read keeps neither the connection nor what it has locked
/// beyond the deadline.
#[tokio::test]
async fn unread_body_ends_with_the_deadline() {
    let lab = lab().await;
    lab.run(lease_and_return()).await.expect("warm");
    lab.torn_down();
    let layer = DatabaseLayer::new(lab.database.clone()).max_duration(Duration::from_secs(3));
    let service = layer.layer(tower::service_fn(async |_: Request<()>| {
        let connection = connection().await?;
        connection.batch_execute("begin; lock t").await?;
        let body = rows_of(connection, 5, true);
        Ok::<_, BoxError>(Response::new(invocation()?.stream(body)))
    }));
    let response = service.oneshot(Request::new(())).await.expect("a response");
    assert_eq!(lab.sessions().await, ["idle in transaction"]);
    lab.ends_at_rest().await;
    let read = response.into_body().collect().await;
    assert!(read.is_err(), "what is missing is not passed over");
}

/// One that goes on for ever is stopped.
#[tokio::test]
async fn body_that_never_waits_ends_with_the_deadline() {
    let lab = lab().await;
    let layer = DatabaseLayer::new(lab.database.clone()).max_duration(Duration::from_millis(500));
    let service = layer.layer(tower::service_fn(async |_: Request<()>| {
        let frame = || Ok::<_, Infallible>(Frame::data(Bytes::from_static(b"on and on")));
        let body = StreamBody::new(futures_util::stream::repeat_with(frame));
        Ok::<_, BoxError>(Response::new(invocation()?.stream(body)))
    }));
    let response = service.oneshot(Request::new(())).await.expect("a response");
    let mut body = pin!(response.into_body());
    let ended = timeout(PLENTY, async {
        while let Some(frame) = body.frame().await {
            frame?;
        }
        Ok::<_, BoxError>(())
    });
    let error = ended.await.expect("in time").expect_err("cut short");
    assert_eq!(kind(&error), Some(ErrorKind::Deadline), "{error}");
}

/// Another response takes its place, and nothing reads from the database any more.
#[tokio::test]
async fn dropped_streamed_body_counts_for_nothing() {
    let lab = lab().await;
    let service =
        DatabaseLayer::new(lab.database.clone()).layer(tower::service_fn(async |_: Request<()>| {
            let connection = connection().await?;
            connection.batch_execute("begin").await?;
            drop(invocation()?.stream(rows_of(connection, 5, true)));
            Ok::<_, BoxError>(reply(200))
        }));
    let response = service.oneshot(Request::new(())).await.expect("a response");
    assert_eq!(lab.outcome().steps(), [Step::RolledBack]);
    lab.assert_at_rest().await;
    assert_eq!(response.into_body().size_hint().exact(), Some(5));
}

/// The task that had the streamed body drops it while the head's COMMIT is under way.
#[tokio::test]
async fn stream_dropped_behind_the_head_ends_nothing() {
    const SLOW: &str = "create function wait() returns trigger language plpgsql as \
        $$ begin perform pg_advisory_xact_lock(7); return null; end $$; \
        create constraint trigger waits after insert on t deferrable initially deferred \
        for each row execute function wait()";
    let lab = lab().await;
    lab.server.execute(SLOW).await.expect("a slow COMMIT");
    let connected = tokio_postgres::connect(&lab.server.url, tokio_postgres::NoTls).await;
    let (holder, driver) = connected.expect("a connection");
    tokio::spawn(driver);
    let lock = holder.batch_execute("select pg_advisory_lock(7)").await;
    lock.expect("the lock");

    let [drops, dropped] = [(); 2].map(|()| Arc::new(tokio::sync::Notify::new()));
    let hooks = Arc::new(AtomicUsize::new(0));
    let service = DatabaseLayer::new(lab.database.clone()).layer(tower::service_fn(|_| async {
        transaction().await?.execute(INSERT, &[]).await?;
        let (own, invocation) = (connection().await?, invocation()?);
        own.batch_execute("begin").await?;
        let ran = [(); 2].map(|()| Arc::clone(&hooks));
        let [cleaned, after] = ran.map(|ran| async move {
            ran.fetch_add(1, Ordering::Relaxed);
        });
        invocation.defer(cleaned);
        invocation.after(after);
        let body = invocation.stream(Full::new(Bytes::from_static(b"piped")));
        let (drops, dropped) = (Arc::clone(&drops), Arc::clone(&dropped));
        invocation.spawn(async move {
            drops.notified().await;
            drop(body);
            dropped.notify_one();
            std::future::pending::<()>().await;
            drop(own);
        });
        Ok::<_, BoxError>(reply(200))
    }));
    let release = async {
        let commits = async |lab: &Lab| lab.sessions().await.contains(&"active".to_owned());
        lab.eventually("COMMIT waits", commits).await;
        drops.notify_one();
        dropped.notified().await;
        holder.batch_execute("select pg_advisory_unlock(7)").await
    };
    let both = async { tokio::join!(service.oneshot(Request::new(())), release) };
    let (response, released) = timeout(PLENTY, both).await.expect("in time");
    released.expect("the lock is free");
    let body = response.expect("a response").into_body();
    assert_eq!(body.collect().await.expect("a body").to_bytes(), "hello");
    assert_eq!(hooks.load(Ordering::Relaxed), 2);
    lab.assert_at_rest().await;
    assert_eq!(lab.rows().await, 1);
}
