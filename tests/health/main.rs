//! The health report: its content, access to it, and its cost.

mod access;
#[path = "../common/mod.rs"]
mod common;
mod figures;
mod sharing;

use antifreeze::health::{Reachability, Status};
use antifreeze::layer::HealthService;
use antifreeze::{Config, Database, DatabaseLayer, ErrorKind, connection};
use bytes::Bytes;
use common::{BoxError, PLENTY, lab_over_relay, lab_with, lease_and_return, refusing_server};
use futures_util::FutureExt;
use futures_util::future::join_all;
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Empty};
use lab::postgres::{Installation, Postgres};
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout};
use tower::{Layer, Service, ServiceExt};

const TOKEN: &str = "hunter2-hunter2-hunter2";

/// Nothing is ever above this mark: others are on the shared server, too.
fn easy(config: Config) -> Config {
    config.high_water_mark(100).health_token(TOKEN)
}

fn database(url: &str, change: impl FnOnce(Config) -> Config) -> Database {
    let mut config = Config::from_url(url)
        .expect("a URL")
        .application_name("under test")
        .health_token(TOKEN);
    config = change(config);
    Database::new(config).expect("settings")
}

/// A request with this token.
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

/// The report for a caller with the token, which follows the schema.
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
    let schema = include_str!("../../docs/health.schema.json");
    let mut schema: Value = serde_json::from_str(schema).expect("JSON");
    close(&mut schema);
    let schema = jsonschema::draft202012::new(&schema).expect("a schema");
    let wrong: Vec<_> = schema.iter_errors(answer).map(|e| e.to_string()).collect();
    assert!(wrong.is_empty(), "{wrong:?} in {answer}");
}

/// A separate server, on which no other test takes slots: 20, three of them for superusers.
async fn server() -> Postgres {
    Postgres::builder()
        .setting("max_connections", 20)
        .setting("superuser_reserved_connections", 3)
        .start()
        .await
        .expect("a server")
}

async fn eventually(what: &str, condition: impl AsyncFn() -> bool) {
    let until = Instant::now() + PLENTY;
    while !condition().await {
        assert!(Instant::now() < until, "never: {what}");
        sleep(Duration::from_millis(20)).await;
    }
}
