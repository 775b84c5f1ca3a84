//! The functions in `api/` as Vercel gets them: what would be uploaded, built by its own
//! builder, and the executables run as its host runs them.

#[path = "../common/mod.rs"]
mod common;

mod build;
mod shop;

use std::time::{Duration, Instant};

use common::checkout;
use serde_json::{Value, json};
use shop::{MAX_DURATION, Shop};

#[tokio::test]
async fn build_output_matches_vercel_json() {
    let output = tokio::task::spawn_blocking(build::output)
        .await
        .expect("it is built");
    let asked = build::json(&checkout::root().join("vercel.json"));
    assert_eq!(output.functions(), ["partners.func", "rest.func"]);
    for function in ["partners", "rest"] {
        let config = output.config(function);
        let asked = &asked["functions"]["api/**/*.rs"];
        for name in ["maxDuration", "memory"] {
            assert_eq!(config[name], asked[name], "{name} of {function}");
        }
        assert_eq!(config["maxDuration"], MAX_DURATION.as_secs());
        assert_eq!(config["runtimeLanguage"], "rust");
        assert_eq!(config["supportsResponseStreaming"], true);
    }
    assert!(asked["regions"].is_array(), "{asked}");
    // No source among them.
    assert_eq!(output.pages(), ["index.html"]);
    let routes = output.routes();
    let routes = routes.as_array().expect("routes");
    let router = routes.iter().find(|route| route["dest"] == "/api/rest");
    let source = router.expect("a route")["src"].as_str();
    assert_eq!(source, Some("^/api/rest(?:/(.*))$"));
}

#[tokio::test]
async fn plain_function_stores_and_counts() {
    let shop = Shop::open("partners").await;
    for (method, body, status) in [
        ("POST", "acme", 201),
        ("POST", "acme", 409),
        ("POST", "", 422),
        ("POST", &*"x".repeat(500), 413),
        ("DELETE", "", 405),
        ("POST", "umbrella", 201),
    ] {
        let response = shop.ask(method, "/api/partners", body).await;
        assert_eq!(response.status(), status, "{response:?}");
        shop.nothing_is_left().await;
    }
    let response = shop.ask("GET", "/api/partners", "").await;
    let said: Value = serde_json::from_slice(response.body()).expect("JSON");
    assert_eq!(said, json!({ "partners": 2 }));
    // Warm-up has opened them, and they are kept.
    assert_eq!(shop.states().await, ["idle"; 3]);
}

#[tokio::test]
async fn axum_router_stores_and_lists() {
    let shop = Shop::open("rest").await;
    for (method, path, status) in [
        ("POST", "/api/rest/partners/acme", 201),
        ("POST", "/api/rest/partners/acme", 409),
        ("POST", "/api/rest/partners/umbrella", 201),
        ("GET", "/api/rest/nothing", 404),
    ] {
        let response = shop.ask(method, path, "").await;
        assert_eq!(response.status(), status, "{response:?}");
        shop.nothing_is_left().await;
    }
    let response = shop.ask("GET", "/api/rest/partners", "").await;
    let said: Value = serde_json::from_slice(response.body()).expect("JSON");
    assert_eq!(said, json!(["acme", "umbrella"]));
    shop.nothing_is_left().await;
}

/// More than it has connections: some wait for the others.
#[tokio::test]
async fn one_process_serves_many_at_once() {
    let shop = Shop::open("partners").await;
    let lock = shop.locked().await;
    let names = ["a", "b", "c", "d", "e", "f"];
    let requests = names.map(|name| shop.request("POST", "/api/partners", name));
    let release = async {
        shop.waiting(3).await;
        lock.batch_execute("commit").await.expect("released");
    };
    let (outcomes, ()) =
        futures_util::future::join(futures_util::future::join_all(requests), release).await;
    for outcome in outcomes {
        assert!(outcome.ended.is_some(), "{outcome:?}");
        assert_eq!(outcome.response.expect("a response").status(), 201);
    }
    shop.deployment.frozen().await.expect("frozen");
    shop.nothing_is_left().await;
    assert_eq!(shop.partners().await, "6");
}

/// The handler panics over an answer that is not of the type that it reads.
#[tokio::test]
async fn panic_is_answered_and_stores_nothing() {
    let narrow = include_str!("../../../api/schema.sql").replace("id bigint", "id integer");
    let shop = Shop::with_schema("partners", &narrow).await;
    let pid = shop.deployment.pid();
    let response = shop.ask("POST", "/api/partners", "acme").await;
    assert_eq!(response.status(), 500);
    assert_eq!(
        response.headers()["content-type"],
        "application/problem+json"
    );
    let logged = tokio::time::timeout(MAX_DURATION, shop.deployment.logged("panicked"));
    logged.await.expect("in time").expect("it is logged");
    shop.nothing_is_left().await;
    assert_eq!(shop.partners().await, "0");
    let wide = "alter table partners alter column id type bigint";
    shop.database.execute(wide).await.expect("no lock is left");
    let response = shop.ask("POST", "/api/partners", "acme").await;
    assert_eq!(response.status(), 201, "{response:?}");
    assert_eq!(shop.deployment.pid(), pid);
}

#[tokio::test]
async fn sigterm_lets_a_request_end() {
    let shop = Shop::open("partners").await;
    let lock = shop.locked().await;
    let asking = shop.request("POST", "/api/partners", "acme");
    let ending = async {
        shop.waiting(1).await;
        let deployment = shop.deployment.clone();
        let exit = tokio::spawn(async move { deployment.terminate().await });
        // It goes on. That can only be seen by waiting.
        let ended = tokio::time::timeout(Duration::from_millis(500), shop.deployment.ended());
        ended.await.expect_err("it waits for its request");
        lock.batch_execute("commit").await.expect("released");
        exit.await.expect("an end")
    };
    let (outcome, exit) = futures_util::future::join(asking, ending).await;
    assert!(!exit.killed && exit.status.code() == Some(0), "{exit:?}");
    assert_eq!(outcome.response.expect("a response").status(), 201);
    assert_eq!(shop.partners().await, "1");
    // The server had said so before it ended.
    assert!(shop.states().await.is_empty());
}

/// The body reads on behind its head: `end`, upon which the process may be frozen, comes
/// once it is complete and the connection is at rest.
#[tokio::test]
async fn streamed_body_delays_the_end() {
    // By the index, so that rows are made and sent one after the other.
    let slow = "create function slow(id bigint) returns text stable language plpgsql as $$ begin \
                  if id = 900 then perform pg_advisory_xact_lock(1); end if; \
                  return repeat('x', 100) || id; \
                end $$; \
                create table numbers (id bigint primary key); \
                insert into numbers select generate_series(1, 1000); \
                create view partners as select id, slow(id) as name from numbers; \
                do $$ begin \
                  execute format('alter database %I set enable_sort = off', current_database()); \
                end $$";
    let shop = Shop::with_schema("rest", slow).await;
    let url = format!("{}?application_name=administrator", shop.database.url);
    let lock = common::connect(&url).await.expect("a connection");
    lock.batch_execute("select pg_advisory_lock(1)")
        .await
        .expect("a lock");
    let asking = shop.request("GET", "/api/rest/partners", "");
    let release = async {
        shop.waiting(1).await;
        assert!(!shop.deployment.is_frozen());
        let released = Instant::now();
        lock.batch_execute("select pg_advisory_unlock(1)")
            .await
            .expect("released");
        released
    };
    let (outcome, released) = futures_util::future::join(asking, release).await;
    let ended = outcome.started + outcome.ended.expect("an end");
    assert!(ended > released, "the host was told before");
    shop.deployment.frozen().await.expect("frozen");
    let response = outcome.response.expect("a response");
    assert_eq!(response.headers()["transfer-encoding"], "chunked");
    let names: Vec<String> = serde_json::from_slice(response.body()).expect("all of it");
    assert_eq!(names.len(), 1000);
    assert_eq!(shop.states().await, ["idle"; 3]);
}

/// `maxDuration` is not told to the process; the function knows it, and is faster.
#[tokio::test]
async fn deadline_is_met_with_an_answer() {
    // A busy machine may take what is left at the deadline, but not each time.
    let mut tries = Vec::new();
    while let Err(late) = deadline_is_met().await {
        tries.push(late);
        assert!(tries.len() < 3, "{tries:?}");
    }
}

async fn deadline_is_met() -> Result<(), String> {
    let shop = Shop::open("partners").await;
    let lock = shop.locked().await;
    let response = shop.ask("POST", "/api/partners", "acme").await;
    assert_eq!(response.status(), 504, "{response:?}");
    let said: Value = serde_json::from_slice(response.body()).expect("JSON");
    assert_eq!(said["kind"], "deadline");
    // Not even a statement that waits for the lock.
    let states = shop.states().await;
    if states.iter().any(|state| state != "idle") {
        return Err(format!("{states:?}"));
    }
    lock.batch_execute("commit").await.expect("released");
    assert_eq!(shop.partners().await, "0");
    Ok(())
}
