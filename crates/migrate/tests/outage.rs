//! Reproduces the outage: handlers return with their session in a transaction, and ALTER TABLE
//! runs on a table of 250 rows; without antifreeze, with the layer only, with the runner only.
//!
//! `cargo test -p antifreeze-migrate --all-features --test outage -- --nocapture` prints the figures that
//! `docs/outage.md` quotes.

#[allow(dead_code)]
#[path = "migrate/common.rs"]
mod common;

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use antifreeze::{Config, Database, DatabaseLayer};
use antifreeze_migrate::ErrorKind;
use common::{Lab, TIMEOUT, lab, migrations};
use http::{Request, Response, StatusCode};
use lab::postgres::Postgres;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};
use tokio_postgres::{Client, NoTls};
use tower::{Layer, ServiceExt, service_fn};

const UNIQUE: &str = "alter table partners add constraint partners_name unique (name)";

/// The transaction that each handler begins and does not end.
const HANDLER: &str = "begin; select count(*) from partners";

/// The number of instances that are frozen in a transaction before the ALTER TABLE.
const FROZEN: usize = 5;

/// The number of concurrent requests.
const AT_ONCE: u32 = 3;

/// How long a queue must last to count as endless: far longer than the `lock_timeout` of 2 s.
const FOR_GOOD: Duration = Duration::from_secs(6);

/// The longest duration of an ALTER TABLE with the layer.
const A_SECOND: Duration = Duration::from_secs(1);

/// The number of attempts, since the machine may be busy: a real delay occurs in each.
const TRIES: usize = 3;

/// The duration from which the server logs a wait for a lock.
const LOGGED: Duration = Duration::from_millis(100);

/// The tolerance between the end of `lock_timeout` and the server's log of it, on a busy machine.
/// Both are measured by the server, without the client.
const SLACK: Duration = Duration::from_secs(3);

/// A host without the layer. Each request is a cold start with a new session; after the
/// response the instance is frozen, and some are never called again.
#[derive(Clone)]
struct Host {
    url: String,
    frozen: Arc<Mutex<Vec<Client>>>,
    responses: Arc<AtomicU32>,
}

impl Host {
    async fn serving(lab: &Lab) -> Host {
        let host = Host {
            url: lab.server.url.clone(),
            frozen: Arc::default(),
            responses: Arc::default(),
        };
        for _ in 0..FROZEN {
            host.request().await;
        }
        host
    }

    /// Serves a request, from the cold start to the response.
    async fn request(&self) {
        let mut config: tokio_postgres::Config = self.url.parse().expect("a URL");
        config.application_name("shop:17");
        let (client, connection) = config.connect(NoTls).await.expect("a session");
        tokio::spawn(async {
            let _ = connection.await;
        });
        client.batch_execute(HANDLER).await.expect("it reads");
        self.responses.fetch_add(1, Ordering::SeqCst);
        let mut frozen = self.frozen.lock().expect("no panic");
        // The other instances are stopped at once, which ends their sessions.
        if frozen.len() < FROZEN {
            frozen.push(client);
        }
    }
}

/// Concurrent sequences of requests, until stopped; measures the longest time without a
/// response in any of them.
struct Traffic {
    stop: Arc<AtomicBool>,
    lines: JoinSet<Duration>,
}

impl Traffic {
    fn of<F: Future<Output = ()> + Send>(
        request: impl Fn() -> F + Clone + Send + 'static,
    ) -> Traffic {
        let stop = Arc::new(AtomicBool::new(false));
        let mut lines = JoinSet::new();
        for _ in 0..AT_ONCE {
            let (stop, request) = (Arc::clone(&stop), request.clone());
            lines.spawn(async move {
                let mut longest = Duration::ZERO;
                while !stop.load(Ordering::SeqCst) {
                    let since = Instant::now();
                    request().await;
                    longest = longest.max(since.elapsed());
                }
                longest
            });
        }
        Traffic { stop, lines }
    }

    async fn longest_gap(self) -> Duration {
        self.stop.store(true, Ordering::SeqCst);
        let lines = timeout(TIMEOUT, self.lines.join_all()).await;
        let lines = lines.expect("each line gets its response");
        lines.into_iter().max().unwrap_or_default()
    }
}

#[tokio::test]
async fn alter_table_alone_blocks_the_traffic() {
    let lab = lab().await;
    let host = Host::serving(&lab).await;
    let (migration, _) = lab.session("plain migration").await;
    let altering = tokio::spawn(async move { migration.batch_execute(UNIQUE).await });
    let queue = "select count(*) from pg_stat_activity where datname = current_database() \
                 and wait_event_type = 'Lock' and application_name = ";
    lab.eventually(&format!("{queue}'plain migration'"), "1")
        .await;
    let requests = host.clone();
    let mut traffic = Traffic::of(move || {
        let host = requests.clone();
        async move { host.request().await }
    });
    lab.eventually(&format!("{queue}'shop:17'"), &AT_ONCE.to_string())
        .await;

    // The queue does not end by itself.
    let went_on = timeout(FOR_GOOD, traffic.lines.join_next()).await;
    assert!(went_on.is_err(), "a line of traffic ended: {went_on:?}");
    assert!(!altering.is_finished(), "the ALTER TABLE got its lock");
    assert_eq!(host.responses.load(Ordering::SeqCst), FROZEN as u32);
    println!("without layer and runner: 0 responses in {FOR_GOOD:?}, and the ALTER TABLE waits");

    // It ends when those sessions end.
    host.frozen.lock().expect("no panic").clear();
    let altered = timeout(TIMEOUT, altering).await.expect("it got its lock");
    altered.expect("no panic").expect("it is done");
    let _ = traffic.longest_gap().await;
    assert!(host.responses.load(Ordering::SeqCst) > FROZEN as u32);
}

#[tokio::test]
async fn alter_table_with_the_layer_succeeds() {
    let lab = lab().await;
    let config = Config::from_url(&lab.server.url)
        .expect("a URL")
        .max_connections(AT_ONCE as usize)
        .application_name("shop:17");
    let database = Database::new(config).expect("settings");
    // The same handler, which does not end its transaction.
    let service = DatabaseLayer::new(database).layer(service_fn(async |_: Request<()>| {
        let connection = antifreeze::connection().await?;
        connection.batch_execute(HANDLER).await?;
        Ok::<_, antifreeze::Error>(Response::new(String::new()))
    }));
    let (sender, mut responses) = watch::channel(0_u32);
    let sender = Arc::new(sender);
    let traffic = Traffic::of(move || {
        let (service, sender) = (service.clone(), Arc::clone(&sender));
        async move {
            let response = service.oneshot(Request::new(())).await.expect("a response");
            assert_eq!(response.status(), StatusCode::OK);
            sender.send_modify(|responses| *responses += 1);
        }
    });
    let mut until = async |more: u32| {
        let goal = *responses.borrow() + more;
        let waited = timeout(TIMEOUT, responses.wait_for(|&so_far| so_far >= goal)).await;
        waited.expect("traffic goes on").expect("it is there");
    };
    until(20).await;
    let (migration, _) = lab.session("plain migration").await;
    let mut took = Vec::new();
    while took.len() < TRIES && took.iter().all(|&took| took >= A_SECOND) {
        if !took.is_empty() {
            let undo = "alter table partners drop constraint partners_name";
            migration.batch_execute(undo).await.expect("undone");
        }
        let since = Instant::now();
        let altered = timeout(TIMEOUT, migration.batch_execute(UNIQUE)).await;
        took.push(since.elapsed());
        altered.expect("it does not hang").expect("it is done");
        until(20).await;
    }
    let gap = traffic.longest_gap().await;
    println!("with the layer: the ALTER TABLE took {took:.0?}, no request more than {gap:.0?}");
    assert!(took.iter().any(|&took| took < A_SECOND), "it took {took:?}");
}

/// Returns how long sessions waited for locks of this mode, from the server's log.
async fn waits(lab: &Lab, mode: &str) -> Vec<Duration> {
    let database = "select oid from pg_database where datname = current_database()";
    let here = format!(" of database {} after ", lab.value(database).await);
    let log = Postgres::shared().await.expect("a server").log();
    let acquired = format!(" acquired {mode} on relation ");
    let waits = log.lines().filter_map(|line| {
        let (_, behind) = line.split_once(&acquired)?;
        let (_, behind) = behind.split_once(&here)?;
        let (milliseconds, _) = behind.split_once(" ms")?;
        let milliseconds: f64 = milliseconds.parse().ok()?;
        Some(Duration::from_secs_f64(milliseconds / 1000.0))
    });
    waits.collect()
}

#[tokio::test]
async fn runner_alone_blocks_for_the_lock_timeout() {
    let lab = lab().await;
    let name = lab.value("select quote_ident(current_database())").await;
    let log_waits = format!(
        "alter database {name} set log_lock_waits = on; \
         alter database {name} set deadlock_timeout = {}",
        LOGGED.as_millis()
    );
    lab.server.execute(&log_waits).await.expect("set");
    let host = Host::serving(&lab).await;
    let requests = host.clone();
    let traffic = Traffic::of(move || {
        let host = requests.clone();
        async move { host.request().await }
    });
    // The runner's default.
    let lock_timeout = Duration::from_secs(2);
    let pause = Duration::from_millis(200);
    let runner = || {
        migrations(&[("V1__unique", UNIQUE)])
            .runner(&lab.database)
            .backoff(pause, pause)
            .attempts(3)
    };
    let error = runner().run().await.expect_err("it gives way");
    let before = host.responses.load(Ordering::SeqCst);
    assert_eq!(error.kind(), ErrorKind::Blocked, "{error}");
    let blocked = &error.report().blocked[0];
    assert_eq!(blocked.relation.as_deref(), Some("partners"));
    let guilty: Vec<_> = blocked.by.iter().filter(|one| !one.waits).collect();
    let idle = guilty
        .iter()
        .filter(|one| one.state.as_deref() == Some("idle in transaction"));
    assert!(idle.count() >= FROZEN, "{blocked:?}");
    assert!(
        guilty
            .iter()
            .all(|one| one.application.as_deref() == Some("shop:17"))
    );
    assert!(error.to_string().contains("shop:17"), "{error}");

    // With terminate_idle_in_transaction, they are ended and the traffic continues.
    let consent = runner().terminate_idle_in_transaction(Duration::from_secs(2));
    let report = consent.run().await.expect("the way is free");
    assert!(report.terminated.len() >= FROZEN, "{report:?}");
    let gap = traffic.longest_gap().await;
    let responses = host.responses.load(Ordering::SeqCst);
    let waits = waits(&lab, "AccessShareLock").await;
    let longest = waits.iter().max().copied().unwrap_or_default();
    println!(
        "with the runner alone: 3 attempts, {responses} responses, no request more than {gap:.1?}, \
         {longest:.2?} of it behind a lock\n{blocked}"
    );
    assert!(before > FROZEN as u32 + AT_ONCE, "traffic went on");
    // A busy machine delays requests too: measure with the server's log.
    assert!(
        longest < lock_timeout + SLACK,
        "a request waited {longest:?}"
    );
    // Some requests must have queued behind it.
    assert!(waits.len() >= AT_ONCE as usize, "{waits:?}");
    assert!(longest > lock_timeout / 2, "no session waited: {waits:?}");
}
