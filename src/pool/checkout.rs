//! Leases a connection: an idle one that is still alive, or a new one.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{Either, select};
use tokio::sync::OwnedSemaphorePermit;
use tokio::task::yield_now;
use tokio::time::{Instant, timeout};

use super::lease::Lease;
use super::pools::{Idle, Pool};
use super::stale::NO_ANSWER;
use crate::connect::{Manner, heals};
use crate::connection::{ExclusiveClient, Session};
use crate::error::{Error, ErrorKind, Result};
use crate::limit::Attempt;
use crate::net::Peek;
use crate::observe;
use crate::random;
use crate::tally::{One, Tally};
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

/// A session, and its exclusive client.
type Leased = (Arc<Session>, ExclusiveClient);

impl Pool {
    /// Waits for the right to have a connection, within the configured time and at most
    /// `left`. First come, first served.
    pub(crate) async fn permit(self: Arc<Self>, left: Option<Duration>) -> Result<Permit> {
        if let Some(permit) = self.try_permit() {
            return Ok(Permit { pool: self, permit });
        }
        let limit = self.settings().acquire_timeout;
        let limit = left.map_or(limit, |left| left.min(limit));
        let acquire = Arc::clone(&self.permits).acquire_owned();
        // The semaphore is never closed.
        if let Ok(Ok(permit)) = timeout(limit, acquire).await {
            return Ok(Permit { pool: self, permit });
        }
        let error = Error::acquire_timeout(limit, self.in_use(), self.max_connections());
        // Those that are waited for may be waiting for the server.
        Err(error.with_next_try(self.shared.limits.breaker.next_try()))
    }

    fn try_permit(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.permits).try_acquire_owned().ok()
    }

    /// Opens a connection to keep, unless there are as many as fit.
    pub(crate) async fn open_idle(self: Arc<Self>, left: Option<Duration>) -> Result<()> {
        if self.shared.is_shut() {
            return Ok(());
        }
        let Some(permit) = self.try_permit() else {
            return Ok(());
        };
        // Our own permit is in use by now.
        if self.in_use() + self.idle() > self.settings().idle_limit() {
            return Ok(());
        }
        let limits = &self.shared.limits;
        let begin = Instant::now();
        let end = begin + left.unwrap_or(self.settings().connect_timeout).min(LONGEST);
        let attempt = limits.breaker.admit(begin, end, true).await?;
        let _opening = self.shared.opening.one();
        let session = self.open(left, attempt, None).await?;
        let client = session
            .exclusive_client()
            .ok_or_else(Error::invocation_ended)?;
        session.tell_server_timeouts(&client, None).await;
        // No caller waits for this connection yet: the room is read meanwhile.
        if let Some(reading) = limits.room.ask(&client).await {
            let _ = timeout(PROBE_LIMIT, reading).await;
        }
        let lease = Lease::new(session, Arc::clone(&self), permit);
        if let Some(reservation) = lease.reserve() {
            lease.keep(client, reservation);
        }
        Ok(())
    }

    async fn open(
        self: &Arc<Self>,
        left: Option<Duration>,
        attempt: Attempt<'_>,
        leaving: Option<&Tally>,
    ) -> Result<Arc<Session>> {
        let shared = &self.shared;
        let begin = Instant::now();
        let weak = Arc::downgrade(self);
        let on_end = move || {
            if let Some(pool) = weak.upgrade() {
                pool.retain_idle(|idle| !idle.session.is_over());
            }
        };
        // Those that were opened at once are not to end at once.
        let earlier = self.settings().max_age;
        let earlier = earlier.mul_f64(random::fraction() * AGE_JITTER);
        let now = shared.clock.now();
        let opened = now.checked_sub(earlier).unwrap_or(now);
        let manner = Manner {
            leaving,
            ..Manner::USUAL
        };
        let once = attempt.probes();
        match Session::open(&shared.connector, left, once, manner, opened, on_end).await {
            Ok(session) => {
                attempt.succeeded();
                if session.pooler() != self.settings().pooler {
                    // It is not what it was taken for: its slots are the pooler's.
                    shared.limits.room.stop_counting();
                }
                shared.note_round_trip(session.round_trip());
                observe::connected(session.process(), begin.elapsed());
                Ok(session)
            }
            Err(error) => {
                if error.kind() == ErrorKind::TooManyConnections {
                    shared.limits.room.note_refusal(error.pool_size());
                }
                let next = attempt.failed(&error);
                Err(error.with_next_try(next))
            }
        }
    }
}

impl Permit {
    /// Leases the connection that this is the permit for, an idle one or a new one, to an
    /// invocation that has so much time `left` and was `granted` so much in all.
    ///
    /// Cancel-safe: a caller that stops waiting leaves nothing behind but a session that had
    /// begun, which counts as one that is `leaving` until the server has closed it.
    pub(crate) async fn checkout(
        self,
        left: Option<Duration>,
        granted: Option<Duration>,
        leaving: &Tally,
    ) -> Result<(Arc<Lease>, ExclusiveClient)> {
        let Permit { pool, permit } = self;
        let begin = Instant::now();
        // A connection that comes at the very end is of no use.
        let patience = left.map_or(pool.settings().connect_timeout, |left| left / 8 * 7);
        let mut checkout = Checkout {
            pool: &pool,
            begin,
            end: begin + patience.min(LONGEST),
            left,
            granted,
            last_error: None,
            waiting: None,
        };
        loop {
            let mut returned = pin!(pool.returned.notified());
            returned.as_mut().enable();
            if let Some((session, client)) = checkout.reuse().await {
                return Ok((Lease::new(session, Arc::clone(&pool), permit), client));
            }
            let admitted = match select(Box::pin(checkout.admission()), returned).await {
                Either::Left((admitted, _)) => admitted,
                Either::Right(_) => continue,
            };
            let attempt = admitted?;
            // Until it is leased.
            let _opening = pool.shared.opening.one();
            if let Some((session, client)) = checkout.connect(attempt, leaving).await? {
                return Ok((Lease::new(session, Arc::clone(&pool), permit), client));
            }
        }
    }
}

/// A checkout under way.
struct Checkout<'a> {
    pool: &'a Arc<Pool>,
    begin: Instant,
    end: Instant,
    left: Option<Duration>,
    granted: Option<Duration>,
    /// What the server said when it was last asked.
    last_error: Option<Error>,
    waiting: Option<One>,
}

impl<'a> Checkout<'a> {
    fn left(&self) -> Option<Duration> {
        let left = self.left?;
        Some(left.saturating_sub(self.begin.elapsed()))
    }

    /// Takes an idle connection that is still good.
    async fn reuse(&self) -> Option<Leased> {
        let pool = self.pool;
        pool.end_old();
        while let Some(idle) = pool.pop() {
            match examine(pool, &idle, self.left()).await {
                Ok(client) => {
                    idle.session
                        .tell_server_timeouts(&client, self.granted)
                        .await;
                    return Some((idle.session, client));
                }
                Err(why) => {
                    observe::discarded(idle.session.process(), why);
                    // Terminate goes out; its answer need not be awaited.
                    idle.session.end();
                    if why == NO_ANSWER {
                        pool.end_forgotten();
                    }
                }
            }
        }
        None
    }

    /// Waits until the breaker lets it connect. Fails if that is too late.
    async fn admission(&mut self) -> Result<Attempt<'a>> {
        let limits = &self.pool.shared.limits;
        // While the server is full, another's connection may be given back first.
        if limits.breaker.next_try().is_some() {
            self.waiting.get_or_insert_with(|| self.pool.waiting.one());
        }
        let admitted = limits.breaker.admit(self.begin, self.end, limits.sheds());
        admitted.await.map_err(|shed| {
            observe::shed(None, &shed);
            let next = shed.retry_after().unwrap_or_default();
            let said = self.last_error.take();
            said.map_or(shed, |said| said.with_retry_after(next))
        })
    }

    /// Opens a connection. `None`: the server cannot take one now, and there is time to wait
    /// until it can.
    async fn connect(&mut self, attempt: Attempt<'_>, leaving: &Tally) -> Result<Option<Leased>> {
        let tried = Instant::now();
        // Boxed: the future of a checkout that finds an idle connection stays small.
        let open = Box::pin(self.pool.open(self.left(), attempt, Some(leaving)));
        let session = match open.await {
            Ok(session) => session,
            Err(error) => return self.failed(error, tried).map(|()| None),
        };
        let client = session
            .exclusive_client()
            .ok_or_else(Error::invocation_ended)?;
        session.tell_server_timeouts(&client, self.granted).await;
        if let Some(reading) = self.pool.shared.limits.room.ask(&client).await {
            session.see_to(reading);
        }
        // It leaves now: behind a BEGIN that is armed for the user's first statement it
        // would be part of that transaction.
        session.pump();
        Ok(Some((session, client)))
    }

    /// Notes why connecting failed. Fails if there is no next try, which is the breaker's.
    fn failed(&mut self, error: Error, tried: Instant) -> Result<()> {
        // For want of time it heard nothing: what the server said before stands.
        let cut_short = error.kind() == ErrorKind::ConnectTimeout
            && tried.elapsed() < self.pool.settings().connect_timeout;
        let error = match self.last_error.take() {
            Some(said) if cut_short => said.with_next_try(error.retry_after()),
            _ => error,
        };
        let next = error.retry_after();
        let worth = worth_waiting(&error, self.begin, self.end);
        match next.zip(worth) {
            Some((next, until)) if Instant::now() + next < until => {
                self.last_error = Some(error);
                Ok(())
            }
            _ => Err(error),
        }
    }
}

/// Until when to wait for the server, if that makes sense: a slot comes free within any
/// time, and a server that is starting has said so; for what may heal a quarter of the time
/// is enough, since a function that can do without the database wants to know soon.
fn worth_waiting(error: &Error, begin: Instant, end: Instant) -> Option<Instant> {
    match error.kind() {
        ErrorKind::TooManyConnections | ErrorKind::ServerStarting => Some(end),
        _ => heals(error).then(|| begin + (end - begin) / 4),
    }
}

/// Whether an idle connection is still good, without a round trip as far as that
/// goes. `Err` says why not.
async fn examine(
    pool: &Pool,
    idle: &Idle,
    left: Option<Duration>,
) -> Result<ExclusiveClient, &'static str> {
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
    let client = session.exclusive_client().ok_or("in use")?;
    if pool.shared.clock.since(idle.since) > pool.settings().test_after_idle {
        let limit = left.map_or(PROBE_LIMIT, |left| left.min(PROBE_LIMIT));
        let probe = async {
            // The question after the room is as good as any, and one round trip is paid.
            match pool.shared.limits.room.ask_again(&client).await {
                Some(reading) => reading.await,
                None => client.check_connection().await.is_ok(),
            }
        };
        match timeout(limit, probe).await {
            // What it has reported meanwhile came with the answer.
            Ok(true) => fits(pool, session)?,
            _ => return Err(NO_ANSWER),
        }
    }
    Ok(client)
}

/// Whether the server is still what `target_session_attrs` asks for: a failover or a
/// promotion does not end every session.
fn fits(pool: &Pool, session: &Session) -> Result<(), &'static str> {
    let wish = pool.settings().target_session_attrs;
    wish.check(session.wire().reported())?;
    if wish.wants_writes() && session.wire().refused_write() {
        return Err("refused a write, and target_session_attrs asks for one that takes them");
    }
    Ok(())
}

#[cfg(all(test, unix))]
mod tests;
