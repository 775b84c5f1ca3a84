//! A server that is nearly full, or full: which connections are kept, which callers wait, and
//! which are refused.

mod common;
#[path = "limits/door.rs"]
mod door;
#[path = "limits/given_up.rs"]
mod given_up;

use std::time::{Duration, Instant};

use antifreeze::config::{ConnectionLifetime, LoadShed};
use antifreeze::{Config, DatabaseLayer, ErrorKind, connection};
use common::{BoxError, Lab, PLENTY, lab_over_relay, poll_at_most};
use http::{Request, Response};
use lab::postgres::{Installation, Postgres};
use lab::relay::{Direction, Relay};
use tokio::sync::{Notify, Semaphore};
use tower::{ServiceExt, service_fn};

const ROLE: &str = "limited";

/// Three tries: on a busy machine the answer to a reading may come later than a return waits for
/// it, and the session is closed.
async fn tried<T: PartialEq + std::fmt::Debug>(expected: T, measure: impl AsyncFn() -> T) {
    let tries = [measure().await, measure().await, measure().await];
    assert!(tries.contains(&expected), "{tries:?}");
}

/// A server of its own, with a role that may have so many connections.
async fn limited(limit: i32, change: impl FnOnce(Config) -> Config) -> (Postgres, Lab) {
    let postgres = Postgres::start().await.expect("a server");
    postgres.create_role(ROLE).await.expect("a role");
    let lab = over(&postgres, change).await;
    lab.limit(limit).await;
    (postgres, lab)
}

async fn over(postgres: &Postgres, change: impl FnOnce(Config) -> Config) -> Lab {
    let server = postgres.fresh_database().await.expect("a database");
    let url = server.url_for(ROLE);
    Lab::over(server, &url, change)
}

trait Limited {
    async fn limit(&self, limit: i32);
    async fn visit(&self) -> Result<i32, BoxError>;
}

impl Limited for Lab {
    async fn limit(&self, limit: i32) {
        let sql = format!("alter role {ROLE} connection limit {limit}");
        self.server.execute(&sql).await.expect("a limit");
    }

    /// The server's process that served it.
    async fn visit(&self) -> Result<i32, BoxError> {
        self.run(async {
            let connection = connection().await?;
            connection.query_one("select 1", &[]).await?;
            Ok(connection.process_id())
        })
        .await
    }
}

/// Connections of another client with the same role.
async fn others(lab: &Lab, how_many: usize) -> Vec<tokio_postgres::Client> {
    let mut others = Vec::new();
    for _ in 0..how_many {
        let url = lab.server.url_for(ROLE);
        // A session that was closed before may have its slot for a moment more.
        let until = Instant::now() + PLENTY;
        let (client, connection) = loop {
            match tokio_postgres::connect(&url, tokio_postgres::NoTls).await {
                Ok(connected) => break connected,
                Err(error) => assert!(Instant::now() < until, "{error}"),
            }
        };
        tokio::spawn(connection);
        others.push(client);
    }
    others
}

fn kind_of(error: &BoxError) -> Option<ErrorKind> {
    Some(error.downcast_ref::<antifreeze::Error>()?.kind())
}

/// Returns what passed while an invocation did `work` on a new connection.
async fn recorded(change: impl FnOnce(Config) -> Config, work: &str) -> Vec<(Direction, Vec<u8>)> {
    let (lab, relay) = lab_over_relay(change).await;
    relay.record(true);
    relay.delay(Duration::from_millis(50));
    let work = async {
        connection().await?.batch_execute(work).await?;
        Ok::<_, BoxError>(())
    };
    lab.database
        .invocation(PLENTY, work)
        .await
        .expect("it works");
    let recording = relay.recordings().remove(0);
    let chunks = recording.chunks.into_iter();
    chunks
        .map(|chunk| (chunk.direction, chunk.bytes.to_vec()))
        .collect()
}

fn holds(bytes: &[u8], text: &str) -> bool {
    bytes.windows(text.len()).any(|at| at == text.as_bytes())
}

const READING: &str = "pg_stat_get_activity";

/// The reading leaves behind the user's first statement, before its answer has come.
#[tokio::test]
async fn reading_follows_the_first_statement() {
    let chunks = recorded(|config| config, "select 'mine'").await;
    let mut chunks = chunks.iter();
    let up = |(direction, _): &&(Direction, Vec<u8>)| *direction == Direction::Up;
    let flight: Vec<u8> = chunks
        .by_ref()
        .skip_while(|chunk| !holds(&chunk.1, "select 'mine'"))
        .take_while(up)
        .flat_map(|chunk| chunk.1.clone())
        .collect();
    let at = |text: &str| {
        flight
            .windows(text.len())
            .position(|at| at == text.as_bytes())
    };
    assert!(at("select 'mine'") < at(READING) && at(READING).is_some());
}

/// A reading inside the user's transaction would take its snapshot, or fall with it.
#[tokio::test]
async fn reading_follows_the_end_of_a_transaction() {
    for (work, expected) in [("begin; select 1; commit", 1), ("begin; select 1", 0)] {
        let chunks = recorded(|config| config, work).await;
        let up = chunks.iter().filter(|chunk| chunk.0 == Direction::Up);
        let asked = up.clone().filter(|chunk| holds(&chunk.1, READING)).count();
        let behind = up
            .clone()
            .any(|chunk| holds(&chunk.1, work) && holds(&chunk.1, READING));
        // A rollback takes a round trip: the reading comes along.
        let rolled_back = up.clone().any(|chunk| holds(&chunk.1, "ROLLBACK"));
        assert_eq!(asked, expected.max(rolled_back.into()), "{work}");
        assert!(!behind, "{work}");
    }
}

#[tokio::test]
async fn nothing_is_read_where_nothing_depends_on_it() {
    let per_invocation = |config: Config| config.lifetime(ConnectionLifetime::PerInvocation);
    let chunks = recorded(per_invocation, "select 1").await;
    assert!(!chunks.iter().any(|chunk| holds(&chunk.1, READING)));
    let both = |config: Config| per_invocation(config).load_shed(LoadShed::BeforeHandler);
    let chunks = recorded(both, "select 1").await;
    assert!(chunks.iter().any(|chunk| holds(&chunk.1, READING)));
}

/// Once role and database are known to have no limit, the sessions alone are counted.
#[tokio::test]
async fn role_and_database_are_read_once() {
    tried((3, 1), readings_of_three).await;
}

/// How many readings three new sessions take, and how many of them are of role and database.
async fn readings_of_three() -> (usize, usize) {
    let (lab, relay) = lab_over_relay(|config| config.high_water_mark(1)).await;
    // More than one of a hundred slots is taken: no connection is kept.
    let other = tokio_postgres::connect(&lab.server.url, tokio_postgres::NoTls).await;
    let (_other, connection) = other.expect("there is room");
    tokio::spawn(connection);
    relay.record(true);
    for _ in 0..3 {
        lab.visit().await.expect("it works");
    }
    let readings = |text: &str| {
        let recordings = relay.recordings();
        let chunks = recordings.iter().flat_map(|recording| &recording.chunks);
        let up = chunks.filter(|chunk| chunk.direction == Direction::Up);
        up.filter(|chunk| holds(&chunk.bytes, text)).count()
    };
    (readings(READING), readings("rolconnlimit"))
}

#[tokio::test]
async fn fresh_reading_with_plenty_of_room_will_do() {
    tried((3, 1), readings_with_room).await;
}

/// How many sessions three invocations take, and how many readings.
async fn readings_with_room() -> (usize, usize) {
    let change = |config: Config| config.max_age(Duration::ZERO).high_water_mark(95);
    let (lab, relay) = lab_over_relay(change).await;
    relay.record(true);
    for _ in 0..3 {
        lab.visit().await.expect("it works");
    }
    let recordings = relay.recordings();
    let chunks = recordings.iter().flat_map(|recording| &recording.chunks);
    let up = chunks.filter(|chunk| chunk.direction == Direction::Up);
    let asked = up.filter(|chunk| holds(&chunk.bytes, READING)).count();
    (recordings.len(), asked)
}

#[tokio::test]
async fn crowded_server_gets_connections_back() {
    // Five slots: with ours four are taken, 80 %, which is not above the mark.
    let (_postgres, lab) = limited(5, |config| config).await;
    let _others = others(&lab, 3).await;
    lab.warm_kept().await;
    let first = lab.visit().await.expect("room");
    assert_eq!(lab.visit().await.expect("room"), first, "it is kept");

    // Five of five.
    let (_postgres, lab) = limited(5, |config| config).await;
    let others = others(&lab, 4).await;
    let first = lab.visit().await.expect("room");
    let torn_down = lab.torn_down();
    // The answer may have come behind the first invocation's own.
    let second = lab.visit().await.expect("room");
    let third = lab.visit().await.expect("room");
    assert_ne!(second, third, "{first} {torn_down:?}");
    assert!(lab.sessions().await.is_empty(), "it was given back");

    // Room again; it is read when a reading is old, so at the latest after 5 s.
    drop(others);
    let begin = Instant::now();
    while lab.visit().await.expect("room") != lab.visit().await.expect("room") {
        assert!(begin.elapsed() < PLENTY, "it is never kept again");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test]
async fn waiting_caller_is_served_when_there_is_room() {
    let (_postgres, lab) = limited(1, |config| config).await;
    let others = others(&lab, 1).await;
    let free = async {
        lab.eventually("it was refused", async |lab| {
            lab.database.retry_after().is_some()
        })
        .await;
        drop(others);
    };
    let (visited, ()) = tokio::join!(lab.visit(), free);
    visited.expect("it waited");
}

#[tokio::test]
async fn caller_without_time_is_told_when_to_retry() {
    let (_postgres, lab) = limited(0, |config| config).await;
    let visit = async |time| {
        let work = async { connection().await.map(drop).map_err(BoxError::from) };
        lab.database
            .invocation(time, work)
            .await
            .expect_err("it is full")
    };
    // It tries for as long as it can, and says what the server said.
    let error = visit(Duration::from_secs(4)).await;
    assert_eq!(
        kind_of(&error),
        Some(ErrorKind::TooManyConnections),
        "{error}"
    );
    let error = error.downcast::<antifreeze::Error>().expect("ours");
    assert!(error.retry_after().is_some() && error.is_retryable());
    // The circuit is open: a caller without time is refused without a connect.
    let error = visit(Duration::ZERO).await;
    assert_eq!(kind_of(&error), Some(ErrorKind::LoadShed), "{error}");
}

/// There was hardly time for the last try, and it heard nothing.
#[tokio::test]
async fn server_error_is_reported_not_the_timeout() {
    let (postgres, lab) = limited(0, |config| config).await;
    let relay = Relay::start(postgres.address()).await.expect("a relay");
    let url = relay.url(&lab.server.url_for(ROLE));
    let server = postgres.fresh_database().await.expect("a database");
    let lab = Lab::over(server, &url, |config| config);
    let work = async { connection().await.map(drop).map_err(BoxError::from) };
    let visit = lab.database.invocation(Duration::from_secs(4), work);
    let stall = async {
        lab.eventually("it was refused", async |lab| {
            lab.database.retry_after().is_some()
        })
        .await;
        relay.stall();
    };
    let (visited, ()) = tokio::join!(visit, stall);
    let error = visited.expect_err("it is full");
    assert_eq!(
        kind_of(&error),
        Some(ErrorKind::TooManyConnections),
        "{error}"
    );
    assert!(relay.counts().connections > 1, "it has tried again");
}

/// At the door the handler does not even begin.
#[tokio::test]
async fn request_is_refused_before_the_handler() {
    let (_postgres, lab) = limited(0, |config| config.load_shed(LoadShed::BeforeHandler)).await;
    let work = async { connection().await.map(drop).map_err(BoxError::from) };
    let refused = lab.database.invocation(Duration::from_secs(4), work).await;
    refused.expect_err("it is full");
    assert!(lab.database.retry_after().is_some(), "the circuit is open");
    let layer = DatabaseLayer::new(lab.database.clone()).max_duration(Duration::ZERO);
    let handler = service_fn(
        async |_: Request<String>| -> Result<Response<String>, BoxError> {
            panic!("the handler began")
        },
    );
    let service = tower::ServiceBuilder::new().layer(layer).service(handler);
    let response = service
        .oneshot(Request::default())
        .await
        .expect("an answer");
    assert_eq!(response.status(), 503);
    let after = response
        .headers()
        .get("retry-after")
        .expect("when to come back");
    assert!(
        after
            .to_str()
            .expect("text")
            .parse::<u64>()
            .expect("seconds")
            >= 1
    );
    let kind = response.headers().get("content-type").expect("a type");
    assert_eq!(kind, "application/problem+json");
}

/// Several invocations of one process, while the server is full: one asks, the others wait
/// for it, and all are served in the end.
#[tokio::test]
async fn one_caller_probes_for_all() {
    let (postgres, lab) = limited(0, |config| config.max_connections(10)).await;
    let relay = Relay::start(postgres.address()).await.expect("a relay");
    let url = relay.url(&lab.server.url_for(ROLE));
    let lab = Lab::over(
        postgres.fresh_database().await.expect("a database"),
        &url,
        |config| config.max_connections(10),
    );
    let all = futures_util::future::join_all((0..10).map(|_| lab.visit()));
    let admit = async {
        lab.eventually("it was refused", async |lab| {
            lab.database.retry_after().is_some()
        })
        .await;
        let before = relay.counts().connections;
        tokio::time::sleep(Duration::from_secs(3)).await;
        let asked = relay.counts().connections - before;
        lab.limit(10).await;
        asked
    };
    let (visits, asked) = tokio::join!(all, admit);
    for visited in visits {
        visited.expect("it waited");
    }
    // Ten at once would have asked some thirty times in three seconds.
    println!("asked {asked} times in 3 s");
    assert!((1..25).contains(&asked), "{asked}");
}

/// The only slot passes from one caller to the next, while others stop waiting for it at any of
/// their await points. It is not kept without a caller, since the server is full.
#[tokio::test]
async fn returned_connection_serves_a_waiter() {
    let (_postgres, lab) = limited(1, |config| config.max_connections(3)).await;
    let mut given_up = 0;
    for polls in 0..30 {
        let (holds, lets_go) = (Semaphore::new(0), Notify::new());
        let held = async || holds.acquire().await.expect("it is open").forget();
        let holder = lab.run(async {
            let connection = connection().await?;
            holds.add_permits(2);
            lets_go.notified().await;
            Ok(connection.process_id())
        });
        let waiter = async {
            held().await;
            lab.visit().await
        };
        let third = async {
            held().await;
            lab.eventually("the other was refused", async |lab| {
                lab.database.retry_after().is_some()
            })
            .await;
            let gives_up = poll_at_most(polls, lab.visit());
            let (gives_up, ()) = tokio::join!(gives_up, async { lets_go.notify_one() });
            gives_up.map(|visited| visited.expect("it waited"))
        };
        let (process, waited, third) = tokio::join!(holder, waiter, third);
        let process = process.expect("there is a slot");
        let waited = waited.expect("it came home");
        // Given up with the connection in hand it was closed.
        if polls == 0 || third.is_some() {
            assert_eq!(waited, process, "after {polls} polls");
        }
        assert!(third.is_none_or(|third| third == process), "after {polls}");
        given_up += usize::from(third.is_none());
        // The Terminate of an abandoned connection is not awaited.
        lab.eventually("it was given back", async |lab| {
            lab.sessions().await.is_empty()
        })
        .await;
    }
    assert!((3..28).contains(&given_up), "{given_up}");
}

/// A caller behind those that wait for the server gets the same answer.
#[tokio::test]
async fn late_caller_is_told_when_to_retry() {
    let (_postgres, lab) = limited(0, |config| {
        config
            .max_connections(1)
            .acquire_timeout(Duration::from_millis(50))
    })
    .await;
    let first = lab
        .database
        .invocation(PLENTY, async { connection().await.map(drop) });
    let second = async {
        lab.eventually("it was refused", async |lab| {
            lab.database.retry_after().is_some()
        })
        .await;
        lab.visit().await.expect_err("the other waits")
    };
    let second = tokio::select! {
        first = first => panic!("it waits for longer: {first:?}"),
        second = second => second,
    };
    assert_eq!(kind_of(&second), Some(ErrorKind::AcquireTimeout));
    let second = second.downcast::<antifreeze::Error>().expect("ours");
    assert!(second.retry_after().is_some());
}

/// From PostgreSQL 16 on some slots can be held back for roles that may use them.
#[tokio::test]
async fn reserved_slots_are_not_used() {
    let seventeen = Installation::embedded("17").expect("PostgreSQL 17");
    let postgres = Postgres::builder()
        .installation(seventeen)
        .setting("max_connections", 10)
        .setting("superuser_reserved_connections", 2)
        .setting("reserved_connections", 2)
        .start()
        .await
        .expect("a server");
    postgres.create_role(ROLE).await.expect("a role");
    let lab = over(&postgres, |config| config.max_connections(1)).await;
    // With ours five of six; of eight it would be no crowd.
    let mut all = others(&lab, 4).await;
    lab.visit().await.expect("room");
    // The answer may have come behind the first invocation's own.
    lab.visit().await.expect("room");
    assert!(lab.sessions().await.is_empty(), "it was given back");
    // As the server counts.
    all.extend(others(&lab, 2).await);
    let url = lab.server.url_for(ROLE);
    let seventh = tokio_postgres::connect(&url, tokio_postgres::NoTls).await;
    let error = seventh.err().expect("the others are held back");
    assert_eq!(error.code().map(|code| code.code()), Some("53300"));
}

/// The slot that one has is the next one's, which would have to connect again.
#[tokio::test]
async fn scarce_slot_passes_to_the_next_in_turn() {
    let (_postgres, lab) = limited(1, |config| config.max_connections(1)).await;
    let visit = || {
        lab.run(async {
            let connection = connection().await?;
            connection.batch_execute("select pg_sleep(0.1)").await?;
            Ok(connection.process_id())
        })
    };
    tried(true, async || {
        let (one, other) = tokio::join!(visit(), visit());
        // Nobody waits any more.
        lab.eventually("it is given back", async |lab| {
            lab.sessions().await.is_empty()
        })
        .await;
        one.expect("fine") == other.expect("fine")
    })
    .await;
}
