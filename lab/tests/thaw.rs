//! What happens to a kept connection while its process is frozen, and what the next
//! invocation pays for it: connects, round trips, and the time that it takes longer than one
//! to which nothing happened. None of them fails.
//!
//! `LAB_KEEP=1` puts what is found into docs/limits.md.

use std::path::Path;
use std::time::{Duration, Instant};

use lab::figures;
use lab::fleet::{ROLE, prepare};
use lab::lambda::Function;
use lab::postgres::{Database, Postgres};
use lab::relay::{Cut, Relay};

/// A function with one environment, which reaches its server through a relay.
struct Thaw {
    postgres: Postgres,
    database: Database,
    relay: Relay,
    function: Function,
    /// How long a visit takes before which nothing happened.
    clean: Duration,
    /// How many bytes the server had sent at the freeze.
    told: u64,
}

/// What an invocation paid.
#[derive(Debug)]
struct Paid {
    connects: u64,
    round_trips: u64,
    took: Duration,
}

impl Paid {
    /// Milliseconds on top of a clean one's; below zero where the machine was busier then.
    fn added(&self, clean: Duration) -> f64 {
        (self.took.as_secs_f64() - clean.as_secs_f64()) * 1e3
    }
}

impl Thaw {
    /// Frozen, with a connection that is kept.
    async fn frozen(variables: &[(&str, &str)]) -> Thaw {
        let postgres = Postgres::start().await.expect("a server");
        let database = prepare(&postgres).await.expect("a database");
        let relay = Relay::start(postgres.address()).await.expect("a relay");
        let mut builder = Function::builder(Path::new(env!("CARGO_BIN_EXE_visit")))
            .env("DATABASE_URL", relay.url(&database.url_for(ROLE)))
            .env("WORK_MS", 0)
            .timeout(Duration::from_secs(30));
        for (name, value) in variables {
            builder = builder.env(*name, value);
        }
        let function = builder.start().await.expect("a function");
        let mut thaw = Thaw {
            postgres,
            database,
            relay,
            function,
            clean: Duration::ZERO,
            told: 0,
        };
        // The first connects, the others show what a visit costs by itself.
        thaw.visit().await;
        let mut took = Vec::new();
        for _ in 0..CLEAN_VISITS {
            let clean = thaw.visit().await;
            assert_eq!((clean.connects, clean.round_trips), (0, 2), "{clean:?}");
            took.push(clean.took);
        }
        took.sort();
        thaw.clean = took[CLEAN_VISITS / 2];
        thaw.keeps(1).await;
        thaw.told = thaw.relay.counts().bytes_down;
        thaw
    }

    /// A visit goes well, and then the process is frozen again.
    async fn visit(&self) -> Paid {
        let before = self.relay.counts();
        let begin = Instant::now();
        let request = http::Request::get("/").body("").expect("a request");
        let (response, outcome) = self.function.request(request).await.expect("an answer");
        let took = begin.elapsed();
        assert_eq!(response.status(), 200, "{:?}", response.body());
        outcome.environment.frozen().await.expect("it is frozen");
        assert_eq!(self.function.environments().len(), 1);
        let counts = self.relay.counts().since(before);
        Paid {
            connects: counts.connections,
            round_trips: counts.round_trips,
            took,
        }
    }

    async fn kept(&self) -> usize {
        let sql = "select 1 from pg_stat_activity where usename = 'fleet'";
        self.database.query(sql).await.expect("activity").len()
    }

    async fn keeps(&self, count: usize) {
        let begin = Instant::now();
        while self.kept().await != count {
            assert!(begin.elapsed() < PLENTY, "{} are kept", self.kept().await);
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    async fn gone(&self) {
        self.keeps(0).await;
        self.told().await;
    }

    /// Waits until what the server has said since the freeze is at the function's socket.
    async fn told(&self) {
        let begin = Instant::now();
        while self.relay.counts().bytes_down == self.told {
            assert!(begin.elapsed() < PLENTY, "the server said nothing");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        self.relay.quiet(Duration::from_millis(20)).await;
    }

    /// What the next visit paid after this had happened. It takes `at_least` so long, and
    /// not much longer.
    async fn after(&self, what: &str, at_least: Duration) -> Paid {
        let paid = self.visit().await;
        let added = paid.added(self.clean);
        let (connects, round_trips) = (paid.connects.to_string(), paid.round_trips.to_string());
        let found = [&connects, &round_trips, &format!("{added:+.0} ms")];
        figures::keep("limits.md", what, &found.map(String::as_str)).expect("kept");
        let least = at_least.as_secs_f64() * 1e3;
        // What a busy machine takes by itself goes either way.
        let expected = least - BUSY..least + ON_TOP;
        assert!(
            expected.contains(&added),
            "{paid:?}, clean {:?}",
            self.clean
        );
        paid
    }

    /// The same, of a visit that does not wait for anything, and after which there is one
    /// connection.
    async fn at_once_after(&self, what: &str) -> Paid {
        let paid = self.after(what, Duration::ZERO).await;
        // The backend of the connection before may take a moment to end.
        self.keeps(1).await;
        paid
    }
}

/// Their median is what the others are compared with.
const CLEAN_VISITS: usize = 5;

/// Longer than anything takes on a busy machine.
const PLENTY: Duration = Duration::from_secs(60);

/// Longer than the limits of two seconds.
const LONG: Duration = Duration::from_millis(2_100);

/// The second that a probe is given.
const PROBE: Duration = Duration::from_secs(1);

/// So many milliseconds a clean visit may have taken too long.
const BUSY: f64 = 1_000.0;

/// So many milliseconds a visit may take longer than it has to.
const ON_TOP: f64 = 2_000.0;

/// Start-up (plain, trusted) is one round trip, and the visit has to prepare its statement
/// first. The timeouts and the reading of the server's slots are sent behind the
/// start-up; their answers are not awaited, and may come separately.
const ANEW: std::ops::RangeInclusive<u64> = 3..=5;

#[tokio::test(flavor = "multi_thread")]
async fn thaw_after_nothing_happened() {
    let paid = Thaw::frozen(&[]).await.at_once_after("nothing").await;
    assert_eq!((paid.connects, paid.round_trips), (0, 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn thaw_after_the_backend_was_terminated() {
    let thaw = Thaw::frozen(&[]).await;
    let end = "select pg_terminate_backend(pid) from pg_stat_activity where usename = 'fleet'";
    thaw.database.query(end).await.expect("it ends");
    thaw.gone().await;
    let paid = thaw.at_once_after("the backend terminated").await;
    assert!(
        paid.connects == 1 && ANEW.contains(&paid.round_trips),
        "{paid:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn thaw_after_the_server_was_restarted() {
    let thaw = Thaw::frozen(&[]).await;
    thaw.postgres.restart().await.expect("it restarts");
    thaw.told().await;
    let paid = thaw.at_once_after("the server restarted").await;
    assert!(
        paid.connects == 1 && ANEW.contains(&paid.round_trips),
        "{paid:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn thaw_after_the_connection_was_reset() {
    let thaw = Thaw::frozen(&[]).await;
    thaw.relay.cut(Cut::Reset).await;
    let paid = thaw.at_once_after("reset by the network").await;
    assert!(
        paid.connects == 1 && ANEW.contains(&paid.round_trips),
        "{paid:?}"
    );
}

/// `idle_session_timeout`, which frees what a frozen process holds.
#[tokio::test(flavor = "multi_thread")]
async fn thaw_after_the_server_ended_the_session() {
    let limit = ("ANTIFREEZE_IDLE_SESSION_TIMEOUT", "3s");
    let thaw = Thaw::frozen(&[limit]).await;
    thaw.gone().await;
    // The limit is short enough to end the next session before the test examines it.
    let paid = thaw
        .after("ended by `idle_session_timeout`", Duration::ZERO)
        .await;
    assert!(
        paid.connects == 1 && ANEW.contains(&paid.round_trips),
        "{paid:?}"
    );
}

/// Our own limit, by the wall clock: no timer ran meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn thaw_after_being_idle_for_too_long() {
    let thaw = Thaw::frozen(&[("DB_MAX_IDLE_TIME", "2s")]).await;
    tokio::time::sleep(LONG).await;
    let paid = thaw
        .at_once_after("idle for longer than `max_idle_time`")
        .await;
    assert!(
        paid.connects == 1 && ANEW.contains(&paid.round_trips),
        "{paid:?}"
    );
}

/// Probed, and well.
#[tokio::test(flavor = "multi_thread")]
async fn thaw_after_being_idle_for_long() {
    let thaw = Thaw::frozen(&[("PROBE_AFTER_MS", "2000")]).await;
    tokio::time::sleep(LONG).await;
    let paid = thaw
        .at_once_after("idle for longer than `test_after_idle`")
        .await;
    assert_eq!((paid.connects, paid.round_trips), (0, 3));
}

/// No FIN ever came: only a round trip can tell, and it takes the second that the probe
/// is given.
#[tokio::test(flavor = "multi_thread")]
async fn thaw_after_the_network_forgot_it() {
    let thaw = Thaw::frozen(&[("PROBE_AFTER_MS", "2000")]).await;
    thaw.relay.forget();
    tokio::time::sleep(LONG).await;
    // The server does not know either, so it still has the one that was forgotten.
    let paid = thaw.after("forgotten by the network", PROBE).await;
    assert!(
        paid.connects == 1 && ANEW.contains(&paid.round_trips),
        "{paid:?}"
    );
}
