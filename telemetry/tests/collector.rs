//! Receives what the example sends by OTLP: names, attributes, parents; before the response.
//!
//! In one process with one global subscriber and recorder, so it is one test.

#[path = "../examples/otlp.rs"]
#[allow(dead_code)]
mod otlp;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use antifreeze::Database;
use antifreeze::internal::METRICS;
use axum::Router;
use axum::routing::post;
use bytes::Bytes;
use lab::postgres::Postgres;
use lambda_http::{Body, Request};
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::{KeyValue, any_value::Value};
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message;
use tower::ServiceExt;

/// What a collector has received.
#[derive(Clone, Default)]
struct Received {
    spans: Arc<Mutex<Vec<Span>>>,
    /// Metrics, as they are encoded: each has its name and its attributes.
    metrics: Arc<Mutex<BTreeMap<String, String>>>,
    all: Arc<Mutex<Vec<u8>>>,
}

impl Received {
    /// Listens; returns its endpoint.
    async fn listen(&self) -> String {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
            .await
            .expect("a port");
        let address = listener.local_addr().expect("an address");
        let (traces, metrics) = (self.clone(), self.clone());
        let router = Router::new()
            .route(
                "/v1/traces",
                post(async move |body: Bytes| traces.traces(&body)),
            )
            .route(
                "/v1/metrics",
                post(async move |body: Bytes| metrics.metrics(&body)),
            );
        tokio::spawn(async move { axum::serve(listener, router).await });
        format!("http://{address}")
    }

    fn traces(&self, body: &Bytes) {
        self.all.lock().expect("no panic").extend_from_slice(body);
        let request = ExportTraceServiceRequest::decode(body.clone()).expect("OTLP");
        let scopes = request
            .resource_spans
            .into_iter()
            .flat_map(|one| one.scope_spans);
        let spans = scopes.flat_map(|scope| scope.spans);
        self.spans.lock().expect("no panic").extend(spans);
    }

    fn metrics(&self, body: &Bytes) {
        self.all.lock().expect("no panic").extend_from_slice(body);
        let request = ExportMetricsServiceRequest::decode(body.clone()).expect("OTLP");
        let scopes = request
            .resource_metrics
            .into_iter()
            .flat_map(|one| one.scope_metrics);
        let mut metrics = self.metrics.lock().expect("no panic");
        for metric in scopes.flat_map(|scope| scope.metrics) {
            metrics.insert(metric.name.clone(), format!("{metric:?}"));
        }
    }

    fn has(&self, name: &str) -> bool {
        let spans = self.spans.lock().expect("no panic");
        spans.iter().any(|span| span.name == name)
    }

    /// They are sent after the spans.
    fn has_metrics(&self) -> bool {
        !self.metrics.lock().expect("no panic").is_empty()
    }

    #[track_caller]
    fn span(&self, name: &str) -> Span {
        let spans = self.spans.lock().expect("no panic");
        let found = spans.iter().find(|span| span.name == name);
        let names: Vec<_> = spans.iter().map(|span| &span.name).collect();
        found
            .unwrap_or_else(|| panic!("{name} is not among {names:?}"))
            .clone()
    }
}

fn attributes(of: &[KeyValue]) -> BTreeMap<&str, String> {
    let text = |value: &KeyValue| match value.value.as_ref()?.value.as_ref()? {
        Value::StringValue(text) => Some(text.clone()),
        Value::IntValue(number) => Some(number.to_string()),
        Value::BoolValue(is) => Some(is.to_string()),
        _ => None,
    };
    of.iter()
        .filter_map(|one| Some((one.key.as_str(), text(one)?)))
        .collect()
}

/// It flushes on a thread of its own, and the receiver answers on this runtime.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn collector_receives_spans_and_metrics_before_the_response() {
    let server = Postgres::shared().await.expect("a server");
    let server = server.fresh_database().await.expect("a database");
    server
        .execute("create table partners (name text)")
        .await
        .expect("a table");
    let received = Received::default();
    let endpoint = received.listen().await;
    let telemetry = otlp::Telemetry::to(&endpoint).expect("exporters");
    let database = Database::from_url(&server.url).expect("a URL");
    let service = otlp::service(database, telemetry);
    // A flush has half a second: on a busy machine the first may be cut off.
    for _ in 0..10 {
        let request = Request::new(Body::Empty);
        let response = service.clone().oneshot(request).await;
        assert_eq!(response.expect("a response").status(), 200);
        if received.has("invocation") && received.has_metrics() {
            break;
        }
    }

    // What was not sent by now would have waited for the next thaw.
    let invocation = received.span("invocation");
    let checkout = received.span("checkout");
    let connect = received.span("connect");
    assert!(invocation.parent_span_id.is_empty());
    assert_eq!(checkout.parent_span_id, invocation.span_id);
    assert_eq!(connect.parent_span_id, checkout.span_id);
    for phase in ["resolve", "dial", "encrypt", "authenticate"] {
        assert_eq!(
            received.span(phase).parent_span_id,
            connect.span_id,
            "{phase}"
        );
    }
    // SPAN_KIND_CLIENT.
    assert_eq!(connect.kind, 3);
    let found = attributes(&connect.attributes);
    assert_eq!(found["db.system.name"], "postgresql");
    assert_eq!(found["server.address"], "127.0.0.1");
    assert!(found.contains_key("server.port") && found.contains_key("db.namespace"));
    assert_eq!(
        attributes(&checkout.attributes)["antifreeze.checkout"],
        "opened"
    );

    let metrics = received.metrics.lock().expect("no panic").clone();
    for name in [
        "db.client.connection.count",
        "db.client.connection.max",
        "db.client.connection.create_time",
        "db.client.connection.wait_time",
        "db.client.connection.use_time",
        "antifreeze.teardowns",
        "antifreeze.slots.used",
    ] {
        let metric = metrics.get(name);
        let metric = metric.unwrap_or_else(|| panic!("{name} is not among {:?}", metrics.keys()));
        assert!(
            metric.contains("db.client.connection.pool.name"),
            "{metric}"
        );
    }
    for name in metrics.keys() {
        assert!(
            METRICS.iter().any(|metric| metric.name == name),
            "{name} is in the table"
        );
    }
}
