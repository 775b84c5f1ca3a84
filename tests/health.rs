//! The health report: what it says, to whom, and what it costs the server.

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use antifreeze::health::{Reached, Status};
use antifreeze::{Config, Database, DatabaseLayer, ErrorKind, HealthService, connection};
use bytes::Bytes;
use common::{BoxError, PLENTY, lab_over_relay, lab_with, lease_and_return, says};
use futures_util::future::join_all;
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Empty};
use lab::postgres::{Installation, Postgres};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep, timeout};
use tower::{Layer, Service, ServiceExt};

const TOKEN: &str = "hunter2-hunter2-hunter2";

/// Nothing is ever above this mark: others are on the shared server, too.
fn easy(config: Config) -> Config {
    config.crowded_at(100).health_token(TOKEN)
}

fn database(url: &str, change: impl FnOnce(Config) -> Config) -> Database {
    let config = change(
        Config::from_url(url)
            .expect("a URL")
            .application_name("under test")
            .health_token(TOKEN),
    );
    Database::new(config).expect("settings")
}

/// A request of somebody with this token.
fn by(token: Option<&str>) -> Request<()> {
    let request = Request::builder().uri("/health/db");
    let request = match token {
        Some(token) => request.header("authorization", format!("Bearer {token}")),
        None => request,
    };
    request.body(()).expect("a request")
}

struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    body: Bytes,
}

impl Answer {
    async fn of<B>(response: Response<B>) -> Answer
    where
        B: http_body::Body<Data = Bytes, Error: std::fmt::Debug>,
    {
        let (head, body) = response.into_parts();
        Answer {
            status: head.status,
            headers: head.headers,
            body: body.collect().await.expect("whole").to_bytes(),
        }
    }

    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).expect("JSON")
    }
}

async fn ask(database: &Database, token: Option<&str>) -> Answer {
    let service = HealthService::new(database.clone());
    let Ok(response) = service.oneshot(by(token)).await;
    Answer::of(response).await
}

/// What who has the token is told, which is as the schema says.
async fn details(database: &Database) -> Value {
    let answer = ask(database, Some(TOKEN)).await;
    let details = answer.json();
    assert_follows_schema(&details);
    assert!(details["postgres"].is_object(), "{details}");
    details
}

/// The published schema lets fields be added; here each has to be described.
fn assert_follows_schema(answer: &Value) {
    fn close(schema: &mut Value) {
        if let Value::Object(object) = schema {
            if object.contains_key("properties") {
                object.insert("additionalProperties".to_owned(), false.into());
            }
            object.values_mut().for_each(close);
        }
        if let Value::Array(all) = schema {
            all.iter_mut().for_each(close);
        }
    }
    let schema = include_str!("../docs/health.schema.json");
    let mut schema: Value = serde_json::from_str(schema).expect("JSON");
    close(&mut schema);
    let schema = jsonschema::draft202012::new(&schema).expect("a schema");
    let wrong: Vec<_> = schema.iter_errors(answer).map(|e| e.to_string()).collect();
    assert!(wrong.is_empty(), "{wrong:?} in {answer}");
}

/// A server of its own, where nobody else takes slots: 20, three of them for superusers.
async fn server() -> Postgres {
    Postgres::builder()
        .setting("max_connections", 20)
        .setting("superuser_reserved_connections", 3)
        .start()
        .await
        .expect("a server")
}

/// From PostgreSQL 16 on some can be held back for other roles, too.
#[tokio::test]
async fn slots_that_are_held_back_are_none_of_the_limit() {
    let seventeen = Installation::embedded("17").expect("PostgreSQL 17");
    let server = Postgres::builder()
        .installation(seventeen)
        .setting("max_connections", 20)
        .setting("superuser_reserved_connections", 3)
        .setting("reserved_connections", 2)
        .start()
        .await
        .expect("a server");
    server.create_role("app").await.expect("a role");
    let database = database(&server.url_for("app", "postgres"), |config| config);
    let found = details(&database).await;
    let found = &found["server"];
    assert_eq!(
        (&found["limit"], &found["reserved"]),
        (&json!(15), &json!(5))
    );
}

/// A session that somebody else has.
async fn other(url: &str) -> tokio_postgres::Client {
    let mut config: tokio_postgres::Config = url.parse().expect("a URL");
    config.application_name("other");
    let (client, connection) = config
        .connect(tokio_postgres::NoTls)
        .await
        .expect("a connection");
    tokio::spawn(connection);
    client
}

async fn others(url: &str, n: usize) -> Vec<tokio_postgres::Client> {
    join_all((0..n).map(|_| other(url))).await
}

#[tokio::test]
async fn the_details_are_the_servers_and_follow_the_schema() {
    let server = server().await;
    server.create_role("app").await.expect("a role");
    server
        .execute("alter role app connection limit 10")
        .await
        .expect("a limit");
    server
        .execute("grant pg_read_all_stats to app")
        .await
        .expect("a grant");
    let url = server.url_for("app", "postgres");
    let others = others(&url, 2).await;
    others[0]
        .batch_execute("begin; select 1")
        .await
        .expect("a transaction");

    let database = database(&url, |config| {
        config
            .max_connections(5)
            .statement_timeout(Duration::from_secs(7))
    });
    let details = details(&database).await;
    assert_eq!(details["status"], "ok");
    assert_eq!(details["database"], "connected");
    let pool = &details["postgres"];
    assert_eq!(
        (&pool["pool_size"], &pool["idle"]),
        (&json!(5), &json!(1)),
        "{pool}"
    );
    assert_eq!(pool["connection_usage"], "0/5");
    assert_eq!(pool["usage_percentage"], "0.0%");
    assert_eq!(pool["pool_full"], false);
    assert_eq!(pool["settings"]["statement_timeout_seconds"], 7.0);
    assert_eq!(pool["settings"]["path"], "direct");
    let found = &details["server"];
    assert_eq!(
        (&found["limit"], &found["reserved"]),
        (&json!(17), &json!(3))
    );
    // The lab's own way in may take a moment to leave.
    assert!(found["used"].as_u64() >= Some(3), "{found}");
    assert_eq!(found["role"], json!({"limit": 10, "used": 3}));
    assert_eq!(found["database"], Value::Null);
    assert_eq!(found["by_application"]["other"], 2);
    assert_eq!(found["by_application"]["under test"], 1);
    assert_eq!(found["by_user"]["app"], 3);
    assert_eq!(found["by_state"]["idle in transaction"], 1);
    assert_eq!(found["idle_in_transaction"], 1);
    for age in [
        "oldest_idle_in_transaction_seconds",
        "longest_transaction_seconds",
        "latency_ms",
    ] {
        assert!(found[age].as_f64().is_some_and(|age| age > 0.0), "{found}");
    }
    assert_eq!(found["timeouts"]["statement_timeout"], "7s");
    assert_eq!(found["hint"], Value::Null);
    // Nothing says where it is.
    let text = details.to_string();
    for secret in [TOKEN, "127.0.0.1", "localhost", Postgres::PASSWORD] {
        assert!(!text.contains(secret), "{secret}: {text}");
    }
}

#[tokio::test]
async fn above_the_mark_it_is_503() {
    let server = server().await;
    server.create_role("app").await.expect("a role");
    let url = server.url_for("app", "postgres");
    // With ours 12 of 17 are 71 %, and 15 are 88 %; who counted them may be there still.
    for (n, status, http) in [(11, "ok", 200), (14, "crowded", 503)] {
        let others = others(&url, n).await;
        let left = async || {
            let used = server.query("select count(*) from pg_stat_activity where usename = 'app'");
            used.await.expect("activity")[0][0] == Some(n.to_string())
        };
        eventually("the others", left).await;
        let database = database(&url, |config| config.max_connections(1));
        let answer = ask(&database, None).await;
        assert_eq!(answer.json(), json!({ "status": status }));
        assert_eq!(answer.status, http);
        let details = details(&database).await;
        assert_eq!(details["server"]["used"], n + 1);
        assert_eq!(details["database"], "connected");
        drop((others, database));
        let gone = async || {
            let used = server.query("select count(*) from pg_stat_activity where usename = 'app'");
            used.await.expect("activity")[0][0].as_deref() == Some("0")
        };
        eventually("gone", gone).await;
    }
    // Behind a pooler a connection of ours takes none of them.
    let _others = others(&url, 14).await;
    let pooled = database(&url, |config| {
        config.path(antifreeze::Path::TransactionPooler)
    });
    assert_eq!(ask(&pooled, None).await.json(), json!({"status": "ok"}));
}

async fn eventually(what: &str, condition: impl AsyncFn() -> bool) {
    let until = Instant::now() + PLENTY;
    while !condition().await {
        assert!(Instant::now() < until, "never: {what}");
        sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn who_has_not_the_token_is_told_the_status_alone() {
    let with = lab_with(easy).await;
    let without = lab_with(|config| config.crowded_at(100)).await;
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

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_calls_are_one_reading() {
    let (lab, relay) = lab_over_relay(easy).await;
    lab.run(lease_and_return()).await.expect("warm");
    relay.quiet(Duration::from_millis(50)).await;
    let before = relay.counts();
    let calls = (0..1000).map(|_| {
        let database = lab.database.clone();
        tokio::spawn(async move { ask(&database, None).await.body })
    });
    for body in join_all(calls).await {
        assert_eq!(body.expect("no panic"), r#"{"status":"ok"}"#);
    }
    let counts = relay.counts().since(before);
    // A reading is two round trips; under load all of it may take more than the 5 s.
    assert!((2..=4).contains(&counts.round_trips), "{counts:?}");
    assert_eq!(counts.connections, 0, "{counts:?}");
    lab.assert_at_rest().await;
}

#[tokio::test]
async fn a_reading_outlives_the_first_who_asked() {
    let (lab, relay) = lab_over_relay(easy).await;
    lab.run(lease_and_return()).await.expect("warm");
    relay.quiet(Duration::from_millis(50)).await;
    let before = relay.counts();
    relay.stall_down();
    let first = tokio::spawn(lab.database.health());
    eventually("asked", async || relay.counts().since(before).bytes_up > 0).await;
    let mut second = tokio::spawn(lab.database.health());
    // It has come to wait, too.
    assert!(
        timeout(Duration::from_millis(50), &mut second)
            .await
            .is_err()
    );
    first.abort();
    assert!(first.await.expect_err("aborted").is_cancelled());
    relay.resume();
    let health = second.await.expect("no panic");
    assert_eq!(
        (health.status, health.database),
        (Status::Ok, Reached::Connected)
    );
    assert!(
        health
            .server
            .is_some_and(|server| server.by_state.is_some())
    );
    assert_eq!(relay.counts().since(before).round_trips, 2);
    lab.assert_at_rest().await;
}

#[tokio::test]
async fn who_hangs_up_causes_no_other_reading() {
    let (lab, relay) = lab_over_relay(easy).await;
    lab.run(lease_and_return()).await.expect("warm");
    relay.quiet(Duration::from_millis(50)).await;
    let before = relay.counts();
    relay.stall_down();
    let only = tokio::spawn(lab.database.health());
    eventually("asked", async || relay.counts().since(before).bytes_up > 0).await;
    only.abort();
    assert!(only.await.expect_err("aborted").is_cancelled());
    relay.resume();
    // Its connection is closed: nobody is there to bring it to rest.
    let gone = async |lab: &common::Lab| lab.sessions().await.is_empty();
    lab.eventually("gone", gone).await;
    let before = relay.counts();
    for _ in 0..10 {
        let health = lab.database.health().await;
        assert_eq!(health.status_code(), 200);
        // All that is known is what was read when somebody connected.
        let server = health.server.expect("known in passing");
        assert_eq!((server.used.is_some(), server.by_state), (true, None));
    }
    assert_eq!(relay.counts().since(before).connections, 0);
}

#[tokio::test]
async fn what_a_role_may_not_see_is_unknown() {
    let server = server().await;
    server.create_role("app").await.expect("a role");
    let theirs = other(&server.url()).await;
    theirs
        .batch_execute("begin; select 1")
        .await
        .expect("a transaction");
    let url = server.url_for("app", "postgres");
    let before = details(&database(&url, |config| config)).await;
    let found = &before["server"];
    assert_eq!(before["status"], "ok");
    for unknown in [
        "idle_in_transaction",
        "oldest_idle_in_transaction_seconds",
        "longest_transaction_seconds",
    ] {
        assert_eq!(found[unknown], Value::Null, "{unknown}: {found}");
    }
    assert!(found["by_state"]["unknown"].as_u64() >= Some(1), "{found}");
    assert_eq!(found["by_application"]["other"], 1, "{found}");
    assert!(found["used"].as_u64() >= Some(2), "{found}");
    let hint = found["hint"].as_str().expect("a hint");
    let grant = &hint[hint.find("GRANT").expect("a statement")..];
    assert_eq!(grant, "GRANT pg_read_all_stats TO app");

    server.execute(grant).await.expect("as it says");
    let after = details(&database(&url, |config| config)).await;
    let found = &after["server"];
    assert_eq!(found["idle_in_transaction"], 1, "{found}");
    assert_eq!(found["by_state"]["unknown"], Value::Null, "{found}");
    assert_eq!(found["hint"], Value::Null, "{found}");
}

#[tokio::test]
async fn a_server_that_is_down_is_503_until_it_is_back() {
    let server = server().await;
    let database = database(&server.url(), |config| config);
    server.halt().await.expect("down");
    let answer = ask(&database, None).await;
    assert_eq!(answer.json(), json!({"status": "unavailable"}));
    assert_eq!(answer.status, 503);
    let found = details(&database).await;
    assert_eq!(found["database"], "refused");
    assert_eq!(found["server"], Value::Null);

    // What else fails opens the circuit, and health does not wait for the next try.
    let open = async || {
        let failed = database.invocation(PLENTY, lease_and_return()).await;
        failed.expect_err("down");
        !details(&database).await["postgres"]["circuit"].is_null()
    };
    eventually("the circuit opens", open).await;
    assert_eq!(details(&database).await["status"], "unavailable");

    // Nobody else asks from here on: the health check itself finds out.
    server.restart().await.expect("back");
    let back = async || ask(&database, None).await.status == 200;
    eventually("back", back).await;
    let found = details(&database).await;
    assert_eq!(
        (&found["status"], &found["database"]),
        (&json!("ok"), &json!("connected"))
    );
    assert_eq!(found["postgres"]["circuit"], Value::Null);
}

#[tokio::test]
async fn a_full_pool_is_told_and_not_waited_for() {
    for size in [1, 2] {
        let lab = lab_with(|config| easy(config).max_connections(size)).await;
        lab.run(async {
            let mut held = Vec::new();
            for _ in 0..size {
                held.push(connection().await?);
            }
            let health = lab.database.health();
            let health = timeout(Duration::from_secs(1), health).await?;
            assert_eq!(health.status_code(), 200);
            let pool = &health.postgres;
            assert_eq!((pool.checked_out, pool.pool_full), (size, true));
            assert_eq!(pool.warning.is_some(), size > 1);
            assert_ne!(health.database, Reached::Failed(ErrorKind::AcquireTimeout));
            assert!(health.server.is_none_or(|server| server.by_state.is_none()));
            Ok::<_, BoxError>(())
        })
        .await
        .expect("fine");
        // With a connection to be had it is asked.
        let health = lab.database.health().await;
        assert!(
            health
                .server
                .is_some_and(|server| server.by_state.is_some())
        );
    }
}

/// Supavisor's words, in session mode.
#[tokio::test]
async fn the_size_that_a_pooler_names_is_shown() {
    for (message, expected) in [
        (
            "(EMAXCONNSESSION) max clients are limited to pool_size: 15",
            json!(15),
        ),
        ("MaxClientsInSessionMode: max clients reached", Value::Null),
    ] {
        let address = says("XX000", message).await;
        let url = format!("postgres://app@{address}/shop?sslmode=disable");
        let database = database(&url, |config| config.path(antifreeze::Path::SessionPooler));
        let found = details(&database).await;
        assert_eq!(found["status"], "unavailable", "{found}");
        assert_eq!(found["database"], "too_many_connections");
        let process = &found["postgres"];
        assert_eq!(process["pooler_pool_size"], expected, "{process}");
        assert_eq!(process["circuit"]["kind"], "too_many_connections");
    }
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
async fn the_layer_answers_on_this_path_alone() {
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
    // Unless it is asked for there is none.
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
async fn an_axum_router_takes_it_as_a_route() {
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
async fn lambda_http_with_and_without_a_stage() {
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
async fn vercels_pair_of_state_and_request() {
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
fn a_token_that_is_none_is_an_error() {
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

#[test]
fn the_example_of_the_page_follows_the_schema() {
    let page = include_str!("../docs/health.md");
    let example = page.split("```json").nth(1).expect("an example");
    let example = example.split("```").next().expect("its end");
    assert_follows_schema(&serde_json::from_str(example).expect("JSON"));
}

/// One that is under way on another runtime is waited for, and not polled.
#[test]
fn a_reading_of_another_runtime_is_waited_for() {
    let mut elsewhere = tokio::runtime::Builder::new_multi_thread();
    let elsewhere = elsewhere.worker_threads(1).enable_all().build();
    let elsewhere = elsewhere.expect("a runtime");
    let mut here = tokio::runtime::Builder::new_current_thread();
    let here = here.enable_all().build().expect("a runtime");
    let (lab, relay) = elsewhere.block_on(async {
        let (lab, relay) = lab_over_relay(easy).await;
        lab.run(lease_and_return()).await.expect("warm");
        relay.quiet(Duration::from_millis(50)).await;
        (lab, relay)
    });
    let before = relay.counts();
    relay.stall_down();
    let theirs = elsewhere.spawn(lab.database.health());
    here.block_on(async {
        eventually("asked", async || relay.counts().since(before).bytes_up > 0).await;
        let mut ours = tokio::spawn(lab.database.health());
        let early = timeout(Duration::from_millis(50), &mut ours).await;
        assert!(early.is_err(), "{early:?}");
        relay.resume();
        for health in [ours.await, theirs.await] {
            let health = health.expect("no panic");
            assert_eq!(health.database, Reached::Connected);
            assert!(
                health
                    .server
                    .is_some_and(|server| server.by_state.is_some())
            );
        }
        let counts = relay.counts().since(before);
        assert_eq!((counts.round_trips, counts.connections), (2, 0));
    });
}

/// Each runtime has its own pool; what one has read is known to all.
#[test]
fn another_runtime_shares_the_reading() {
    let runtime = || {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        builder.enable_all().build().expect("a runtime")
    };
    let (first, second) = (runtime(), runtime());
    let lab = first.block_on(async { lab_with(easy).await });
    let server = first.block_on(lab.database.health()).server;
    assert!(server.is_some_and(|server| server.by_state.is_some()));
    let health = second.block_on(lab.database.health());
    assert_eq!(health.status, Status::Ok);
    assert_eq!((health.postgres.idle, health.postgres.checked_out), (0, 0));
    assert!(
        health
            .server
            .is_some_and(|server| server.by_state.is_some())
    );
    first.block_on(lab.assert_at_rest());
}

/// Which migrations the database has not seen, as a role of the function's tells it.
#[cfg(feature = "migrate")]
#[tokio::test]
async fn pending_migrations_are_named() {
    use antifreeze::migrate::Migrations;

    let server = server().await;
    server.create_role("app").await.expect("a role");
    let files = [
        ("V1__create_partners", "create table partners (id int)"),
        ("V2__add_name", "alter table partners add column name text"),
    ];
    let some = |n: usize| Migrations::embedded(files[..n].iter().copied()).expect("migrations");
    let owner = database(&server.url(), |config| config);
    let url = server.url_for("app", "postgres");
    let seen = async || {
        let database = database(&url, easy).expect_migrations(some(2));
        let details = details(&database).await;
        assert_eq!(
            (&details["status"], &details["database"]),
            (&json!("ok"), &json!("connected"))
        );
        details["server"]["migrations"].clone()
    };
    let pending = |names: &[&str]| json!({"pending": names.len(), "names": names, "unknown": null});

    assert_eq!(details(&owner).await["server"]["migrations"], Value::Null);
    // No history: nothing was run.
    assert_eq!(
        seen().await,
        pending(&["V1__create_partners", "V2__add_name"])
    );

    let _ = some(1).runner(&owner).run().await.expect("it runs");
    let hidden = async |grants: &str| {
        let found = seen().await;
        assert_eq!(
            (&found["pending"], &found["names"]),
            (&Value::Null, &Value::Null)
        );
        let unknown = found["unknown"].as_str().expect("a reason").to_owned();
        let (_, told) = unknown.split_once("see: ").expect("a remedy");
        assert_eq!(told, grants);
        told.to_owned()
    };
    let select = "GRANT SELECT ON public.refinery_schema_history TO app";
    let _ = hidden(select).await;
    server
        .execute("revoke all on schema public from public")
        .await
        .expect("revoked");
    let both = format!("GRANT USAGE ON SCHEMA public TO app; {select}");
    server
        .execute(&hidden(&both).await)
        .await
        .expect("as it says");
    assert_eq!(seen().await, pending(&["V2__add_name"]));

    // Nobody waits for a lock of whoever works on the history.
    let working = other(&server.url()).await;
    let lock = "begin; lock table refinery_schema_history";
    working.batch_execute(lock).await.expect("locked");
    let found = seen().await;
    assert_eq!(found["pending"], Value::Null);
    assert!(found["unknown"].is_string(), "{found}");
    working.batch_execute("rollback").await.expect("done");

    let _ = some(2).runner(&owner).run().await.expect("it runs");
    assert_eq!(seen().await, pending(&[]));
}
