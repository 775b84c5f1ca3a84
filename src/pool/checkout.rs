//! Leasing a connection: a kept one that is still alive, or a new one.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{Either, select};
use tokio::task::yield_now;
use tokio::time::{Instant, timeout};

use super::stale::NO_ANSWER;
use super::{Idle, Lease, Pool, Pools, lock};
use crate::connect::heals;
use crate::connection::{Home, Session};
use crate::error::{Error, ErrorKind, Result};
use crate::limit::Attempt;
use crate::net::Peek;
use crate::observe;
use crate::random;
use crate::wire::TransactionStatus;

/// How long that round trip may take before the connection counts as dead.
const PROBE_LIMIT: Duration = Duration::from_secs(1);

/// Each connection is taken for older than it is, by this part of `max_age` at most.
const AGE_JITTER: f64 = 0.1;

/// Longer than any invocation, and nothing overflows.
const LONGEST: Duration = Duration::from_secs(24 * 60 * 60);

impl Pools {
    /// Leases a connection of the current runtime, within the configured time and
    /// at most `left`, for an invocation that was `granted` so much in all.
    ///
    /// Cancel-safe: whoever stops waiting leaves nothing behind.
    pub(crate) async fn checkout(
        self: &Arc<Self>,
        left: Option<Duration>,
        granted: Option<Duration>,
    ) -> Result<(Lease, Home)> {
        let pool = self.here();
        let begin = Instant::now();
        let permit = match Arc::clone(&pool.permits).try_acquire_owned() {
            Ok(permit) => permit,
            Err(_) => {
                let limit = pool.config().acquire_timeout;
                let limit = left.map_or(limit, |left| left.min(limit));
                let acquire = Arc::clone(&pool.permits).acquire_owned();
                match timeout(limit, acquire).await {
                    Ok(Ok(permit)) => permit,
                    // The semaphore is never closed.
                    Ok(Err(_)) | Err(_) => {
                        let (in_use, max) = (pool.in_use(), pool.max_connections());
                        let error = Error::acquire_timeout(limit, in_use, max);
                        // Those who are waited for may be waiting for the server.
                        let next = self.limits.breaker.next_try();
                        return Err(error.with_next_try(next));
                    }
                }
            }
        };
        // With a connection that comes at the very end nobody can do anything.
        let patience = left.map_or(pool.config().connect_timeout, |left| left / 8 * 7);
        let end = begin + patience.min(LONGEST);
        let left = || left.map(|left| left.saturating_sub(begin.elapsed()));
        let limits = &self.limits;
        // What the server said when it was last asked.
        let mut said = None;
        let mut wanting = None;
        loop {
            let mut came_home = pin!(pool.came_home.notified());
            came_home.as_mut().enable();
            if let Some((session, home)) = self.kept(&pool, left()).await {
                session.tell_backstops(&home, granted).await;
                return Ok((Lease::new(session, Arc::clone(&pool), permit), home));
            }
            // While the server is full, another's connection may come home first.
            if limits.breaker.next_try().is_some() {
                wanting.get_or_insert_with(|| pool.want());
            }
            let admit = pin!(limits.breaker.admit(end, limits.sheds()));
            let attempt = match select(admit, came_home).await {
                Either::Left((Ok(attempt), _)) => attempt,
                Either::Left((Err(shed), _)) => {
                    observe::shed(&shed);
                    let next = shed.retry_after().unwrap_or_default();
                    let said = said.map(|said: Error| said.with_retry_after(next));
                    return Err(said.unwrap_or(shed));
                }
                Either::Right(_) => continue,
            };
            match self.open(&pool, left(), attempt).await {
                Ok(session) => {
                    let home = session.home().ok_or_else(Error::invocation_ended)?;
                    session.tell_backstops(&home, granted).await;
                    limits.room.ask(&home).await.map(tokio::spawn);
                    // It leaves now: behind a BEGIN that is armed for the user's first
                    // statement it would be part of his transaction.
                    session.pump();
                    return Ok((Lease::new(session, Arc::clone(&pool), permit), home));
                }
                // The next try is the breaker's, if there is to be one.
                Err(error) => {
                    let Some(next) = error.retry_after() else {
                        return Err(error);
                    };
                    let worth = worth_waiting(&error, begin, end);
                    if worth.is_none_or(|until| Instant::now() + next >= until) {
                        return Err(error);
                    }
                    said = Some(error);
                }
            }
        }
    }

    /// A kept connection that is still good.
    async fn kept(&self, pool: &Arc<Pool>, left: Option<Duration>) -> Option<(Arc<Session>, Home)> {
        pool.end_old();
        while let Some(idle) = pool.pop() {
            match examine(pool, &idle, left).await {
                Ok(home) => return Some((idle.session, home)),
                Err(why) => {
                    observe::discarded(idle.session.process(), why);
                    // Terminate goes out; nobody needs to wait for the answer.
                    idle.session.end();
                    if why == NO_ANSWER {
                        pool.end_forgotten();
                    }
                }
            }
        }
        None
    }

    async fn open(
        &self,
        pool: &Arc<Pool>,
        left: Option<Duration>,
        attempt: Attempt<'_>,
    ) -> Result<Arc<Session>> {
        let begin = Instant::now();
        let weak = Arc::downgrade(pool);
        let on_end = move || {
            if let Some(pool) = weak.upgrade() {
                pool.forget_ended();
            }
        };
        // Those that were opened at once are not to end at once.
        let earlier = pool
            .config()
            .max_age
            .mul_f64(random::fraction() * AGE_JITTER);
        let now = pool.clock.now().checked_sub(earlier);
        let (once, now) = (attempt.probes(), now.unwrap_or(pool.clock.now()));
        match Session::open(&self.connector, left, once, now, on_end).await {
            Ok(session) => {
                attempt.succeeded();
                if session.path() != pool.config().path {
                    // It is not what it was taken for: its slots are the pooler's.
                    self.limits.room.stop_counting();
                }
                self.note_round_trip(session.round_trip());
                observe::connected(session.process(), begin.elapsed());
                Ok(session)
            }
            Err(error) => {
                if error.kind() == ErrorKind::TooManyConnections {
                    self.limits.room.note_refusal(error.pool_size());
                }
                let next = attempt.failed(&error);
                Err(error.with_next_try(next))
            }
        }
    }

    /// Opens a connection to keep, unless there are as many as fit.
    pub(crate) async fn open_idle(self: &Arc<Self>, left: Option<Duration>) -> Result<()> {
        let pool = self.here();
        if pool.shut.is_shut() {
            return Ok(());
        }
        let Ok(permit) = Arc::clone(&pool.permits).try_acquire_owned() else {
            return Ok(());
        };
        // Our own permit is in use by now.
        if pool.in_use() + pool.idle() > pool.config().idle_limit() {
            return Ok(());
        }
        let limits = &self.limits;
        let end = Instant::now() + left.unwrap_or(pool.config().connect_timeout).min(LONGEST);
        let attempt = limits.breaker.admit(end, true).await?;
        let session = self.open(&pool, left, attempt).await?;
        let home = session.home().ok_or_else(Error::invocation_ended)?;
        session.tell_backstops(&home, None).await;
        // Nobody waits for this connection yet: it may as well be known by then.
        if let Some(reading) = limits.room.ask(&home).await {
            let _ = timeout(PROBE_LIMIT, reading).await;
        }
        let lease = Lease::new(session, pool, permit);
        if let Some(place) = lease.place() {
            lease.keep(home, place);
        }
        Ok(())
    }
}

impl Pool {
    /// The most recently used first: the others may then grow old and be closed.
    fn pop(&self) -> Option<Idle> {
        lock(&self.kept).idle.pop()
    }
}

/// Until when to wait for the server, if that makes sense: a slot comes free within any
/// time, and who is starting has said so; for what may heal a quarter of the time is
/// enough, since who can do without the database wants to know soon.
fn worth_waiting(error: &Error, begin: Instant, end: Instant) -> Option<Instant> {
    match error.kind() {
        ErrorKind::TooManyConnections | ErrorKind::ServerStarting => Some(end),
        _ => heals(error).then(|| begin + (end - begin) / 4),
    }
}

/// Whether a kept connection is still good, without a round trip as far as that
/// goes. `Err` says why not.
async fn examine(pool: &Pool, idle: &Idle, left: Option<Duration>) -> Result<Home, &'static str> {
    let session = &idle.session;
    match session.peek() {
        Peek::Closed => return Err("closed by the server"),
        // What has come meanwhile is no verdict (a parameter may have changed): the
        // driver reads it, then we know. Tokio has to see it first.
        Peek::Bytes => yield_now().await,
        Peek::Quiet => {}
    }
    let snapshot = session.pump();
    if !snapshot.is_quiet() || snapshot.status != Some(TransactionStatus::Idle) {
        return Err("not at rest");
    }
    let home = session.home().ok_or("in use")?;
    if pool.clock.since(idle.since) > pool.config().probe_after {
        let limit = left.map_or(PROBE_LIMIT, |left| left.min(PROBE_LIMIT));
        let probe = async {
            // The question after the room is as good as any, and one round trip is paid.
            match pool.limits.room.ask(&home).await {
                Some(reading) => reading.await,
                None => home.check_connection().await.is_ok(),
            }
        };
        match timeout(limit, probe).await {
            Ok(true) => {}
            _ => return Err(NO_ANSWER),
        }
    }
    Ok(home)
}

#[cfg(test)]
mod tests {
    /// By default.
    const PROBE_AFTER: Duration = Duration::from_secs(60);

    use lab::postgres::Postgres;
    use lab::relay::Relay;

    use super::*;
    use crate::clock::{Clock, Manual};
    use crate::config::Config;
    use crate::connect::Connector;

    struct Kept {
        pools: Arc<Pools>,
        clock: Arc<Manual>,
        relay: Relay,
        /// The server's process behind the connection that is kept.
        process: i32,
    }

    impl Kept {
        async fn one() -> Kept {
            Kept::one_with(|_| {}).await
        }

        async fn one_with(change: impl FnOnce(&mut Config)) -> Kept {
            let postgres = Postgres::shared().await.expect("a server");
            let relay = Relay::start(postgres.address()).await.expect("a relay");
            let mut config = Config::from_url(&relay.url(&postgres.url())).expect("a URL");
            change(&mut config);
            let clock = Manual::new();
            let pools = Pools::new(Arc::new(Connector::new(config)), clock.clone());
            let mut kept = Kept {
                pools: Arc::new(pools),
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
            let process = lease.0.session.process();
            back(lease).await;
            Ok(process)
        }

        async fn out(&self) -> Result<(Lease, Home)> {
            self.pools.checkout(Some(PROBE_LIMIT * 3 / 2), None).await
        }

        /// Two connections that are kept.
        async fn two() -> Kept {
            let kept = Kept::one_with(|config| {
                config.max_connections = 2;
                config.max_idle_time = Some(PROBE_AFTER);
            });
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
    async fn back((lease, home): (Lease, Home)) {
        lease.session.settled().await;
        let place = lease.place().expect("there is room");
        lease.keep(home, place);
    }

    /// Also those that nobody asks for: the last that came home is the first to be leased.
    #[tokio::test]
    async fn those_that_nobody_needs_are_ended_in_time() {
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
        kept.pools.limits.room.note(reading);
    }

    #[tokio::test]
    async fn above_the_mark_all_are_given_back_but_for_who_waits_for_one() {
        let kept = Kept::two().await;
        let (lease, _home) = kept.out().await.expect("alive");
        read(&kept, 8);
        assert!(lease.place().is_some());
        assert_eq!(kept.counts(), (1, 1), "at the mark");
        read(&kept, 9);
        let wanting = lease.pool.want();
        assert!(lease.place().is_none(), "there is one for him");
        assert_eq!(kept.counts(), (1, 1));
        drop(wanting);
        assert!(lease.place().is_none());
        assert_eq!(kept.counts(), (1, 0));
        let wanting = lease.pool.want();
        assert!(lease.place().is_some(), "somebody waits for it");
        drop(wanting);
    }

    #[tokio::test]
    async fn one_that_was_idle_for_long_is_asked_first() {
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
    async fn one_that_does_not_answer_is_replaced() {
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
    async fn one_that_died_unseen_is_replaced() {
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
    async fn one_that_is_too_old_is_replaced() {
        let kept = Kept::one().await;
        kept.clock.advance(kept.pools.config().max_age);
        assert_ne!(kept.lease().await.expect("another"), kept.process);
        // A tenth less is the least that any gets.
        let kept = Kept::one().await;
        kept.clock.advance(kept.pools.config().max_age / 10 * 8);
        assert_eq!(kept.lease().await.expect("alive"), kept.process);
    }

    #[tokio::test]
    async fn one_that_was_idle_for_too_long_is_replaced() {
        let limit = PROBE_AFTER * 2;
        let kept = Kept::one_with(|config| config.max_idle_time = Some(limit)).await;
        kept.clock.advance(PROBE_AFTER);
        assert_eq!(kept.lease().await.expect("alive"), kept.process);
        kept.clock.advance(limit);
        assert_ne!(kept.lease().await.expect("another"), kept.process);
    }
}
