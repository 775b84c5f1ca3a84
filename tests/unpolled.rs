//! Futures that were polled, and are polled again only after their invocation has ended: a task
//! was busy otherwise, or blocked its thread. They touch nothing of the next invocation.

mod common;

use std::future::{IntoFuture, poll_fn};
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use antifreeze::{Connection, DatabaseLayer, ErrorKind, connection, invocation, transaction};
use bytes::Bytes;
use common::{BoxError, Lab, lab_with};
use futures_util::StreamExt;
use http::{Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use tower::{Layer, ServiceExt};

type Checkout = Pin<Box<dyn Future<Output = Result<Connection, antifreeze::Error>> + Send>>;

async fn is_pending<F: Future + Unpin>(future: &mut F) -> bool {
    poll_fn(|cx| Poll::Ready(Pin::new(&mut *future).poll(cx).is_pending())).await
}

/// An invocation leaves its session in such a state, and a checkout that waits until it is
/// removed.
async fn left_behind(state: &str) -> (Lab, Checkout) {
    let lab = lab_with(|config| config.max_connections(1)).await;
    lab.warm_kept().await;
    let late = lab.run(async {
        let invocation = invocation()?;
        connection().await?.batch_execute(state).await?;
        let mut late: Checkout = Box::pin(invocation.connection());
        assert!(is_pending(&mut late).await);
        Ok(late)
    });
    let late = late.await.expect("fine");
    (lab, late)
}

/// Stores two rows in one transaction, and polls `late` in between.
async fn store_around<T>(lab: &Lab, late: impl Future<Output = T>) -> T {
    let stored = lab.run(async {
        let mut connection = connection().await?;
        let transaction = connection.transaction().await?;
        transaction.execute("insert into t values (1)", &[]).await?;
        let late = late.await;
        transaction.execute("insert into t values (2)", &[]).await?;
        transaction.commit().await?;
        Ok(late)
    });
    let late = stored.await.expect("the session is its own");
    assert_eq!(lab.rows().await, 2);
    late
}

#[tokio::test]
async fn late_checkout_ends_no_other_session() {
    let (lab, late) = left_behind("begin; insert into t values (0)").await;
    let late = store_around(&lab, late).await;
    let error = late.expect_err("its invocation has ended");
    assert_eq!(error.kind(), ErrorKind::InvocationEnded, "{error}");
}

#[tokio::test]
async fn late_checkout_hides_no_other_state() {
    let (lab, late) = left_behind("set app.tenant = 'a'").await;
    let set = lab.run(async {
        let connection = connection().await?;
        connection.batch_execute("set app.tenant = 'b'").await?;
        Ok(late.await.map(drop))
    });
    let error = set
        .await
        .expect("set")
        .expect_err("its invocation has ended");
    assert_eq!(error.kind(), ErrorKind::InvocationEnded, "{error}");
    let seen = lab.run(async {
        let tenant = "select nullif(current_setting('app.tenant', true), '')";
        let row = connection().await?.query_one(tenant, &[]).await?;
        Ok(row.get::<_, Option<String>>(0))
    });
    assert_eq!(seen.await.expect("fine"), None);
}

/// A layer whose requests may take this long.
fn layer(lab: &Lab, limit: Duration) -> DatabaseLayer {
    DatabaseLayer::new(lab.database.clone()).max_duration(limit)
}

/// The watch goes on with the end that the body has begun.
#[tokio::test]
async fn late_body_ends_no_other_session() {
    let lab = lab_with(|config| config.max_connections(2)).await;
    lab.warm_kept().await;
    let (done, mut is_done) = tokio::sync::mpsc::unbounded_channel();
    let service =
        layer(&lab, Duration::from_secs(3)).layer(tower::service_fn(async |_: Request<()>| {
            let (invocation, done) = (invocation()?, done.clone());
            let connection = connection().await?;
            let insert = "begin; insert into t values (0)";
            connection.batch_execute(insert).await?;
            invocation.after(async move { done.send(()).expect("it is awaited") });
            let frames = futures_util::stream::unfold(Some(connection), async |connection| {
                drop(connection?);
                Some((Ok::<_, BoxError>(Frame::data(Bytes::from("x"))), None))
            });
            Ok::<_, BoxError>(Response::new(invocation.stream(StreamBody::new(frames))))
        }));
    let response = service.oneshot(Request::new(())).await.expect("a head");
    let mut body = Box::pin(response.into_body());
    assert!(is_pending(&mut body.frame()).await, "it waits for ROLLBACK");
    is_done.recv().await.expect("the watch has ended it");
    assert!(lab.is_kept());
    store_around(&lab, async { while body.frame().await.is_some() {} }).await;
}

/// A task does not yield when the body ends, and the watch comes shortly after.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn body_and_watch_have_one_end() {
    let lab = lab_with(|config| config.max_connections(2)).await;
    lab.warm_kept().await;
    let (end, ended) = std::sync::mpsc::channel::<()>();
    let ended = std::sync::Mutex::new(Some(ended));
    let service =
        layer(&lab, Duration::from_secs(1)).layer(tower::service_fn(async |_: Request<()>| {
            let invocation = invocation()?;
            let connection = connection().await?;
            let insert = "begin; insert into t values (0)";
            connection.batch_execute(insert).await?;
            let ended = ended.lock().expect("no panic").take();
            invocation.spawn(async move { ended.map(|ended| ended.recv()).is_some() });
            let frames = futures_util::stream::unfold(Some(connection), async |connection| {
                let connection = connection?;
                let mut sleeps = Box::pin(connection.batch_execute("select pg_sleep(600)"));
                assert!(is_pending(&mut sleeps).await);
                std::future::pending().await
            });
            let frames = frames.map(|frame: Bytes| Ok::<_, BoxError>(Frame::data(frame)));
            Ok::<_, BoxError>(Response::new(invocation.stream(StreamBody::new(frames))))
        }));
    let response = service.oneshot(Request::new(())).await.expect("a head");
    let mut body = Box::pin(response.into_body());
    while body.frame().await.is_some() {}
    assert!(lab.has_torn_down());
    lab.ends_at_rest().await;
    drop(end);
}

/// The client hangs up while a clean-up is under way, whose connection is at rest.
#[tokio::test]
async fn dropped_body_drops_its_end_first() {
    let lab = lab_with(|config| config.max_connections(2)).await;
    lab.warm_kept().await;
    let (has, mut having) = tokio::sync::mpsc::unbounded_channel();
    let service =
        layer(&lab, Duration::from_secs(30)).layer(tower::service_fn(async |_: Request<()>| {
            let (invocation, has) = (invocation()?, has.clone());
            let cleans = invocation.clone();
            invocation.defer(async move {
                let _connection = cleans.connection().await.expect("a connection");
                has.send(()).expect("it is awaited");
                std::future::pending::<()>().await;
            });
            let frames = futures_util::stream::empty::<Result<Frame<Bytes>, BoxError>>();
            Ok::<_, BoxError>(Response::new(invocation.stream(StreamBody::new(frames))))
        }));
    let response = service.oneshot(Request::new(())).await.expect("a head");
    let mut body = Box::pin(response.into_body());
    tokio::select! {
        _ = body.frame() => panic!("the clean-up waits"),
        has = having.recv() => has.expect("a connection"),
    }
    drop(body);
    assert!(lab.is_kept());
}

/// An invocation is abandoned, and a checkout of it is not polled any more.
#[tokio::test]
async fn unpolled_checkout_keeps_no_permit() {
    let lab = lab_with(|config| config.max_connections(1)).await;
    lab.warm_kept().await;
    let (send, mut sent) = tokio::sync::mpsc::unbounded_channel::<Checkout>();
    let run = lab.run::<()>(async {
        let invocation = invocation()?;
        let insert = "begin; insert into t values (0)";
        connection().await?.batch_execute(insert).await?;
        let mut late: Checkout = Box::pin(invocation.connection());
        assert!(is_pending(&mut late).await);
        send.send(late).expect("it is awaited");
        std::future::pending().await
    });
    let late = tokio::select! {
        _ = run => panic!("it waits"),
        late = sent.recv() => late.expect("a checkout"),
    };
    store_around(&lab, async {}).await;
    drop(late);
}

/// The transaction is committed although another caller still waits to ask for it.
#[tokio::test]
async fn unpolled_caller_stops_no_commit() {
    let lab = lab_with(|config| config.max_connections(2)).await;
    let stored = lab.run(async {
        let mut first = transaction().into_future();
        let mut next = transaction().into_future();
        assert!(is_pending(&mut first).await, "it connects");
        assert!(is_pending(&mut next).await, "it waits for the first");
        let insert = "insert into t values (1)";
        first.await?.execute(insert, &[]).await?;
        Ok(next)
    });
    let next = stored.await.expect("committed");
    assert_eq!(lab.rows().await, 1);
    let error = next.await.expect_err("its invocation has ended");
    assert_eq!(error.kind(), ErrorKind::InvocationEnded, "{error}");
}

/// The same with a task that blocks its thread.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn blocked_task_stops_no_commit() {
    let lab = lab_with(|config| config.max_connections(2)).await;
    let (go, gone) = std::sync::mpsc::channel::<()>();
    let stored = lab.run(async {
        let mut first = transaction().into_future();
        assert!(is_pending(&mut first).await, "it connects");
        invocation()?.spawn(async move {
            let uses = async { drop(transaction().await) };
            let blocks = async move { gone.recv().unwrap_or_default() };
            tokio::join!(uses, blocks);
        });
        let insert = "insert into t values (1)";
        first.await?.execute(insert, &[]).await?;
        Ok(())
    });
    stored.await.expect("committed");
    assert_eq!(lab.rows().await, 1);
    drop(go);
}
