//! A hundred and fifty instances share a server with 25 slots: no request fails that could have
//! waited, and no other client is locked out.
//!
//! PostgreSQL itself limits the slots, which is not tested. The effect on another client is: how
//! long it waits for a connection, how often it is refused, and how many slots frozen processes
//! hold.
//!
//! `LAB_KEEP=1` writes the figures into docs/limits.md.

use std::path::Path;
use std::pin::pin;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use lab::figures;
use lab::fleet::{Burst, Fleet, LOG_LINE_PREFIX, ROLE, Seen, prepare, refused, row};
use lab::postgres::{Database, Postgres};
use lab::relay::Relay;
use tokio::sync::Mutex;

const INSTANCES: usize = 150;

/// What Lambda grants.
const DEADLINE: Duration = Duration::from_secs(60);

/// Slots for all roles: 25, less 3 for superusers.
const SLOTS: i64 = 22;

/// The role's connection limit, where it has one.
const OWN: i64 = 10;

/// Above this part of the slots nothing is kept (`Config::high_water_mark`).
const MARK: i64 = 80;

/// A client that is refused for so long is locked out; on a machine so busy that the burst takes
/// more than twice as long, for half of that.
const LOCKED_OUT: Duration = Duration::from_secs(2);

/// The same with what connecting takes by itself while 150 others do it.
const IN_ALL: Duration = Duration::from_secs(5);

/// The page with the figures.
const PAGE: &str = "limits.md";

/// A fleet has the machine for itself.
static ALONE: Mutex<()> = Mutex::const_new(());

async fn server() -> (Postgres, Database) {
    let postgres = Postgres::builder()
        .setting("max_connections", 25)
        .setting("log_line_prefix", LOG_LINE_PREFIX)
        .start()
        .await
        .expect("a server");
    where_it_runs(&postgres);
    let database = prepare(&postgres).await.expect("a database");
    (postgres, database)
}

/// Once, before any fleet has kept the machine busy.
fn where_it_runs(postgres: &Postgres) {
    static TOLD: OnceLock<()> = OnceLock::new();
    TOLD.get_or_init(|| {
        let cores = std::thread::available_parallelism().map_or(0, usize::from);
        let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
        let load = load.split_whitespace().next().unwrap_or("unknown");
        let version = postgres.installation().version();
        let machine = format!("{cores} cores, load {load} before; PostgreSQL {version}");
        figures::keep(PAGE, "machine", &[&machine]).expect("kept");
    });
}

async fn fleet(database: &Database, url: &str) -> Fleet {
    let function = Path::new(env!("CARGO_BIN_EXE_visit"));
    let fleet = Fleet::start(INSTANCES, function, database, url, DEADLINE).await;
    let fleet = fleet.expect("a fleet");
    assert_eq!(fleet.instances(), INSTANCES);
    fleet
}

/// What a run came to.
struct Run<'a> {
    what: &'a str,
    postgres: &'a Postgres,
    database: &'a Database,
    fleet: &'a Fleet,
    /// How much the server had logged when it began.
    logged: usize,
    bursts: Vec<Burst>,
}

impl<'a> Run<'a> {
    fn new(
        what: &'a str,
        postgres: &'a Postgres,
        database: &'a Database,
        fleet: &'a Fleet,
    ) -> Run<'a> {
        // What was seen before is none of it.
        fleet.seen();
        Run {
            what,
            postgres,
            database,
            fleet,
            logged: postgres.log().len(),
            bursts: Vec::new(),
        }
    }

    /// The next burst of requests, one for each instance.
    async fn burst(&mut self) -> &Burst {
        let burst = self.fleet.burst(INSTANCES).await.expect("answers");
        self.bursts.push(burst);
        &self.bursts[self.bursts.len() - 1]
    }

    async fn all_are_served(&mut self) {
        let burst = self.burst().await;
        assert_eq!(burst.served, INSTANCES, "{:?}", burst.failed);
    }

    /// The other client was not locked out, and the frozen processes keep no more of the `slots`
    /// than the mark allows.
    async fn leaves_room(self, slots: i64) -> Seen {
        let idle = format!("select 1 from pg_stat_activity where usename = '{ROLE}'");
        let mut kept = self.database.query(&idle).await.expect("activity").len();
        // What was closed while all was busy may not have left yet.
        let until = Instant::now() + Duration::from_secs(10);
        while kept as i64 * 100 > slots * MARK && Instant::now() < until {
            tokio::time::sleep(Duration::from_millis(20)).await;
            kept = self.database.query(&idle).await.expect("activity").len();
        }
        let seen = self.fleet.seen();
        // The log has all other clients: the competing one, and the tests.
        let (ours, others) = refused(&self.postgres.log()[self.logged..]);
        println!("{}: {seen:?}, {others} in the log; kept {kept}", self.what);
        let slowest = self.bursts.iter().map(|burst| burst.slowest).max();
        let slowest = slowest.unwrap_or_default();
        assert!(seen.shut_out < LOCKED_OUT.max(slowest / 2));
        assert!(seen.longest < IN_ALL.max(slowest));
        assert!(seen.others > 10 && others < seen.others);
        // None may be kept: for a while after a refusal every connection is closed.
        assert!(kept as i64 * 100 <= slots * MARK);
        // It makes use of what there is.
        assert!(seen.most > slots / 2);

        let found = row(&self.bursts, &seen, slots, kept, (ours, others));
        figures::keep(PAGE, self.what, &found.each_ref().map(String::as_str)).expect("kept");
        seen
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bursts_are_served_within_the_limit() {
    let _alone = ALONE.lock().await;
    let (postgres, database) = server().await;
    let fleet = fleet(&database, &database.url_for(ROLE)).await;
    let mut run = Run::new("three bursts", &postgres, &database, &fleet);
    for _ in 0..3 {
        run.all_are_served().await;
    }
    run.leaves_room(SLOTS).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn restart_costs_only_requests_under_way() {
    let _alone = ALONE.lock().await;
    let (postgres, database) = server().await;
    let fleet = fleet(&database, &database.url_for(ROLE)).await;
    let mut run = Run::new(
        "the server restarted in the middle of the second",
        &postgres,
        &database,
        &fleet,
    );
    run.all_are_served().await;
    let busy = async {
        let busy = "select 1 from pg_stat_activity where usename = 'fleet' and state = 'active'";
        // All slots may be taken for a moment by sessions that are refused then.
        while !database
            .query(busy)
            .await
            .is_ok_and(|rows| !rows.is_empty())
        {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    {
        let mut burst = pin!(run.burst());
        tokio::select! {
            _ = burst.as_mut() => panic!("it ended too early"),
            () = busy => {}
        }
        let (burst, restarted) = tokio::join!(burst, postgres.restart());
        restarted.expect("it restarts");
        // Whether their statement was executed is unknown: it is not sent again.
        let cut: usize = burst.failed.values().sum();
        println!("cut: {:?}", burst.failed);
        assert!(cut as i64 <= SLOTS, "{:?}", burst.failed);
        let kinds = ["503 closed", "503 server_stopping"];
        let known = |kind: &String| kinds.contains(&kind.as_str());
        assert!(burst.failed.keys().all(known), "{:?}", burst.failed);
        assert_eq!(burst.served + cut, INSTANCES);
    }
    run.leaves_room(SLOTS).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn role_limit_leaves_the_rest_to_others() {
    others_are_hardly_refused(two_limited_bursts).await;
}

async fn two_limited_bursts() -> Seen {
    let _alone = ALONE.lock().await;
    let (postgres, database) = server().await;
    limit(&postgres, OWN).await;
    let fleet = fleet(&database, &database.url_for(ROLE)).await;
    let mut run = Run::new(
        "a role limited to 10, two bursts",
        &postgres,
        &database,
        &fleet,
    );
    for _ in 0..2 {
        run.all_are_served().await;
    }
    run.leaves_room(OWN).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refusing_server_is_not_hammered() {
    others_are_hardly_refused(ten_seconds_of_refusals).await;
}

/// How often the fleet asks, and how soon it is back.
async fn ten_seconds_of_refusals() -> Seen {
    let _alone = ALONE.lock().await;
    let (postgres, database) = server().await;
    let relay = Relay::start(postgres.address()).await.expect("a relay");
    let fleet = fleet(&database, &relay.url(&database.url_for(ROLE))).await;
    let first = fleet.burst(INSTANCES).await.expect("answers");
    assert_eq!(first.served, INSTANCES, "{:?}", first.failed);

    limit(&postgres, 0).await;
    let end = format!(
        "select pg_terminate_backend(pid, 5000) from pg_stat_activity where usename = '{ROLE}'"
    );
    postgres.execute(&end).await.expect("they end");
    let mut run = Run::new(
        "refused for the first ten seconds",
        &postgres,
        &database,
        &fleet,
    );
    let before = relay.counts().connections;
    let outage = async {
        tokio::time::sleep(Duration::from_secs(10)).await;
        let connects = relay.counts().connections - before;
        limit(&postgres, OWN).await;
        (connects, Instant::now())
    };
    let ((), (connects, since)) = tokio::join!(run.all_are_served(), outage);
    let recovered = since.elapsed();
    let rate = connects as f64 / 10.0;
    let each = rate / INSTANCES as f64;
    let hammered = format!("{rate:.0} a second over the fleet, {each:.2} for each process");
    // With full jitter below 2 s, one a second for each; the first tries are closer.
    assert!(rate < 2.0 * INSTANCES as f64, "{rate}");
    figures::keep(PAGE, "connects in those ten seconds", &[&hammered]).expect("kept");
    let recovered = format!("{:.1} s", recovered.as_secs_f64());
    figures::keep(
        PAGE,
        "all served, after the server took connections again",
        &[&recovered],
    )
    .expect("kept");
    run.leaves_room(OWN).await
}

/// A role with a limit of its own leaves the other slots to others, but for the moment in
/// which the server starts a session: it takes a slot first, and looks at the role then. A busy
/// machine makes it longer, but not each time.
async fn others_are_hardly_refused(run: impl AsyncFn() -> Seen) {
    let mut tries = Vec::new();
    for _ in 0..3 {
        let seen = run().await;
        if seen.refused * 100 <= seen.others {
            return;
        }
        tries.push(seen);
    }
    panic!("{tries:?}");
}

/// So many connections are the function's role's.
async fn limit(postgres: &Postgres, limit: i64) {
    let limit = format!("alter role {ROLE} connection limit {limit}");
    let until = Instant::now() + Duration::from_secs(60);
    // All slots may be taken for a moment.
    while let Err(error) = postgres.execute(&limit).await {
        assert!(Instant::now() < until, "{error}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
