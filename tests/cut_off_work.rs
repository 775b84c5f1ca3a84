//! Work that is cut off inside the transaction of its invocation: nothing is stored, and the
//! caller gets an error.

mod common;

use std::future::pending;
use std::time::Duration;

use antifreeze::{DatabaseLayer, ErrorKind, invocation, transaction};
use bytes::Bytes;
use common::{BoxError, Lab, PLENTY, kind, lab, lease_and_return, two_rows};
use http::{Request, Response, StatusCode};
use http_body_util::Empty;
use tokio::sync::oneshot;
use tokio::time::timeout;
use tower::{Layer, ServiceExt};

/// With a connection: a clean-up has no time to open one.
async fn warm() -> Lab {
    let lab = lab().await;
    warm_up(&lab).await;
    lab
}

async fn warm_up(lab: &Lab) {
    lab.run(lease_and_return()).await.expect("warm");
    lab.torn_down();
}

/// The first of two rows, and no second one.
async fn half(inside: oneshot::Sender<()>) -> Result<(), BoxError> {
    let (_never, told) = oneshot::channel();
    two_rows(inside, told).await
}

fn in_use<T: std::fmt::Debug>(result: Result<T, BoxError>) {
    let error = result.expect_err("half of it was done");
    assert_eq!(kind(&error), Some(ErrorKind::TransactionInUse), "{error}");
}

async fn nothing_is_stored(lab: &Lab) {
    lab.ends_at_rest().await;
    assert_eq!(lab.rows().await, 0);
}

async fn task_that_is_not_joined() -> Result<(), BoxError> {
    let (inside, begun) = oneshot::channel();
    let (told_later, told) = oneshot::channel();
    invocation()?.spawn(async move { two_rows(inside, told).await.map_err(|e| e.to_string()) });
    let _ = begun.await;
    // Not before the task is aborted.
    invocation()?.defer(async move {
        let _ = told_later.send(());
    });
    Ok(())
}

#[tokio::test]
async fn transaction_of_an_aborted_task_is_rolled_back() {
    let lab = lab().await;
    in_use(lab.run(task_that_is_not_joined()).await);
    nothing_is_stored(&lab).await;
}

#[tokio::test]
async fn aborted_task_turns_a_200_into_a_500() {
    let lab = lab().await;
    let service =
        DatabaseLayer::new(lab.database.clone()).layer(tower::service_fn(async |_: Request<()>| {
            task_that_is_not_joined().await?;
            Ok::<_, BoxError>(Response::new(Empty::<Bytes>::new()))
        }));
    let response = service.oneshot(Request::new(())).await.expect("a response");
    assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
    nothing_is_stored(&lab).await;
}

#[tokio::test]
async fn work_of_a_joined_task_is_committed() {
    let lab = lab().await;
    lab.run(async {
        let (inside, _begun) = oneshot::channel();
        let (go_on, told) = oneshot::channel();
        let _ = go_on.send(());
        let work = async {
            two_rows(inside, told)
                .await
                .map_err(|error| error.to_string())
        };
        Ok(invocation()?.spawn(work).await??)
    })
    .await
    .expect("committed");
    assert_eq!(lab.rows().await, 2);
}

/// As with a future that is dropped, that is the handler's decision.
#[tokio::test]
async fn task_aborted_by_the_handler_decides_nothing() {
    let lab = lab().await;
    lab.run(async {
        let (inside, begun) = oneshot::channel();
        let task = invocation()?.spawn(async { half(inside).await.map_err(|e| e.to_string()) });
        begun.await?;
        task.abort();
        assert!(task.await.expect_err("aborted").is_cancelled());
        Ok(())
    })
    .await
    .expect("committed");
    assert_eq!(lab.rows().await, 1);
}

#[tokio::test]
async fn transaction_of_a_panicked_task_is_rolled_back() {
    let lab = lab().await;
    let result = lab.run(async {
        let task = invocation()?.spawn(async {
            let transaction = transaction().await.expect("one");
            let inserted = transaction.execute("insert into t values (1)", &[]).await;
            assert_eq!(inserted.expect("inserted"), 2, "as it was asked to");
        });
        assert!(task.await.expect_err("a panic").is_panic());
        Ok(())
    });
    in_use(result.await);
    nothing_is_stored(&lab).await;
}

#[tokio::test]
async fn abandoned_clean_up_is_reported() {
    let lab = warm().await;
    let result = lab.run(async {
        let transaction = transaction().await?;
        invocation()?.defer(async move {
            let inserted = transaction.execute("insert into t values (1)", &[]).await;
            inserted.expect("inserted");
            pending::<()>().await;
        });
        Ok(())
    });
    in_use(result.await);
    nothing_is_stored(&lab).await;
}

#[tokio::test]
async fn panicked_clean_up_is_reported() {
    let lab = warm().await;
    let result = lab.run(async {
        let transaction = transaction().await?;
        invocation()?.defer(async move {
            let inserted = transaction.execute("insert into t values (1)", &[]).await;
            assert_eq!(inserted.expect("inserted"), 2, "as it was asked to");
        });
        Ok(())
    });
    in_use(result.await);
    nothing_is_stored(&lab).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn aborted_task_of_a_clean_up_is_reported() {
    let lab = lab().await;
    for _ in 0..20 {
        // The last round's may have been closed.
        warm_up(&lab).await;
        let result = lab.run(async {
            let invocation = invocation()?;
            let clone = invocation.clone();
            invocation.defer(async move {
                let (inside, begun) = oneshot::channel();
                clone.spawn(async { half(inside).await.map_err(|error| error.to_string()) });
                let _ = begun.await;
            });
            Ok(())
        });
        in_use(result.await);
        nothing_is_stored(&lab).await;
    }
}

#[tokio::test]
async fn finished_clean_up_is_committed() {
    let lab = lab().await;
    lab.run(async {
        let transaction = transaction().await?;
        invocation()?.defer(async move {
            let inserted = transaction.execute("insert into t values (1)", &[]).await;
            inserted.expect("inserted");
        });
        Ok(())
    })
    .await
    .expect("committed");
    assert_eq!(lab.rows().await, 1);
}

/// Its future is ready whenever tokio lets it, so its timer has no turn by itself.
#[tokio::test]
async fn polite_loop_meets_its_deadline() {
    let lab = warm().await;
    let limited = |limit| DatabaseLayer::new(lab.database.clone()).max_duration(limit);
    let short = Duration::from_secs(1);
    for (outer, inner) in [(short, PLENTY * 2), (PLENTY * 2, short)] {
        let handler = tower::service_fn(async |_: Request<()>| {
            let transaction = transaction().await?;
            transaction.execute("insert into t values (1)", &[]).await?;
            loop {
                tokio::task::consume_budget().await;
            }
            #[allow(unreachable_code)]
            Ok::<_, BoxError>(Response::new(Empty::<Bytes>::new()))
        });
        let service = limited(outer).layer(limited(inner).layer(handler));
        let response = timeout(PLENTY, service.oneshot(Request::new(()))).await;
        let response = response.expect("in time").expect("a response");
        assert_eq!(response.status(), StatusCode::GATEWAY_TIMEOUT);
        nothing_is_stored(&lab).await;
    }
}
