//! Metrics: their names, values and labels.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use antifreeze::internal::{Kind, METRICS};
use antifreeze::{connection, transaction};
use lab::postgres::Postgres;
use metrics::{
    Counter, CounterFn, Gauge, GaugeFn, Histogram, HistogramFn, Key, KeyName, LocalRecorderGuard,
    Metadata, Recorder, SharedString, Unit,
};

use crate::common::{BoxError, Lab, PLENTY, lab, lab_with, lease_and_return};

/// A metric's value, or the values of a histogram.
#[derive(Debug, Default)]
struct Cell {
    value: AtomicU64,
    values: Mutex<Vec<f64>>,
}

impl Cell {
    fn change(&self, change: impl Fn(f64) -> f64) {
        let change = |bits| Some(change(f64::from_bits(bits)).to_bits());
        let _ = self
            .value
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, change);
    }
}

impl CounterFn for Cell {
    fn increment(&self, by: u64) {
        self.change(|value| value + by as f64);
    }

    fn absolute(&self, _: u64) {
        unreachable!("nothing counts absolutely");
    }
}

impl GaugeFn for Cell {
    fn increment(&self, by: f64) {
        self.change(|value| value + by);
    }

    fn decrement(&self, by: f64) {
        self.change(|value| value - by);
    }

    fn set(&self, to: f64) {
        self.change(|_| to);
    }
}

impl HistogramFn for Cell {
    fn record(&self, value: f64) {
        self.values.lock().expect("no panic").push(value);
    }
}

/// What a metric is said to be.
type Description = (Kind, Option<Unit>, String);

/// What was recorded, by name and labels without that of the pool.
#[derive(Debug, Default)]
pub struct Recorded {
    cells: Mutex<BTreeMap<String, Arc<Cell>>>,
    keys: Mutex<Vec<(Kind, Key)>>,
    described: Mutex<BTreeMap<String, Description>>,
}

impl Recorded {
    /// Records on this thread, on which the whole of a test runs.
    pub fn start() -> (Arc<Self>, LocalRecorderGuard<'static>) {
        let recorded = Arc::new(Recorded::default());
        let leaked: &'static Arc<Self> = Box::leak(Box::new(Arc::clone(&recorded)));
        (recorded, metrics::set_default_local_recorder(leaked))
    }

    fn cell(&self, kind: Kind, key: &Key) -> Arc<Cell> {
        self.keys
            .lock()
            .expect("no panic")
            .push((kind, key.clone()));
        let own = key.labels().filter(|label| label.key() != POOL);
        let labels = own.map(|label| format!(" {}={}", label.key(), label.value()));
        let name = format!("{}{}", key.name(), labels.collect::<String>());
        let mut cells = self.cells.lock().expect("no panic");
        Arc::clone(cells.entry(name).or_default())
    }

    #[track_caller]
    fn find(&self, name: &str) -> Arc<Cell> {
        let cells = self.cells.lock().expect("no panic");
        let found = cells.get(name);
        Arc::clone(found.unwrap_or_else(|| panic!("{name} is not among {:?}", cells.keys())))
    }

    fn has(&self, name: &str) -> bool {
        self.cells.lock().expect("no panic").contains_key(name)
    }

    #[track_caller]
    fn number(&self, name: &str) -> f64 {
        f64::from_bits(self.find(name).value.load(Ordering::Acquire))
    }

    /// Takes the values of a histogram.
    #[track_caller]
    fn values(&self, name: &str) -> Vec<f64> {
        std::mem::take(&mut self.find(name).values.lock().expect("no panic"))
    }

    fn describe(&self, kind: Kind, name: KeyName, unit: Option<Unit>, text: SharedString) {
        let mut described = self.described.lock().expect("no panic");
        described.insert(name.as_str().to_owned(), (kind, unit, text.to_string()));
    }
}

impl Recorder for Recorded {
    fn describe_counter(&self, key: KeyName, unit: Option<Unit>, text: SharedString) {
        self.describe(Kind::Counter, key, unit, text);
    }

    fn describe_gauge(&self, key: KeyName, unit: Option<Unit>, text: SharedString) {
        self.describe(Kind::Gauge, key, unit, text);
    }

    fn describe_histogram(&self, key: KeyName, unit: Option<Unit>, text: SharedString) {
        self.describe(Kind::Histogram, key, unit, text);
    }

    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        Counter::from_arc(self.cell(Kind::Counter, key))
    }

    fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::from_arc(self.cell(Kind::Gauge, key))
    }

    fn register_histogram(&self, key: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::from_arc(self.cell(Kind::Histogram, key))
    }
}

const POOL: &str = "db.client.connection.pool.name";
const USED: &str = "db.client.connection.count db.client.connection.state=used";
const IDLE: &str = "db.client.connection.count db.client.connection.state=idle";

#[tokio::test]
async fn pool_is_measured() {
    let (recorded, _local) = Recorded::start();
    let lab = lab_with(|config| config.max_connections(2)).await;
    lab.run(async {
        let one = connection().await?;
        assert_eq!((recorded.number(USED), recorded.number(IDLE)), (1.0, 0.0));
        assert_eq!(recorded.number("db.client.connection.max"), 2.0);
        assert_eq!(recorded.number("db.client.connection.idle.max"), 2.0);
        let created = recorded.values("db.client.connection.create_time");
        assert!(created.len() == 1 && created[0] > 0.0, "{created:?}");
        let waited = recorded.values("db.client.connection.wait_time");
        assert!(waited.len() == 1 && waited[0] > created[0], "{waited:?}");
        drop(one);
        Ok(())
    })
    .await
    .expect("fine");
    assert_eq!((recorded.number(USED), recorded.number(IDLE)), (0.0, 1.0));
    let used = recorded.values("db.client.connection.use_time");
    assert!(used.len() == 1 && used[0] > 0.0, "{used:?}");
    assert_eq!(recorded.number("antifreeze.teardowns outcome=clean"), 1.0);
    lab.run(lease_and_return()).await.expect("fine");
    assert_eq!(recorded.values("db.client.connection.wait_time").len(), 1);
    lab.database.close().await;
    assert_eq!((recorded.number(USED), recorded.number(IDLE)), (0.0, 0.0));
}

#[tokio::test]
async fn teardown_is_measured_by_its_outcome() {
    let (recorded, _local) = Recorded::start();
    let lab = lab().await;
    lab.run(async {
        connection().await?.batch_execute("begin").await?;
        Ok(())
    })
    .await
    .expect("fine");
    let outcome = "antifreeze.teardowns outcome=rolled back";
    assert_eq!(recorded.number(outcome), 1.0);
    assert_eq!(recorded.number("antifreeze.left_open"), 1.0);
    assert_eq!(recorded.values("antifreeze.teardown.duration").len(), 1);
    let refused: Result<(), BoxError> = lab
        .run(async {
            transaction().await?.batch_execute("select 1").await?;
            Err("no".into())
        })
        .await;
    refused.expect_err("refused");
    assert_eq!(recorded.number(outcome), 2.0);
    assert_eq!(recorded.number("antifreeze.left_open"), 1.0, "as decided");
}

#[tokio::test]
async fn waiting_and_timeouts_are_measured() {
    let (recorded, _local) = Recorded::start();
    let lab = lab_with(|config| {
        config
            .max_connections(1)
            .acquire_timeout(Duration::from_millis(20))
    })
    .await;
    let pending = "db.client.connection.pending_requests";
    lab.run(async {
        let held = connection().await?;
        let mut second = std::pin::pin!(connection());
        let polled = crate::common::poll_at_most(1, second.as_mut()).await;
        assert!(polled.is_none());
        assert_eq!(recorded.number(pending), 1.0);
        second.await.expect_err("there is but one");
        drop(held);
        Ok(())
    })
    .await
    .expect("fine");
    assert_eq!(recorded.number(pending), 0.0);
    assert_eq!(recorded.number("db.client.connection.timeouts"), 1.0);
}

#[tokio::test]
async fn circuit_and_shedding_are_measured() {
    let (recorded, _local) = Recorded::start();
    let postgres = Postgres::start().await.expect("a server");
    postgres.create_role("limited").await.expect("a role");
    let server = postgres.fresh_database().await.expect("a database");
    let limit = async |limit: i32| {
        let sql = format!("alter role limited connection limit {limit}");
        postgres.execute(&sql).await.expect("a limit");
    };
    limit(0).await;
    let url = server.url_for("limited");
    let lab = Lab::over(server, &url, |config| config);
    let visit = async |time| lab.database.invocation(time, lease_and_return()).await;
    visit(Duration::from_secs(4)).await.expect_err("it is full");
    visit(Duration::ZERO).await.expect_err("it cannot wait");
    assert_eq!(recorded.number("antifreeze.circuit.open"), 1.0);
    assert!(recorded.number("antifreeze.shed") >= 1.0);
    limit(4).await;
    visit(PLENTY).await.expect("room");
    assert_eq!(recorded.number("antifreeze.circuit.open"), 0.0);
}

#[tokio::test]
async fn slots_of_the_server_are_measured() {
    let (recorded, _local) = Recorded::start();
    let lab = lab().await;
    lab.run(async {
        connection().await?.batch_execute("select 1").await?;
        Ok(())
    })
    .await
    .expect("fine");
    // On a busy machine its answer is awaited for 500 ms.
    lab.eventually("it is counted", async |lab| {
        lab.run(lease_and_return()).await.expect("fine");
        recorded.has("antifreeze.slots.used")
    })
    .await;
    let slots = |of: &str| recorded.number(&format!("antifreeze.slots.{of}"));
    assert!(slots("used") >= 1.0 && slots("limit") >= slots("used"));
}

#[tokio::test]
async fn thaws_and_discarded_connections_are_measured() {
    let (recorded, _local) = Recorded::start();
    let lab = lab_with(|config| config.test_after_idle(Duration::ZERO)).await;
    for _ in 0..2 {
        lab.run(lease_and_return()).await.expect("fine");
    }
    assert_eq!(recorded.number("antifreeze.thaws answered=true"), 1.0);
    let old = lab_with(|config| config.max_idle_time(Duration::from_nanos(1))).await;
    for _ in 0..2 {
        old.run(lease_and_return()).await.expect("fine");
    }
    let discarded = "antifreeze.discarded reason=idle for too long";
    assert_eq!(recorded.number(discarded), 1.0);
}

/// Each is in the table that the pages and dashboards are checked against, and described as there.
#[tokio::test]
async fn each_metric_is_described() {
    let (recorded, _local) = Recorded::start();
    let lab = lab().await;
    lab.run(lease_and_return()).await.expect("fine");
    let described = recorded.described.lock().expect("no panic");
    assert_eq!(described.len(), METRICS.len());
    for metric in METRICS {
        let unit = match metric.unit {
            antifreeze::internal::Unit::Count => Unit::Count,
            antifreeze::internal::Unit::Seconds => Unit::Seconds,
        };
        let expected = (metric.kind, Some(unit), metric.description.to_owned());
        assert_eq!(described[metric.name], expected, "{}", metric.name);
    }
    for (kind, key) in &*recorded.keys.lock().expect("no panic") {
        let name = key.name();
        assert_eq!(described[name].0, *kind, "{name}");
        let pool = key.labels().find(|label| label.key() == POOL);
        assert!(pool.is_some(), "{name} has the name of its pool");
    }
}

/// The page has a row for each, with its kind and what it tells.
#[test]
fn page_lists_every_metric() {
    let page = include_str!("../../docs/observability.md");
    for metric in METRICS {
        let kind = format!("{:?}", metric.kind).to_lowercase();
        let row = format!("| `{}` | {kind} | ", metric.name);
        let row = page.lines().find(|line| line.starts_with(&row));
        let row = row.unwrap_or_else(|| panic!("{} has a row", metric.name));
        assert!(row.contains(metric.description), "{row}");
    }
}
