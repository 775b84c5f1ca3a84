//! The commit of an invocation's transaction: when it is decided, and what may not delay it.

mod common;

use std::convert::Infallible;
use std::time::Duration;

use antifreeze::{DatabaseLayer, Error, ErrorKind, invocation, transaction};
use bytes::Bytes;
use common::{BoxError, lab, lab_over_relay};
use http::{Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use tokio::time::sleep;
use tower::{Layer, ServiceExt};

const INSERT: &str = "insert into t values (1)";

/// It would be rolled back at the end of the body, without an error.
#[tokio::test]
async fn streamed_body_gets_no_transaction() {
    let lab = lab().await;
    for used_before in [false, true] {
        let service = tower::service_fn(async |_: Request<()>| {
            let invocation = invocation()?;
            if used_before {
                invocation.transaction().await?.execute(INSERT, &[]).await?;
            }
            let late = invocation.clone();
            let asked = async move {
                let refused = late.transaction().await.map(drop).expect_err("too late");
                let line = format!("{}: {refused}", refused.kind());
                // The body's own transaction is not the invocation's.
                let mut connection = late.connection().await.expect("a connection");
                let own = connection.transaction().await.expect("begun");
                own.execute(INSERT, &[]).await.expect("a row");
                own.commit().await.expect("committed");
                Ok::<_, Infallible>(Frame::data(Bytes::from(line)))
            };
            let body = StreamBody::new(Box::pin(futures_util::stream::once(asked)));
            Ok::<_, BoxError>(Response::new(invocation.stream(body)))
        });
        let service = DatabaseLayer::new(lab.database.clone()).layer(service);
        let response = service.oneshot(Request::new(())).await.expect("a response");
        assert_eq!(response.status(), 200);
        let body = response.into_body().collect().await.expect("whole");
        let body = String::from_utf8_lossy(&body.to_bytes()).into_owned();
        assert!(
            body.starts_with(&ErrorKind::InvocationEnded.to_string()),
            "{body}"
        );
        lab.assert_at_rest().await;
    }
    assert_eq!(lab.rows().await, 3);
}

#[tokio::test]
async fn slow_clean_ups_leave_time_to_commit() {
    let (lab, relay) = lab_over_relay(|config| config).await;
    relay.delay(Duration::from_millis(100));
    lab.database
        .invocation(Duration::from_secs(4), async {
            let invocation = invocation()?;
            for _ in 0..50 {
                invocation.defer(sleep(Duration::from_secs(60)));
            }
            invocation.transaction().await?.execute(INSERT, &[]).await?;
            Ok::<_, Error>(())
        })
        .await
        .expect("committed in time");
    assert_eq!(lab.rows().await, 1);
    lab.assert_at_rest().await;
}

#[tokio::test]
async fn quick_clean_ups_run_behind_a_slow_one() {
    let lab = lab().await;
    let (ran, mut runs) = tokio::sync::mpsc::unbounded_channel();
    lab.run(async {
        let invocation = invocation()?;
        for number in [1, 2] {
            let ran = ran.clone();
            invocation.defer(async move { ran.send(number).expect("heard") });
        }
        invocation.defer(sleep(Duration::from_secs(60)));
        Ok(())
    })
    .await
    .expect("fine");
    assert_eq!((runs.try_recv(), runs.try_recv()), (Ok(2), Ok(1)));
}

/// Nothing was asked of it, so there is nothing that could be lost.
#[tokio::test]
async fn unused_transaction_may_lose_its_session() {
    let lab = lab().await;
    let kill = async |process: i32| {
        let kill = format!("select pg_terminate_backend({process}, 20000)");
        lab.server.execute(&kill).await.expect("terminated");
    };
    lab.run(async {
        let transaction = transaction().await?;
        kill(transaction.process_id()).await;
        Ok(())
    })
    .await
    .expect("nothing was lost");
    lab.run(async {
        let transaction = transaction().await?;
        kill(transaction.process_id()).await;
        drop(transaction.execute(INSERT, &[]).await);
        Ok(())
    })
    .await
    .expect_err("a row was");
    assert_eq!(lab.rows().await, 0);
}
