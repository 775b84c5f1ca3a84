/// By default.
const PROBE_AFTER: Duration = Duration::from_secs(60);

use lab::postgres::Postgres;
use lab::relay::Relay;

use super::*;
use crate::clock::{Clock, Manual};
use crate::config::Config;
use crate::connect::Connector;
use crate::pool::Pools;

struct Kept {
    pools: Pools,
    clock: Arc<Manual>,
    relay: Relay,
    /// The server's process behind the connection that is kept.
    process: i32,
}

impl Kept {
    async fn one() -> Kept {
        Kept::one_with(|config| config).await
    }

    async fn one_with(change: impl FnOnce(Config) -> Config) -> Kept {
        let postgres = Postgres::shared().await.expect("a server");
        let relay = Relay::start(postgres.address()).await.expect("a relay");
        let config = change(Config::from_url(&relay.url(&postgres.url())).expect("a URL"));
        let clock = Manual::new();
        let pools = Pools::new(Arc::new(Connector::new(config.in_force())), clock.clone());
        let mut kept = Kept {
            pools,
            clock,
            relay,
            process: 0,
        };
        kept.process = kept.lease().await.expect("a connection");
        kept
    }

    /// Leases a connection and gives it back.
    async fn lease(&self) -> Result<i32> {
        let lease = self.out().await?;
        let process = lease.0.session().process();
        back(lease).await;
        Ok(process)
    }

    async fn out(&self) -> Result<(Arc<Lease>, ExclusiveClient)> {
        let left = Some(PROBE_LIMIT * 3 / 2);
        let permit = self.pools.here().permit(left).await?;
        permit.checkout(left, None, &Tally::default()).await
    }

    /// Two connections that are kept.
    async fn two() -> Kept {
        let kept = Kept::one_with(|config| config.max_connections(2).max_idle_time(PROBE_AFTER));
        let kept = kept.await;
        let (one, other) = (kept.out().await, kept.out().await);
        back(one.expect("a connection")).await;
        back(other.expect("a connection")).await;
        assert_eq!(kept.counts(), (0, 2));
        kept
    }

    fn counts(&self) -> (usize, usize) {
        self.pools.here().counts()
    }
}

/// As teardown does.
async fn back((lease, home): (Arc<Lease>, ExclusiveClient)) {
    lease.session().settled().await;
    let reservation = lease.reserve().expect("there is room");
    lease.keep(home, reservation);
}

/// Also those that nobody asks for: the last that was given back is the first to be leased.
#[tokio::test]
async fn surplus_idle_connections_are_ended() {
    let kept = Kept::two().await;
    kept.clock.advance(PROBE_AFTER / 4 * 3);
    kept.lease().await.expect("alive");
    assert_eq!(kept.counts(), (0, 2));
    kept.clock.advance(PROBE_AFTER / 2);
    let lease = kept.out().await.expect("alive");
    assert_eq!(kept.counts(), (1, 0), "when one is leased");
    back(lease).await;

    let kept = Kept::two().await;
    let lease = kept.out().await.expect("alive");
    kept.clock.advance(PROBE_AFTER);
    assert_eq!(kept.counts(), (1, 1));
    back(lease).await;
    assert_eq!(kept.counts(), (0, 1), "when one comes back");
}

/// The server's slots, as somebody has just read them.
fn read(kept: &Kept, used: i64) {
    let figures = [10, used, -1, used, -1, used];
    let reading = crate::limit::Reading::new(kept.clock.now(), figures);
    kept.pools.limits().room.note(reading);
}

#[tokio::test]
async fn crowded_server_keeps_only_awaited_connections() {
    let kept = Kept::two().await;
    let (lease, _home) = kept.out().await.expect("alive");
    read(&kept, 8);
    assert!(lease.reserve().is_some());
    assert_eq!(kept.counts(), (1, 1), "at the mark");
    read(&kept, 9);
    let wanting = kept.pools.here().waiting.one();
    assert!(lease.reserve().is_none(), "there is one for him");
    assert_eq!(kept.counts(), (1, 1));
    drop(wanting);
    assert!(lease.reserve().is_none());
    assert_eq!(kept.counts(), (1, 0));
    let wanting = kept.pools.here().waiting.one();
    assert!(lease.reserve().is_some(), "somebody waits for it");
    drop(wanting);
}

#[tokio::test]
async fn long_idle_connection_is_tested_first() {
    let kept = Kept::one().await;
    for (idle, round_trips) in [(PROBE_AFTER, 0), (PROBE_AFTER * 2, 1)] {
        kept.clock.advance(idle);
        let before = kept.relay.counts();
        assert_eq!(kept.lease().await.expect("alive"), kept.process);
        let counts = kept.relay.counts().since(before);
        assert_eq!(counts.round_trips, round_trips, "{counts:?}");
        assert_eq!(counts.bytes_up > 0, round_trips > 0, "{counts:?}");
    }
}

#[tokio::test]
async fn silent_idle_connection_is_replaced() {
    let kept = Kept::one().await;
    kept.clock.advance(PROBE_AFTER * 2);
    kept.relay.stall();
    let error = kept.lease().await.expect_err("nobody answers");
    assert_eq!(error.kind(), ErrorKind::ConnectTimeout, "{error}");
    kept.relay.resume();
    assert_ne!(kept.lease().await.expect("another"), kept.process);
}

/// Nothing has told the runtime that the connection died, as in the first moment
/// after a freeze: the socket has to be asked.
#[tokio::test]
async fn dead_idle_connection_is_replaced() {
    for how in ["cut", "terminated"] {
        let kept = Kept::one().await;
        let (relay, process) = (&kept.relay, kept.process);
        // The thread of this runtime waits meanwhile, and looks at no socket.
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
                            postgres.execute(&end).await.expect("ended");
                            // Its last words come through the relay.
                            relay.quiet(Duration::from_millis(50)).await;
                        }
                    }
                });
            });
            died.join().expect("no panic");
        });
        assert_ne!(kept.lease().await.expect(how), kept.process, "{how}");
    }
}

#[tokio::test]
async fn too_old_connection_is_replaced() {
    let kept = Kept::one().await;
    kept.clock.advance(kept.pools.settings().max_age);
    assert_ne!(kept.lease().await.expect("another"), kept.process);
    // A tenth less is the least that any gets.
    let kept = Kept::one().await;
    kept.clock.advance(kept.pools.settings().max_age / 10 * 8);
    assert_eq!(kept.lease().await.expect("alive"), kept.process);
}

#[tokio::test]
async fn too_long_idle_connection_is_replaced() {
    let limit = PROBE_AFTER * 2;
    let kept = Kept::one_with(|config| config.max_idle_time(limit)).await;
    kept.clock.advance(PROBE_AFTER);
    assert_eq!(kept.lease().await.expect("alive"), kept.process);
    kept.clock.advance(limit);
    assert_ne!(kept.lease().await.expect("another"), kept.process);
}
