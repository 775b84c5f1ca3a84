//! Spans: what they are called, what they say, and inside which they are.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use antifreeze::{connection, invocation, transaction};
use tracing::Subscriber;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::subscriber::DefaultGuard;
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tracing_subscriber::registry::LookupSpan;

use crate::common::{BoxError, lab, lab_with, lease_and_return};

/// A span that was closed.
#[derive(Debug, Clone, Default)]
pub struct Span {
    name: &'static str,
    /// The names of the spans around it, the outermost first.
    inside: Vec<&'static str>,
    fields: BTreeMap<&'static str, String>,
}

#[derive(Default)]
struct Fields(BTreeMap<&'static str, String>);

impl Visit for Fields {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.0.insert(field.name(), value.to_owned());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.0.insert(field.name(), format!("{value:?}"));
    }
}

#[derive(Clone, Default)]
pub struct Closed(Arc<Mutex<Vec<Span>>>);

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Closed {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let mut fields = Fields::default();
        attributes.record(&mut fields);
        let span = context.span(id).expect("it is new");
        span.extensions_mut().insert(fields);
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, S>) {
        let span = context.span(id).expect("it is open");
        if let Some(fields) = span.extensions_mut().get_mut::<Fields>() {
            values.record(fields);
        }
    }

    fn on_close(&self, id: Id, context: Context<'_, S>) {
        let span = context.span(&id).expect("it is closed now");
        let inside = span.scope().from_root().map(|span| span.name());
        let mut inside: Vec<_> = inside.collect();
        inside.pop();
        let fields = span
            .extensions_mut()
            .remove::<Fields>()
            .unwrap_or_default()
            .0;
        self.0.lock().expect("no panic").push(Span {
            name: span.name(),
            inside,
            fields,
        });
    }
}

impl Closed {
    fn start() -> (Self, DefaultGuard) {
        let closed = Closed::default();
        let subscriber = tracing_subscriber::registry().with(closed.clone());
        (closed, tracing::subscriber::set_default(subscriber))
    }

    pub fn take(&self) -> Vec<Span> {
        std::mem::take(&mut self.0.lock().expect("no panic"))
    }
}

#[track_caller]
fn only<'a>(spans: &'a [Span], name: &str) -> &'a Span {
    let found: Vec<_> = spans.iter().filter(|span| span.name == name).collect();
    let [one] = found.as_slice() else {
        panic!("one {name}: {spans:#?}");
    };
    one
}

#[tokio::test]
async fn first_invocation_has_a_span_for_each_phase() {
    let lab = lab().await;
    let (closed, _guard) = Closed::start();
    lab.run(async {
        connection().await?.batch_execute("select 1").await?;
        Ok(())
    })
    .await
    .expect("fine");
    let spans = closed.take();
    assert!(only(&spans, "invocation").inside.is_empty());
    let checkout = only(&spans, "checkout");
    assert_eq!(checkout.inside, ["invocation"]);
    assert_eq!(checkout.fields["antifreeze.checkout"], "opened");
    let connect = only(&spans, "connect");
    assert_eq!(connect.inside, ["invocation", "checkout"]);
    let url = lab.server.url.clone();
    let config: tokio_postgres::Config = url.parse().expect("a URL");
    let expected = [
        ("db.system.name", "postgresql".to_owned()),
        ("otel.kind", "client".to_owned()),
        (
            "db.namespace",
            config.get_dbname().expect("a name").to_owned(),
        ),
        ("server.port", config.get_ports()[0].to_string()),
        ("server.address", "127.0.0.1".to_owned()),
    ];
    assert_eq!(connect.fields, BTreeMap::from(expected));
    for phase in ["resolve", "dial", "encrypt", "authenticate"] {
        let span = only(&spans, phase);
        assert_eq!(span.inside, ["invocation", "checkout", "connect"]);
    }
    let pool = &checkout.fields["db.client.connection.pool.name"];
    let name = config.get_dbname().expect("a name");
    assert_eq!(*pool, format!("127.0.0.1:{}/{name}", config.get_ports()[0]));
}

/// It has no checkout and no teardown, since nothing was done.
#[tokio::test]
async fn warm_invocation_is_one_span() {
    let lab = lab().await;
    let select = async || {
        let work = async {
            connection().await?.batch_execute("select 1").await?;
            Ok(())
        };
        lab.run(work).await.expect("fine");
    };
    select().await;
    let (closed, _guard) = Closed::start();
    select().await;
    let spans = closed.take();
    assert_eq!(spans.len(), 1, "{spans:#?}");
    assert_eq!(spans[0].name, "invocation");
}

#[tokio::test]
async fn transaction_has_its_outcome() {
    let lab = lab().await;
    let (closed, _guard) = Closed::start();
    let insert = async |fails: bool| {
        let work = async {
            let transaction = transaction().await?;
            transaction.execute("insert into t values (1)", &[]).await?;
            if fails { Err("no".into()) } else { Ok(()) }
        };
        let done: Result<(), BoxError> = lab.run(work).await;
        assert_eq!(done.is_err(), fails);
        closed.take()
    };
    let spans = insert(false).await;
    let committed = only(&spans, "transaction");
    assert_eq!(committed.inside, ["invocation"]);
    assert_eq!(committed.fields["antifreeze.outcome"], "committed");
    assert_eq!(only(&spans, "commit").inside, ["invocation", "transaction"]);
    let spans = insert(true).await;
    let rolled_back = only(&spans, "transaction");
    assert_eq!(rolled_back.fields["antifreeze.outcome"], "rolled back");
    let teardown = only(&spans, "teardown");
    assert_eq!(teardown.inside, ["invocation"]);
    assert_eq!(teardown.fields["antifreeze.outcome"], "rolled back");
    assert!(!teardown.fields.contains_key("antifreeze.left_open_at"));
}

#[tokio::test]
async fn unused_transaction_was_not_begun() {
    let lab = lab().await;
    let (closed, _guard) = Closed::start();
    for fails in [false, true] {
        let work = async {
            let _unused = transaction().await?;
            if fails { Err("no".into()) } else { Ok(()) }
        };
        let done: Result<(), BoxError> = lab.run(work).await;
        assert_eq!(done.is_err(), fails);
        let spans = closed.take();
        let unused = only(&spans, "transaction");
        assert_eq!(unused.fields["antifreeze.outcome"], "not begun");
        assert!(!spans.iter().any(|span| span.name == "commit"), "{spans:?}");
    }
}

#[tokio::test]
async fn failed_commit_has_the_sqlstate() {
    let lab = lab().await;
    lab.server
        .execute("create table u (a int unique deferrable initially deferred)")
        .await
        .expect("a table");
    let (closed, _guard) = Closed::start();
    let work = async {
        let transaction = transaction().await?;
        transaction
            .execute("insert into u values (1), (1)", &[])
            .await?;
        Ok(())
    };
    lab.run(work).await.expect_err("they are the same");
    let spans = closed.take();
    for name in ["commit", "transaction"] {
        let fields = &only(&spans, name).fields;
        assert_eq!(fields["db.response.status_code"], "23505", "{name}");
        assert_eq!(fields["otel.status_code"], "ERROR");
    }
}

#[tokio::test]
async fn teardown_says_what_it_took_and_where() {
    let lab = lab().await;
    lab.run(lease_and_return()).await.expect("warm");
    let (closed, _guard) = Closed::start();
    lab.run(async {
        connection().await?.batch_execute("begin").await?;
        Ok(())
    })
    .await
    .expect("fine");
    let spans = closed.take();
    let teardown = only(&spans, "teardown");
    assert_eq!(teardown.inside, ["invocation"]);
    assert_eq!(teardown.fields["antifreeze.outcome"], "rolled back");
    assert_eq!(teardown.fields["antifreeze.kept"], "true");
    assert_eq!(teardown.fields["antifreeze.round_trips"], "1");
    let place = &teardown.fields["antifreeze.left_open_at"];
    assert!(
        place.starts_with("tests/observability/spans.rs:"),
        "{place}"
    );
}

/// So that an exporter that is flushed there sends it before the freeze.
#[tokio::test]
async fn invocation_is_closed_before_the_last_hooks() {
    let lab = lab().await;
    let (closed, _guard) = Closed::start();
    for begins in [false, true] {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (sink, source) = (Arc::clone(&seen), closed.clone());
        lab.run(async move {
            // It does not yield before it looks.
            let hook = async move { sink.lock().expect("no panic").extend(source.take()) };
            invocation()?.after(hook);
            let connection = connection().await?;
            if begins {
                connection.batch_execute("begin").await?;
            }
            Ok(())
        })
        .await
        .expect("fine");
        let seen = seen.lock().expect("no panic").clone();
        only(&seen, "invocation");
        assert_eq!(
            begins,
            seen.iter().any(|span| span.name == "teardown"
                && span.fields["antifreeze.outcome"] == "rolled back")
        );
        assert!(closed.take().is_empty(), "nothing is left for later");
    }
}

#[tokio::test]
async fn checkout_that_waits_says_so() {
    let lab = lab_with(|config| {
        config
            .max_connections(1)
            .acquire_timeout(Duration::from_millis(20))
    })
    .await;
    let (closed, _guard) = Closed::start();
    lab.run(async {
        let first = connection().await?;
        connection().await.expect_err("there is but one");
        drop(first);
        Ok(())
    })
    .await
    .expect("fine");
    let spans = closed.take();
    let waited = spans
        .iter()
        .find(|span| span.fields.get("antifreeze.waited").map(String::as_str) == Some("true"));
    let waited = waited.expect("one has waited");
    assert_eq!(waited.name, "checkout");
    assert_eq!(waited.fields["error.type"], "pool_self_deadlock");
}

#[tokio::test]
async fn refused_connect_has_the_kind_alone() {
    let config =
        antifreeze::Config::from_url("postgres://u:hunter2@127.0.0.1:1/none?sslmode=disable");
    let config = config
        .expect("a URL")
        .connect_timeout(Duration::from_secs(2));
    let database = antifreeze::Database::new(config).expect("settings");
    let (closed, _guard) = Closed::start();
    let work = database.invocation(Duration::from_secs(20), lease_and_return());
    work.await.expect_err("nothing listens");
    let spans = closed.take();
    let connect = only(&spans[..], "connect");
    assert_eq!(connect.fields["error.type"], "refused");
    assert_eq!(connect.fields["otel.status_code"], "ERROR");
    assert!(!format!("{spans:?}").contains("hunter2"));
}

#[tokio::test]
async fn warm_up_and_shutdown_have_spans() {
    let lab = lab_with(|config| config.max_connections(2)).await;
    let (closed, _guard) = Closed::start();
    lab.database.warm_up().await.expect("fine");
    let spans = closed.take();
    assert_eq!(
        only(&spans, "warm_up").fields["antifreeze.connections"],
        "2"
    );
    let connects = spans.iter().filter(|span| span.name == "connect");
    assert!(connects.clone().all(|span| span.inside == ["warm_up"]));
    assert_eq!(connects.count(), 2);
    lab.database.close().await;
    let spans = closed.take();
    assert_eq!(
        only(&spans, "shutdown").fields["antifreeze.connections"],
        "2"
    );
}
