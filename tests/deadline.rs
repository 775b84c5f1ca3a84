//! The time that an invocation has, by what its host says.
#![cfg(feature = "lambda")]

mod common;

use std::time::{Duration, SystemTime};

use antifreeze::{Database, DatabaseLayer, invocation};
use common::BoxError;
use http::{Request, Response};
use http_body_util::Empty;
use lambda_http::aws_lambda_events::apigw::ApiGatewayV2httpRequestContext;
use lambda_http::request::RequestContext;
use lambda_runtime::{Context, LambdaEvent};
use tower::{Layer, Service, ServiceExt};

const SECOND: Duration = Duration::from_secs(1);

/// The longest that a function runs.
const MOST: Duration = Duration::from_secs(15 * 60);

/// These tests do not connect.
fn layer() -> DatabaseLayer {
    DatabaseLayer::new(Database::from_url("postgres://localhost/none").expect("a URL"))
}

/// What Lambda says of an event that may still take `left`.
fn context(left: Duration) -> Context {
    let deadline = SystemTime::now() + left;
    at(deadline
        .duration_since(SystemTime::UNIX_EPOCH)
        .expect("after 1970"))
}

fn at(deadline: Duration) -> Context {
    let mut context = Context::default();
    context.request_id = "abc".into();
    context.deadline = deadline.as_millis().try_into().expect("small");
    context
}

/// What the handler of a request has left.
async fn remaining(
    layer: &DatabaseLayer,
    context: Option<Context>,
    from: Option<RequestContext>,
) -> Option<Duration> {
    let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
    let service = layer.layer(tower::service_fn(move |_: Request<()>| {
        let tell = tell.clone();
        async move {
            let _ = tell.send(invocation()?.remaining());
            Ok::<_, BoxError>(Response::new(Empty::<bytes::Bytes>::new()))
        }
    }));
    let mut request = Request::new(());
    if let Some(context) = context {
        request.extensions_mut().insert(context);
    }
    if let Some(from) = from {
        request.extensions_mut().insert(from);
    }
    let response = service.oneshot(request).await.expect("a response");
    match told.try_recv() {
        Ok(remaining) => remaining,
        // It was over before it began.
        Err(_) => {
            assert_eq!(response.status(), 504);
            Some(Duration::ZERO)
        }
    }
}

/// The handler has nearly `all`: what it has less is kept for the teardown, or has
/// passed on a busy machine.
#[track_caller]
fn assert_nearly(remaining: Option<Duration>, all: Duration, what: &str) {
    let remaining = remaining.expect(what);
    assert!(
        remaining < all && remaining + 10 * SECOND > all,
        "{what}: {remaining:?} of {all:?}"
    );
}

fn behind_http_api(domain: &str) -> RequestContext {
    let mut context = ApiGatewayV2httpRequestContext::default();
    context.domain_name = Some(domain.into());
    RequestContext::ApiGatewayV2(context)
}

#[tokio::test]
async fn gateways_wait_29_seconds_others_the_timeout() {
    let gateway = 29 * SECOND;
    let function = 120 * SECOND;
    for (what, from, expected) in [
        (
            "REST API",
            RequestContext::ApiGatewayV1(Default::default()),
            gateway,
        ),
        (
            "HTTP API",
            behind_http_api("x.execute-api.eu-west-1.amazonaws.com"),
            gateway,
        ),
        (
            "HTTP API, a domain of one's own",
            behind_http_api("api.example.com"),
            gateway,
        ),
        (
            "HTTP API, no domain",
            RequestContext::ApiGatewayV2(Default::default()),
            gateway,
        ),
        (
            "WebSocket API",
            RequestContext::WebSocket(Default::default()),
            gateway,
        ),
        (
            "function URL",
            behind_http_api("x.lambda-url.eu-west-1.on.aws"),
            function,
        ),
        (
            "load balancer",
            RequestContext::Alb(Default::default()),
            function,
        ),
    ] {
        let context = context(function);
        let left = remaining(&layer(), Some(context), Some(from)).await;
        assert_nearly(left, expected, what);
    }
    let left = remaining(&layer(), Some(context(function)), None).await;
    assert_nearly(left, function, "a context of no known kind");
}

#[tokio::test]
async fn shorter_limit_counts() {
    let rest = || RequestContext::ApiGatewayV1(Default::default());
    let left = remaining(&layer(), Some(context(15 * SECOND)), Some(rest())).await;
    assert_nearly(left, 15 * SECOND, "the function's own timeout");
    let configured = layer().max_duration(12 * SECOND);
    let left = remaining(&configured, Some(context(120 * SECOND)), Some(rest())).await;
    assert_nearly(left, 12 * SECOND, "as configured");
    let left = remaining(&configured, None, None).await;
    assert_nearly(left, 12 * SECOND, "as configured, without a host");
}

#[tokio::test]
async fn impossible_deadline_is_ignored() {
    assert_eq!(remaining(&layer(), None, None).await, None, "no host");
    // Emulators send none, or one of long ago.
    for long_ago in [Duration::ZERO, Duration::from_secs(1_000_000_000)] {
        let left = remaining(&layer(), Some(at(long_ago)), None).await;
        assert_nearly(left, MOST, "no deadline");
    }
    // A clock that was behind gives too much.
    let left = remaining(&layer(), Some(context(30 * 24 * 60 * 60 * SECOND)), None).await;
    assert_nearly(left, MOST, "more than Lambda gives");
    let rest = RequestContext::ApiGatewayV1(Default::default());
    let left = remaining(&layer(), Some(at(Duration::ZERO)), Some(rest)).await;
    assert_nearly(left, 29 * SECOND, "no deadline, behind a gateway");
}

#[tokio::test]
async fn deadline_just_passed_is_over() {
    let service = layer().layer(tower::service_fn(async |_: Request<()>| {
        std::future::pending::<()>().await;
        Ok::<_, BoxError>(Response::new(Empty::<bytes::Bytes>::new()))
    }));
    // Of this process's own time: it passed while the request was on its way.
    let context = context(Duration::ZERO);
    tokio::time::sleep(Duration::from_millis(20)).await;
    let mut request = Request::new(());
    request.extensions_mut().insert(context);
    let response = tokio::time::timeout(10 * SECOND, service.oneshot(request)).await;
    let response = response.expect("at once").expect("a response");
    assert_eq!(response.status(), 504);
}

#[tokio::test]
async fn events_have_the_functions_deadline() {
    let mut service = layer().layer(tower::service_fn(async |_: LambdaEvent<()>| {
        let invocation = invocation()?;
        Ok::<_, BoxError>((invocation.remaining(), invocation.request_id().to_owned()))
    }));
    let service = service.ready().await.expect("ready");
    for (context, expected) in [
        (context(120 * SECOND), 120 * SECOND),
        (at(Duration::ZERO), MOST),
    ] {
        let event = LambdaEvent::new((), context);
        let (left, id) = service.call(event).await.expect("fine");
        assert_nearly(left, expected, "an event");
        assert_eq!(id, "abc");
    }
}

#[cfg(feature = "vercel")]
#[tokio::test]
async fn vercel_gives_300_seconds_by_default() {
    use vercel_runtime::{AppState, ResponseBody};

    for (layer, expected) in [
        (layer(), 300 * SECOND),
        (layer().max_duration(60 * SECOND), 60 * SECOND),
    ] {
        let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
        let service = layer.layer(tower::service_fn(
            move |_: (AppState, vercel_runtime::Request)| {
                let _ = tell.send(invocation().expect("inside one").remaining());
                async { Ok::<_, vercel_runtime::Error>(Response::new(ResponseBody::from("fine"))) }
            },
        ));
        let answer = common::vercel::ask(service, "GET", "/").await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        let left = told.try_recv().expect("it was called");
        assert_nearly(left, expected, "Vercel");
    }
}
