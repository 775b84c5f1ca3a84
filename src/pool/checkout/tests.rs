/// The default of `test_after_idle`.
const TEST_AFTER: Duration = Duration::from_secs(60);

use std::pin::pin;

use futures_util::poll;
use lab::postgres::Postgres;
use lab::relay::Relay;

use super::*;
use crate::clock::{Clock, Manual};
use crate::config::Config;
use crate::connect::Connector;
use crate::pool::Pools;

/// A pool over a relay, with idle connections.
struct Fixture {
    pools: Pools,
    clock: Arc<Manual>,
    relay: Relay,
    /// The server's process behind the idle connection.
    process: i32,
}

impl Fixture {
    async fn one() -> Fixture {
        Fixture::one_with(|config| config).await
    }

    async fn one_with(change: impl FnOnce(Config) -> Config) -> Fixture {
        let postgres = Postgres::shared().await.expect("a server");
        let relay = Relay::start(postgres.address()).await.expect("a relay");
        let config = change(Config::from_url(&relay.url(&postgres.url())).expect("a URL"));
        let clock = Manual::new();
        let pools = Pools::new(Arc::new(Connector::new(config.in_force())), clock.clone());
        let mut fixture = Fixture {
            pools,
            clock,
            relay,
            process: 0,
        };
        let leased = fixture.out().await.expect("a connection");
        leased.1.batch_execute("select 1").await.expect("a server");
        fixture.process = leased.0.session().process();
        back(leased).await;
        fixture.answered().await;
        fixture
    }

    /// Waits for the answers that no caller awaits: to the server's timeouts, and to the reading
    /// of the slots.
    async fn answered(&self) {
        self.relay.quiet(Duration::from_millis(50)).await;
    }

    /// Leases a connection and gives it back.
    async fn lease(&self) -> Result<i32> {
        let lease = self.out().await?;
        let process = lease.0.session().process();
        back(lease).await;
        Ok(process)
    }

    async fn out(&self) -> Result<(Arc<Lease>, ExclusiveClient)> {
        let left = Some(TEST_TIMEOUT * 4);
        // As an invocation does.
        if let Some(leased) = self.pools.here().try_checkout(None) {
            return Ok(leased);
        }
        let permit = self.pools.here().permit(left).await?;
        permit.checkout(left, None, &Tally::default()).await
    }

    /// Makes a pool with two idle connections.
    async fn two() -> Fixture {
        let fixture =
            Fixture::one_with(|config| config.max_connections(2).max_idle_time(TEST_AFTER));
        let fixture = fixture.await;
        let (one, other) = (fixture.out().await, fixture.out().await);
        back(one.expect("a connection")).await;
        back(other.expect("a connection")).await;
        assert_eq!(fixture.counts(), (0, 2));
        fixture
    }

    fn counts(&self) -> (usize, usize) {
        let pool = self.pools.here();
        (pool.in_use(), pool.idle())
    }
}

/// Gives a connection back, as teardown does.
async fn back((lease, client): (Arc<Lease>, ExclusiveClient)) {
    lease.session().settled().await;
    let reservation = lease.reserve().expect("there is room");
    lease.keep(client, reservation);
}

/// The task that takes a dropped connection back, and the teardown.
#[tokio::test]
async fn two_may_wait_for_a_reading() {
    let fixture = Fixture::one().await;
    let (lease, client) = fixture.out().await.expect("a connection");
    for teardown_is_first in [true, false] {
        let (answer, reading) = tokio::sync::oneshot::channel();
        lease.expect_reading(Some(reading));
        let mut teardown = pin!(lease.wait_for_reading(TEST_TIMEOUT));
        let mut task = pin!(Arc::clone(&lease).unheld_until_reading(TEST_TIMEOUT));
        if teardown_is_first {
            assert!(poll!(teardown.as_mut()).is_pending());
        }
        assert!(poll!(task.as_mut()).is_pending());
        assert!(poll!(teardown.as_mut()).is_pending());
        answer.send(Default::default()).expect("it is awaited");
        let (read, returned) = tokio::join!(teardown, task);
        assert!(read && returned.is_some());
    }
    back((lease, client)).await;
}

/// The connection given back last is leased first: the others are ended all the same.
#[tokio::test]
async fn surplus_idle_connections_are_ended() {
    let fixture = Fixture::two().await;
    fixture.clock.advance(TEST_AFTER / 4 * 3);
    fixture.lease().await.expect("alive");
    assert_eq!(fixture.counts(), (0, 2));
    fixture.clock.advance(TEST_AFTER / 2);
    let lease = fixture.out().await.expect("alive");
    assert_eq!(fixture.counts(), (1, 0), "when one is leased");
    back(lease).await;

    let fixture = Fixture::two().await;
    let lease = fixture.out().await.expect("alive");
    fixture.clock.advance(TEST_AFTER);
    assert_eq!(fixture.counts(), (1, 1));
    back(lease).await;
    assert_eq!(fixture.counts(), (0, 1), "when one comes back");
}

/// Notes a fresh reading with `used` of ten slots.
fn read(fixture: &Fixture, used: i64) {
    let figures = [10, used, -1, used, -1, used];
    let reading = crate::limit::Reading::new(fixture.clock.now(), figures);
    fixture.pools.limits.room.note(reading);
}

#[tokio::test]
async fn crowded_server_keeps_only_awaited_connections() {
    let fixture = Fixture::two().await;
    let (lease, _client) = fixture.out().await.expect("alive");
    read(&fixture, 8);
    assert!(lease.reserve().is_some());
    assert_eq!(fixture.counts(), (1, 1), "at the mark");
    read(&fixture, 9);
    let waiting = fixture.pools.here().waiting.one();
    assert!(lease.reserve().is_none(), "there is an idle one already");
    assert_eq!(fixture.counts(), (1, 1));
    drop(waiting);
    assert!(lease.reserve().is_none());
    assert_eq!(fixture.counts(), (1, 0));
    let waiting = fixture.pools.here().waiting.one();
    assert!(lease.reserve().is_some(), "a checkout waits for it");
    drop(waiting);
}

#[tokio::test]
async fn idle_connection_is_leased_at_once() {
    let fixture = Fixture::one_with(|config| config.max_connections(1)).await;
    let pool = || fixture.pools.here();
    let before = fixture.relay.counts();
    let leased = pool().try_checkout(None).expect("idle and at rest");
    assert_eq!(leased.0.session().process(), fixture.process);
    assert!(pool().try_checkout(None).is_none(), "it is leased");
    back(leased).await;
    let counts = fixture.relay.counts().since(before);
    assert_eq!((counts.bytes_up, counts.bytes_down), (0, 0));
    for (refused, after) in [(false, Duration::ZERO), (true, TEST_AFTER * 2)] {
        fixture.clock.advance(after);
        let leased = pool().try_checkout(None);
        assert_eq!(leased.is_none(), refused, "idle for {after:?}");
        if let Some(leased) = leased {
            back(leased).await;
        }
    }
    assert_eq!(fixture.counts(), (0, 1), "refused, it stays idle");
}

#[tokio::test]
async fn longer_call_gets_its_timeouts_first() {
    let fixture = Fixture::one_with(|config| config).await;
    let seconds = |seconds| Some(Duration::from_secs(seconds));
    // It was opened for a call of unknown length.
    let leased = fixture.pools.here().try_checkout(seconds(900));
    back(leased.expect("at rest")).await;
    fixture.pools.here().take_idle();
    let permit = fixture.pools.here().permit(None).await.expect("free");
    let opened = permit.checkout(None, seconds(3), &Tally::default()).await;
    back(opened.expect("a connection")).await;
    fixture.answered().await;
    for (granted, at_once) in [(seconds(3), true), (seconds(4), false), (None, false)] {
        let leased = fixture.pools.here().try_checkout(granted);
        assert_eq!(leased.is_some(), at_once, "{granted:?}");
        if let Some(leased) = leased {
            back(leased).await;
        }
    }
}

#[tokio::test]
async fn long_idle_connection_is_tested_first() {
    let fixture = Fixture::one().await;
    for (idle, round_trips) in [(TEST_AFTER, 0), (TEST_AFTER * 2, 1)] {
        fixture.clock.advance(idle);
        let before = fixture.relay.counts();
        assert_eq!(fixture.lease().await.expect("alive"), fixture.process);
        let counts = fixture.relay.counts().since(before);
        assert_eq!(counts.round_trips, round_trips, "{counts:?}");
        assert_eq!(counts.bytes_up > 0, round_trips > 0, "{counts:?}");
    }
}

#[tokio::test]
async fn silent_idle_connection_is_replaced() {
    let fixture = Fixture::one().await;
    fixture.clock.advance(TEST_AFTER * 2);
    fixture.relay.stall();
    let error = fixture.lease().await.expect_err("no answer");
    assert_eq!(error.kind(), ErrorKind::ConnectTimeout, "{error}");
    fixture.relay.resume();
    assert_ne!(fixture.lease().await.expect("another"), fixture.process);
}

/// The runtime has not noticed that the connection died, as in the first moment after a freeze:
/// only the socket shows it.
#[tokio::test]
async fn dead_idle_connection_is_replaced() {
    for how in ["cut", "terminated"] {
        let fixture = Fixture::one().await;
        let (relay, process) = (&fixture.relay, fixture.process);
        // The thread of this runtime blocks meanwhile, and polls no socket.
        std::thread::scope(|scope| {
            let died = scope.spawn(|| {
                let mut runtime = tokio::runtime::Builder::new_current_thread();
                let runtime = runtime.enable_all().build().expect("a runtime");
                runtime.block_on(async {
                    match how {
                        "cut" => relay.cut(lab::relay::Cut::Fin).await,
                        _ => {
                            let postgres = Postgres::shared().await.expect("a server");
                            let end = format!("select pg_terminate_backend({process}, 5000)");
                            let before = relay.counts().bytes_down;
                            postgres.execute(&end).await.expect("ended");
                            // The server's last message passes through the relay.
                            while relay.counts().bytes_down == before {
                                tokio::time::sleep(Duration::from_millis(1)).await;
                            }
                            relay.quiet(Duration::from_millis(50)).await;
                        }
                    }
                });
            });
            died.join().expect("no panic");
        });
        assert_ne!(fixture.lease().await.expect(how), fixture.process, "{how}");
    }
}

#[tokio::test]
async fn too_old_connection_is_replaced() {
    let fixture = Fixture::one().await;
    fixture.clock.advance(fixture.pools.settings().max_age);
    assert_ne!(fixture.lease().await.expect("another"), fixture.process);
    // The jitter takes off a tenth at most.
    let fixture = Fixture::one().await;
    let max_age = fixture.pools.settings().max_age;
    fixture.clock.advance(max_age / 10 * 8);
    assert_eq!(fixture.lease().await.expect("alive"), fixture.process);
}

#[tokio::test]
async fn too_long_idle_connection_is_replaced() {
    let limit = TEST_AFTER * 2;
    let fixture = Fixture::one_with(|config| config.max_idle_time(limit)).await;
    fixture.clock.advance(TEST_AFTER);
    assert_eq!(fixture.lease().await.expect("alive"), fixture.process);
    fixture.clock.advance(limit);
    assert_ne!(fixture.lease().await.expect("another"), fixture.process);
}
