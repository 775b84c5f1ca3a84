//! A layer inside another for the same database.

mod common;

use std::time::Duration;

use antifreeze::teardown::Step;
use antifreeze::{DatabaseLayer, connection, transaction};
use bytes::Bytes;
use common::{BoxError, PLENTY, lab};
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use tokio::time::timeout;
use tower::{Layer, ServiceBuilder, ServiceExt};

const INSERT: &str = "insert into t values (1)";

fn reply(status: StatusCode) -> Response<Full<Bytes>> {
    let mut reply = Response::new(Full::default());
    *reply.status_mut() = status;
    reply
}

async fn insert(status: StatusCode) -> Result<Response<Full<Bytes>>, BoxError> {
    transaction().await?.execute(INSERT, &[]).await?;
    Ok(reply(status))
}

#[tokio::test]
async fn inner_layer_decides_the_outcome() {
    let lab = lab().await;
    let plain = || DatabaseLayer::new(lab.database.clone());
    for (status, outer, inner, rows) in [
        (StatusCode::OK, plain(), plain().commit_when(|_| false), 0),
        (
            StatusCode::NOT_FOUND,
            plain(),
            plain().commit_when(|_| true),
            1,
        ),
        (
            StatusCode::NOT_FOUND,
            plain().commit_when(|_| true),
            plain(),
            1,
        ),
        (
            StatusCode::OK,
            plain().commit_when(|_| false),
            plain().commit_when(|_| true),
            1,
        ),
    ] {
        lab.server.execute("delete from t").await.expect("empty");
        let service = tower::service_fn(move |_: Request<()>| insert(status));
        let service = outer.layer(inner.layer(service));
        let response = service.oneshot(Request::new(())).await.expect("a response");
        assert_eq!(response.status(), status);
        assert_eq!(lab.rows().await, rows, "{status}");
    }
}

/// What stands between the two layers may answer in the handler's place.
#[tokio::test]
async fn replaced_response_is_judged_by_the_outer_layer() {
    let lab = lab().await;
    let layer = DatabaseLayer::new(lab.database.clone());
    let service = ServiceBuilder::new()
        .layer(layer.clone())
        .map_response(|_| reply(StatusCode::INTERNAL_SERVER_ERROR))
        .layer(layer.commit_when(|_| true))
        .service_fn(|_: Request<()>| insert(StatusCode::OK));
    let response = service.oneshot(Request::new(())).await.expect("a response");
    assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
    assert_eq!(lab.rows().await, 0);
}

#[tokio::test]
async fn shorter_duration_counts() {
    let lab = lab().await;
    let limited = |limit| DatabaseLayer::new(lab.database.clone()).max_duration(limit);
    let short = Duration::from_millis(500);
    for (outer, inner) in [(PLENTY * 2, short), (short, PLENTY * 2)] {
        let service = tower::service_fn(async |_: Request<()>| {
            transaction().await?.execute(INSERT, &[]).await?;
            connection()
                .await?
                .execute("select pg_sleep(60)", &[])
                .await?;
            Ok::<_, BoxError>(reply(StatusCode::OK))
        });
        // Whatever the outer one makes of the answer: half of the work was cut off.
        let outer = limited(outer).commit_when(|_| true);
        let service = outer.layer(limited(inner).layer(service));
        let call = timeout(PLENTY, service.oneshot(Request::new(())));
        let response = call.await.expect("in time").expect("a response");
        assert_eq!(response.status(), StatusCode::GATEWAY_TIMEOUT);
        let torn = lab.torn_down();
        let cancelled = |step: &Step| *step == Step::Cancelled;
        assert!(
            torn.iter()
                .any(|torn| torn.outcome.steps().iter().any(cancelled)),
            "{torn:?}"
        );
        assert_eq!(lab.rows().await, 0);
        lab.assert_at_rest().await;
    }
}
