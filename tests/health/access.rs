//! Access to the report: token, path and host.

use super::*;

#[tokio::test]
async fn caller_without_the_token_gets_the_status_alone() {
    let with = lab_with(easy).await;
    let without = lab_with(|config| config.high_water_mark(100)).await;
    for (database, token) in [
        (&with.database, None),
        (&with.database, Some("")),
        (&with.database, Some("hunter2-hunter2-hunter3")),
        (&with.database, Some("hunter2-hunter2-hunter2x")),
        (&without.database, Some(TOKEN)),
        (&without.database, None),
    ] {
        let answer = ask(database, token).await;
        assert_eq!(answer.body, r#"{"status":"ok"}"#, "{token:?}");
        assert_follows_schema(&answer.json());
        assert_eq!(answer.status, 200);
        assert_eq!(answer.headers["content-type"], "application/json");
        assert_eq!(answer.headers["cache-control"], "no-store");
    }
    details(&with.database).await;
    let shown = format!(
        "{:?} {:?}",
        with.database,
        HealthService::new(with.database.clone())
    );
    assert!(!shown.contains("hunter2"), "{shown}");
}

/// A service that counts how often it is called, and says so.
fn counted(
    calls: &Arc<AtomicUsize>,
) -> impl Service<Request<()>, Response = Response<Empty<Bytes>>, Error = BoxError, Future: Send>
+ Clone
+ use<> {
    let calls = Arc::clone(calls);
    tower::service_fn(move |_: Request<()>| {
        calls.fetch_add(1, Ordering::Relaxed);
        let mut response = Response::new(Empty::new());
        *response.status_mut() = StatusCode::IM_A_TEAPOT;
        async { Ok(response) }
    })
}

#[tokio::test]
async fn layer_answers_on_the_health_path_alone() {
    let lab = lab_with(easy).await;
    let calls = Arc::default();
    let layer = DatabaseLayer::new(lab.database.clone());
    for path in ["/health/db", "health/db"] {
        let service = layer.clone().health_check(path).layer(counted(&calls));
        for (method, uri, ours) in [
            (Method::GET, "/health/db", true),
            (Method::HEAD, "/health/db", true),
            (Method::GET, "/health/db?verbose", true),
            (Method::GET, "https://shop.example/health/db", true),
            (Method::POST, "/health/db", false),
            (Method::OPTIONS, "/health/db", false),
            (Method::GET, "/health/db/", false),
            (Method::GET, "/health/dbs", false),
            (Method::GET, "/health", false),
            (Method::GET, "/prod/health/db", false),
            (Method::GET, "/Health/db", false),
            (Method::GET, "//health/db", false),
            (Method::GET, "/", false),
        ] {
            let before = calls.load(Ordering::Relaxed);
            let request = Request::builder().method(&method).uri(uri).body(());
            let request = request.expect("a request");
            let response = service.clone().oneshot(request).await.expect("an answer");
            let status = response.status();
            let called = calls.load(Ordering::Relaxed) - before;
            let expected = if ours { (200, 0) } else { (418, 1) };
            assert_eq!((status.as_u16(), called), expected, "{method} {uri}");
        }
    }
    // Without a health path the layer has no report.
    let service = layer.layer(counted(&calls));
    let response = service.oneshot(by(None)).await.expect("an answer");
    assert_eq!(response.status(), 418);
}

#[tokio::test]
async fn head_is_get_without_a_body() {
    let lab = lab_with(easy).await;
    for token in [None, Some(TOKEN)] {
        let mut request = by(token);
        *request.method_mut() = Method::HEAD;
        let service = HealthService::new(lab.database.clone());
        let Ok(response) = service.oneshot(request).await;
        let (head, get) = (Answer::of(response).await, ask(&lab.database, token).await);
        assert_eq!((head.status, &head.headers), (get.status, &get.headers));
        assert_eq!(head.body, "");
        assert!(!get.body.is_empty());
    }
    let mut post = by(None);
    *post.method_mut() = Method::POST;
    let Ok(response) = HealthService::new(lab.database.clone()).oneshot(post).await;
    let answer = Answer::of(response).await;
    assert_eq!(answer.status, 405);
    assert_eq!(answer.headers["allow"], "GET, HEAD");
}

#[cfg(feature = "axum")]
#[tokio::test]
async fn axum_router_takes_health_as_a_route() {
    let lab = lab_with(easy).await;
    let router: axum::Router =
        axum::Router::new().route_service("/health/db", HealthService::new(lab.database.clone()));
    let request = by(Some(TOKEN)).map(|()| axum::body::Body::empty());
    let response = router.oneshot(request).await.expect("an answer");
    assert_follows_schema(&Answer::of(response).await.json());

    let layer = DatabaseLayer::new(lab.database.clone()).health_check("/health/db");
    let router: axum::Router = axum::Router::new().layer(layer.clone());
    let around = layer.layer(router.clone());
    let request = || by(None).map(|()| axum::body::Body::empty());
    let response = around.oneshot(request()).await.expect("an answer");
    assert_eq!(Answer::of(response).await.body, r#"{"status":"ok"}"#);
    // A router's layer is around its fallback, too: no route is needed.
    let response = router.oneshot(request()).await.expect("an answer");
    assert_eq!(Answer::of(response).await.body, r#"{"status":"ok"}"#);
}

#[cfg(feature = "lambda")]
#[tokio::test]
async fn lambda_http_path_may_have_a_stage() {
    use lambda_http::{Body, RequestExt};

    let lab = lab_with(easy).await;
    let layer = DatabaseLayer::new(lab.database.clone()).health_check("/health/db");
    let service = layer.layer(lambda_http::service_fn(async |_: lambda_http::Request| {
        Ok::<_, BoxError>(Response::builder().status(418).body(Body::Empty)?)
    }));
    for (uri, raw, status) in [
        ("https://x.example/health/db", "/health/db", 200),
        ("https://x.example/prod/health/db", "/health/db", 200),
        ("https://x.example/prod/health/db", "/prod/health/db", 418),
    ] {
        let request = Request::builder().uri(uri).body(Body::Empty);
        let request = request.expect("a request").with_raw_http_path(raw);
        let response = service.clone().oneshot(request).await.expect("an answer");
        assert_eq!(response.status(), status, "{uri}");
    }
    // Under every runner; never polled.
    drop(lambda_http::run(service.clone()));
    drop(lambda_http::run_concurrent(service.clone()));
    drop(lambda_http::run_with_streaming_response(service));
}

#[cfg(feature = "vercel")]
#[tokio::test]
async fn vercel_state_and_request_are_answered() {
    use vercel_runtime::{AppState, ResponseBody};

    let lab = lab_with(easy).await;
    let layer = DatabaseLayer::new(lab.database.clone()).health_check("/health/db");
    let service = layer.layer(tower::service_fn(
        async |_: (AppState, vercel_runtime::Request)| {
            let mut response = Response::new(ResponseBody::from("mine"));
            *response.status_mut() = StatusCode::IM_A_TEAPOT;
            Ok::<_, vercel_runtime::Error>(response)
        },
    ));
    for (method, path, status, body) in [
        ("GET", "/health/db", "200", "{\"status\":\"ok\"}"),
        ("HEAD", "/health/db", "200", ""),
        ("GET", "/other", "418", "mine"),
    ] {
        let answer = common::vercel::ask(service.clone(), method, path).await;
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status}")),
            "{answer}"
        );
        let (head, found) = answer.split_once("\r\n\r\n").expect("a head");
        assert_eq!(found, body, "{method} {path}");
        assert_eq!(head.contains("no-store"), status == "200", "{head}");
    }
}

#[test]
fn invalid_token_is_an_error() {
    for token in ["", "short", "hunter2 hunter2 hunter2"] {
        let config = Config::from_url("postgres://localhost/none")
            .expect("a URL")
            .health_token(token);
        let error = Database::new(config).expect_err("no token");
        assert_eq!(error.kind(), ErrorKind::Configuration);
        let text = error.to_string();
        assert!(text.contains("ANTIFREEZE_HEALTH_TOKEN"), "{text}");
        assert!(!text.contains("hunter2"), "{text}");
    }
}
