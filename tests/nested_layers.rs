//! A layer inside another for the same database.

mod common;

use std::time::Duration;

use antifreeze::teardown::Step;
use antifreeze::{DatabaseLayer, connection, invocation, transaction};
use bytes::Bytes;
use common::{BoxError, Lab, PLENTY, lab, lease_and_return};
use futures_util::future::try_join;
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
    let two = async { try_join(connection(), connection()).await.map(drop) };
    lab.run(async { Ok(two.await?) }).await.expect("warm");
    lab.torn_down();
    let short = Duration::from_secs(2);
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
        let torn = lab.ends_at_rest().await;
        assert!(torn.iter().any(|torn| !torn.outcome.is_clean()), "{torn:?}");
        assert_eq!(lab.rows().await, 0);
    }
}

/// Both layers get the same deadline from their host: the outer one does not drop the inner one
/// in the middle of its teardown.
#[tokio::test]
async fn inner_database_is_at_rest_at_the_outer_deadline() {
    // A busy machine may take the time that is left, but not each time.
    let tries = [
        cuts_off_inside().await,
        cuts_off_inside().await,
        cuts_off_inside().await,
    ];
    let expected = [Step::Cancelled, Step::RolledBack];
    assert!(tries.iter().any(|steps| *steps == expected), "{tries:?}");
}

/// The steps of the inner teardown that were known when the response left.
async fn cuts_off_inside() -> Vec<Step> {
    let (outer, inner) = (lab().await, lab().await);
    let duration = Duration::from_secs(2);
    let layer = |lab: &Lab| DatabaseLayer::new(lab.database.clone()).max_duration(duration);
    let handler = tower::service_fn(async |_: Request<()>| {
        let slow = connection().await?;
        slow.batch_execute("begin; insert into t values (1); select pg_sleep(60)")
            .await?;
        Ok::<_, BoxError>(reply(StatusCode::OK))
    });
    let service = layer(&outer).layer(layer(&inner).layer(handler));
    let call = timeout(PLENTY, service.oneshot(Request::new(())));
    let response = call.await.expect("in time").expect("a response");
    assert_eq!(response.status(), StatusCode::GATEWAY_TIMEOUT);
    let torn = inner.torn_down();
    let gone = async |lab: &Lab| lab.sessions().await.iter().all(|state| state == "idle");
    inner.eventually("it ends, however late", gone).await;
    inner.assert_at_rest().await;
    assert_eq!(inner.rows().await, 0);
    let steps = torn.iter().flat_map(|torn| torn.outcome.steps());
    steps.copied().collect()
}

/// A clean-up that runs behind the cutoff has the time of clean-ups.
#[tokio::test]
async fn clean_up_uses_another_database_after_the_cutoff() {
    let (shop, audit) = (lab().await, lab().await);
    // A busy machine may take the time that is left, but not each time.
    for _ in 0..3 {
        audit.run(lease_and_return()).await.expect("warm");
        let layer = DatabaseLayer::new(shop.database.clone());
        let layer = layer.max_duration(Duration::from_secs(1));
        let database = audit.database.clone();
        let service = layer.layer(tower::service_fn(move |_: Request<()>| {
            let database = database.clone();
            async move {
                invocation()?.defer(async move {
                    let note = async {
                        Ok::<_, BoxError>(connection().await?.execute(INSERT, &[]).await?)
                    };
                    let _ = database.invocation(Duration::from_millis(200), note).await;
                });
                std::future::pending::<()>().await;
                Ok::<_, BoxError>(reply(StatusCode::OK))
            }
        }));
        let response = service.oneshot(Request::new(())).await.expect("a response");
        assert_eq!(response.status(), StatusCode::GATEWAY_TIMEOUT);
        if audit.rows().await > 0 {
            return;
        }
    }
    panic!("nothing is noted");
}
