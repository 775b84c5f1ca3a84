//! What happens to a kept connection while its process is frozen, and what the next
//! invocation pays for it. None of them fails.

use std::fmt;
use std::path::Path;
use std::time::{Duration, Instant};

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
}

/// What an invocation paid.
struct Paid {
    connects: u64,
    round_trips: u64,
    took: Duration,
}

impl fmt::Debug for Paid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (connects, round_trips) = (self.connects, self.round_trips);
        write!(
            f,
            "{connects} connects, {round_trips} round trips, {:.1?}",
            self.took
        )
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
        let thaw = Thaw {
            postgres,
            database,
            relay,
            function,
        };
        // The first connects, the second shows what a visit costs by itself.
        thaw.visit().await;
        let clean = thaw.visit().await;
        assert_eq!((clean.connects, clean.round_trips), (0, 2), "{clean:?}");
        assert_eq!(thaw.kept().await, 1);
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

    async fn gone(&self) {
        while self.kept().await > 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// The next visit, and how many connects and round trips of connecting it paid.
    async fn after(&self, what: &str) -> Paid {
        let paid = self.visit().await;
        println!("{what}: {paid:?}");
        assert_eq!(self.kept().await, 1);
        paid
    }
}

/// Start-up (plain, trusted) is one round trip, and the visit has to prepare its statement
/// first. The time-outs and the question after the server's room go out behind the start-up;
/// their answers may come by themselves, and nobody waits for them.
const ANEW: std::ops::RangeInclusive<u64> = 3..=5;

#[tokio::test(flavor = "multi_thread")]
async fn nothing_happened() {
    let paid = Thaw::frozen(&[]).await.after("nothing").await;
    assert_eq!((paid.connects, paid.round_trips), (0, 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_backend_was_terminated() {
    let thaw = Thaw::frozen(&[]).await;
    let end = "select pg_terminate_backend(pid) from pg_stat_activity where usename = 'fleet'";
    thaw.database.query(end).await.expect("it ends");
    thaw.gone().await;
    let paid = thaw.after("terminated").await;
    assert!(
        paid.connects == 1 && ANEW.contains(&paid.round_trips),
        "{paid:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_server_was_restarted() {
    let thaw = Thaw::frozen(&[]).await;
    thaw.postgres.restart().await.expect("it restarts");
    let paid = thaw.after("restarted").await;
    assert!(
        paid.connects == 1 && ANEW.contains(&paid.round_trips),
        "{paid:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_connection_was_reset() {
    let thaw = Thaw::frozen(&[]).await;
    thaw.relay.cut(Cut::Reset).await;
    let paid = thaw.after("reset").await;
    assert!(
        paid.connects == 1 && ANEW.contains(&paid.round_trips),
        "{paid:?}"
    );
}

/// `idle_session_timeout`, which frees what a frozen process holds.
#[tokio::test(flavor = "multi_thread")]
async fn the_server_has_ended_it_by_its_own_limit() {
    let limit = ("ANTIFREEZE_IDLE_SESSION_TIMEOUT", "1s");
    let thaw = Thaw::frozen(&[limit]).await;
    thaw.gone().await;
    let paid = thaw.visit().await;
    println!("ended by idle_session_timeout: {paid:?}");
    assert!(
        paid.connects == 1 && ANEW.contains(&paid.round_trips),
        "{paid:?}"
    );
}

/// Our own limit, by the wall clock: no timer ran meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn it_was_idle_for_too_long() {
    let thaw = Thaw::frozen(&[("DB_MAX_IDLE_TIME", "300ms")]).await;
    tokio::time::sleep(Duration::from_millis(350)).await;
    let paid = thaw.after("idle for too long").await;
    assert!(
        paid.connects == 1 && ANEW.contains(&paid.round_trips),
        "{paid:?}"
    );
}

/// Probed, and well.
#[tokio::test(flavor = "multi_thread")]
async fn it_was_idle_for_long() {
    let thaw = Thaw::frozen(&[("PROBE_AFTER_MS", "300")]).await;
    tokio::time::sleep(Duration::from_millis(350)).await;
    let paid = thaw.after("idle for long").await;
    assert_eq!((paid.connects, paid.round_trips), (0, 3));
}

/// No FIN ever came: only a round trip can tell, and it takes the second that the probe
/// is given.
#[tokio::test(flavor = "multi_thread")]
async fn the_network_has_forgotten_it() {
    let thaw = Thaw::frozen(&[("PROBE_AFTER_MS", "300")]).await;
    thaw.relay.forget();
    tokio::time::sleep(Duration::from_millis(350)).await;
    let before = thaw.relay.counts();
    let begin = Instant::now();
    let request = http::Request::get("/").body("").expect("a request");
    let (response, _) = thaw.function.request(request).await.expect("an answer");
    println!("forgotten: {:?}", begin.elapsed());
    assert_eq!(response.status(), 200, "{:?}", response.body());
    let counts = thaw.relay.counts().since(before);
    assert!(
        counts.connections == 1 && ANEW.contains(&counts.round_trips),
        "{counts:?}"
    );
}
