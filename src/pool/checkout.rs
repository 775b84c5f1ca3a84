//! Leasing a connection: a kept one that is still alive, or a new one.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{Either, select};
use tokio::sync::OwnedSemaphorePermit;
use tokio::task::yield_now;
use tokio::time::{Instant, timeout};

use super::stale::NO_ANSWER;
use super::{Idle, Lease, Pool, Pools, lock};
use crate::connect::{Manner, heals};
use crate::connection::{Home, Session};
use crate::error::{Error, ErrorKind, Result};
use crate::limit::Attempt;
use crate::net::Peek;
use crate::observe;
use crate::random;
use crate::tally::Tally;
use crate::wire::TransactionStatus;

/// How long that round trip may take before the connection counts as dead.
const PROBE_LIMIT: Duration = Duration::from_secs(1);

/// Each connection is taken for older than it is, by this part of `max_age` at most.
const AGE_JITTER: f64 = 0.1;

/// Longer than any invocation, and nothing overflows.
const LONGEST: Duration = Duration::from_secs(24 * 60 * 60);

/// The right to have a connection of one runtime.
pub(crate) struct Permit {
    pool: Arc<Pool>,
    permit: OwnedSemaphorePermit,
}

impl Pools {
    /// Waits for the right to have a connection of the current runtime, within the
    /// configured time and at most `left`. First come, first served.
    pub(crate) async fn permit(self: &Arc<Self>, left: Option<Duration>) -> Result<Permit> {
        let pool = self.here();
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
        Ok(Permit { pool, permit })
    }

    /// Leases the connection that `permit` is for, a kept one or a new one, for an
    /// invocation that has so much time `left` and was `granted` so much in all.
    ///
    /// Cancel-safe: whoever stops waiting leaves nothing behind but a session that had
    /// begun, which counts as one that is `leaving` until the server has closed it.
    pub(crate) async fn checkout(
        &self,
        permit: Permit,
        left: Option<Duration>,
        granted: Option<Duration>,
        leaving: &Tally,
    ) -> Result<(Lease, Home)> {
        let Permit { pool, permit } = permit;
        let begin = Instant::now();
        // With a connection that comes at the very end nobody can do anything.
        let patience = left.map_or(pool.config().connect_timeout, |left| left / 8 * 7);
        let end = begin + patience.min(LONGEST);
        let left = || left.map(|left| left.saturating_sub(begin.elapsed()));
        let limits = &self.limits;
        // What the server said when it was last asked.
        let mut said: Option<Error> = None;
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
            let admit = pin!(limits.breaker.admit(begin, end, limits.sheds()));
            let attempt = match select(admit, came_home).await {
                Either::Left((Ok(attempt), _)) => attempt,
                Either::Left((Err(shed), _)) => {
                    observe::shed(None, &shed);
                    let next = shed.retry_after().unwrap_or_default();
                    let said = said.map(|said| said.with_retry_after(next));
                    return Err(said.unwrap_or(shed));
                }
                Either::Right(_) => continue,
            };
            // Until it is somebody's.
            let _opening = self.opening.one();
            let tried = Instant::now();
            match self.open(&pool, left(), attempt, Some(leaving)).await {
                Ok(session) => {
                    let home = session.home().ok_or_else(Error::invocation_ended)?;
                    session.tell_backstops(&home, granted).await;
                    if let Some(reading) = limits.room.ask(&home).await {
                        session.see_to(reading);
                    }
                    // It leaves now: behind a BEGIN that is armed for the user's first
                    // statement it would be part of his transaction.
                    session.pump();
                    return Ok((Lease::new(session, Arc::clone(&pool), permit), home));
                }
                // The next try is the breaker's, if there is to be one.
                Err(error) => {
                    // For want of time it heard nothing: what the server said before stands.
                    let cut_short = error.kind() == ErrorKind::ConnectTimeout
                        && tried.elapsed() < pool.config().connect_timeout;
                    let error = match said.take() {
                        Some(said) if cut_short => said.with_next_try(error.retry_after()),
                        _ => error,
                    };
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
        leaving: Option<&Tally>,
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
        let manner = Manner {
            leaving,
            ..Manner::USUAL
        };
        match Session::open(&self.connector, left, once, manner, now, on_end).await {
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
        let begin = Instant::now();
        let end = begin + left.unwrap_or(pool.config().connect_timeout).min(LONGEST);
        let attempt = limits.breaker.admit(begin, end, true).await?;
        let _opening = self.opening.one();
        let session = self.open(&pool, left, attempt, None).await?;
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
    fits(pool, session)?;
    let home = session.home().ok_or("in use")?;
    if pool.clock.since(idle.since) > pool.config().probe_after {
        let limit = left.map_or(PROBE_LIMIT, |left| left.min(PROBE_LIMIT));
        let probe = async {
            // The question after the room is as good as any, and one round trip is paid.
            match pool.limits.room.ask_again(&home).await {
                Some(reading) => reading.await,
                None => home.check_connection().await.is_ok(),
            }
        };
        match timeout(limit, probe).await {
            // What it has reported meanwhile came with the answer.
            Ok(true) => fits(pool, session)?,
            _ => return Err(NO_ANSWER),
        }
    }
    Ok(home)
}

/// Whether the server is still what `target_session_attrs` asks for: a failover or a
/// promotion does not end every session.
fn fits(pool: &Pool, session: &Session) -> Result<(), &'static str> {
    let wish = pool.config().target_session_attrs;
    wish.check(session.wire().reported())?;
    match wish.wants_writes() && session.wire().refused_write() {
        true => Err("refused a write, and target_session_attrs asks for one that takes them"),
        false => Ok(()),
    }
}

#[cfg(all(test, unix))]
mod tests;
