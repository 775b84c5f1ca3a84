//! A warm invocation with one statement: through the layer, and with what a user would
//! take instead, on the same server in the same run.
//!
//! `cargo bench --bench invocation` ends with the ratios to the bare statement.

use std::future::Future;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use antifreeze::config::LoadShed;
use antifreeze::{Config, Database, DatabaseLayer, connection};
use bb8_postgres::PostgresConnectionManager;
use criterion::{BenchmarkId, Criterion};
use deadpool_postgres::{Manager, ManagerConfig, RecyclingMethod};
use http::{Request, Response};
use http_body_util::Empty;
use lab::postgres::Postgres;
use tokio::runtime::{Builder, Runtime};
use tokio_postgres::{Client, NoTls};
use tower::{Layer, ServiceExt};

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// One round trip, whoever sends it.
async fn statement(client: &Client) -> Result<i32, BoxError> {
    let row = client.query_typed_one("select 1", &[]).await?;
    Ok(row.try_get(0)?)
}

/// A runtime and its name.
fn runtimes() -> [(&'static str, Runtime); 2] {
    [
        ("current thread", Builder::new_current_thread()),
        ("multi thread", Builder::new_multi_thread()),
    ]
    .map(|(name, mut builder)| (name, builder.enable_all().build().expect("a runtime")))
}

fn main() {
    let begin = SystemTime::now();
    let mut criterion = Criterion::default()
        .warm_up_time(Duration::from_secs(1))
        .measurement_time(Duration::from_secs(4))
        .configure_from_args();
    for (name, runtime) in runtimes() {
        let postgres = runtime.block_on(Postgres::start()).expect("a server");
        let full = runtime.block_on(full(&postgres)).expect("a role");
        run(&mut criterion, name, &runtime, &postgres.url(), &full);
    }
    criterion.final_summary();
    for (name, _) in runtimes() {
        ratios(name, begin);
    }
}

/// The URL of a role that may have no connection.
async fn full(postgres: &Postgres) -> lab::Result<String> {
    postgres.create_role("limited").await?;
    postgres
        .execute("alter role limited connection limit 0")
        .await?;
    Ok(postgres.url_for("limited", "postgres"))
}

const NAMES: [&str; 9] = [
    "bare statement",
    "antifreeze",
    "deadpool Fast",
    "deadpool Verified",
    "bb8 unchecked",
    "bb8",
    "antifreeze, nothing asked",
    "turned away at first use",
    "turned away at the door",
];

fn run(criterion: &mut Criterion, name: &str, runtime: &Runtime, url: &str, full: &str) {
    let mut group = criterion.benchmark_group(name);
    let mut bench = |which: &str, mut work: Box<dyn FnMut() -> Boxed>| {
        group.bench_function(BenchmarkId::from_parameter(which), |bencher| {
            bencher.iter_custom(|times| {
                runtime.block_on(async {
                    let begin = std::time::Instant::now();
                    for _ in 0..times {
                        work().await.expect("it works");
                    }
                    begin.elapsed()
                })
            });
        });
    };

    let client = runtime.block_on(async {
        let (client, connection) = tokio_postgres::connect(url, NoTls).await.expect("a client");
        tokio::spawn(connection);
        std::sync::Arc::new(client)
    });
    bench(
        "bare statement",
        Box::new(move || {
            let client = client.clone();
            Box::pin(async move { statement(&client).await })
        }),
    );

    let database = Database::from_url(url).expect("a URL");
    let service = DatabaseLayer::new(database).layer(tower::service_fn(async |_: Request<()>| {
        statement(&*connection().await?).await?;
        Ok::<_, BoxError>(Response::new(Empty::<bytes::Bytes>::new()))
    }));
    bench(
        "antifreeze",
        Box::new(move || {
            let call = service.clone().oneshot(Request::new(()));
            Box::pin(async move { call.await.map(|_| 1) })
        }),
    );

    for (which, method) in [
        ("deadpool Fast", RecyclingMethod::Fast),
        ("deadpool Verified", RecyclingMethod::Verified),
    ] {
        let config = ManagerConfig {
            recycling_method: method,
        };
        let manager = Manager::from_config(url.parse().expect("a URL"), NoTls, config);
        let pool = deadpool_postgres::Pool::builder(manager)
            .max_size(1)
            .build()
            .expect("a pool");
        bench(
            which,
            Box::new(move || {
                let pool = pool.clone();
                Box::pin(async move { statement(&*pool.get().await?).await })
            }),
        );
    }

    for (which, checked) in [("bb8 unchecked", false), ("bb8", true)] {
        let manager = PostgresConnectionManager::new(url.parse().expect("a URL"), NoTls);
        let builder = bb8::Pool::builder().max_size(1).test_on_check_out(checked);
        let pool = runtime.block_on(builder.build(manager)).expect("a pool");
        bench(
            which,
            Box::new(move || {
                let pool = pool.clone();
                Box::pin(async move { statement(&*pool.get_owned().await?).await })
            }),
        );
    }

    let database = Database::from_url(url).expect("a URL");
    let service = DatabaseLayer::new(database).layer(tower::service_fn(async |_: Request<()>| {
        Ok::<_, BoxError>(Response::new(Empty::<bytes::Bytes>::new()))
    }));
    bench(
        "antifreeze, nothing asked",
        Box::new(move || {
            let call = service.clone().oneshot(Request::new(()));
            Box::pin(async move { call.await.map(|_| 1) })
        }),
    );

    // The server has refused, and there is no time for the next try.
    for (which, load_shed) in [
        ("turned away at first use", LoadShed::FirstUse),
        ("turned away at the door", LoadShed::BeforeHandler),
    ] {
        let config = Config::from_url(full).expect("a URL").load_shed(load_shed);
        let database = Database::new(config).expect("settings");
        let refused = database.invocation(Duration::from_millis(100), async {
            connection().await.map(drop)
        });
        runtime.block_on(refused).expect_err("it is full");
        let layer = DatabaseLayer::new(database).max_duration(Duration::ZERO);
        let service = layer.layer(tower::service_fn(async |_: Request<()>| {
            let empty = Empty::<bytes::Bytes>::new();
            Ok::<_, BoxError>(match connection().await {
                Ok(_) => Response::new(empty),
                Err(error) => Response::<bytes::Bytes>::from(&error).map(|_| empty),
            })
        }));
        bench(
            which,
            Box::new(move || {
                let call = service.clone().oneshot(Request::new(()));
                Box::pin(async move {
                    assert_eq!(call.await?.status(), 503);
                    Ok(1)
                })
            }),
        );
    }
    group.finish();
}

type Boxed = std::pin::Pin<Box<dyn Future<Output = Result<i32, BoxError>>>>;

/// The median of each, from what criterion has stored in this run, and its ratio to
/// the bare statement.
fn ratios(group: &str, begin: SystemTime) {
    let medians = NAMES.map(|name| median(group, name, begin));
    let Some(Some(bare)) = medians.first().copied() else {
        return;
    };
    println!("\n{group}: median of an invocation, and its ratio to the bare statement");
    for (name, median) in NAMES.iter().zip(medians) {
        if let Some(median) = median {
            let (micros, extra) = (median / 1e3, (median - bare) / 1e3);
            println!(
                "{name:<26} {micros:8.2} µs {extra:+8.2} µs {:6.2}",
                median / bare
            );
        }
    }
}

fn median(group: &str, name: &str, begin: SystemTime) -> Option<f64> {
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or("target".into(), PathBuf::from);
    let file = target
        .join("criterion")
        .join(group)
        .join(name)
        .join("new/estimates.json");
    // An earlier run may have left one.
    let written = std::fs::metadata(&file).and_then(|file| file.modified());
    if written.ok()? < begin {
        return None;
    }
    let estimates: serde_json::Value = serde_json::from_slice(&std::fs::read(file).ok()?).ok()?;
    estimates["median"]["point_estimate"].as_f64()
}
