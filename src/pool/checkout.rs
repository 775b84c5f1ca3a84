//! Checks out connections: an idle one that is still alive, or a new one.

use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures_util::future::{BoxFuture, Either, select};
use tokio::sync::OwnedSemaphorePermit;
use tokio::task::yield_now;
use tokio::time::{Instant, timeout};

use super::lease::Lease;
use super::pools::{Idle, Pool};
use super::stale::NO_ANSWER;
use crate::clock::between;
use crate::config::TargetSessionAttrs;
use crate::connect::{ConnectOptions, is_transient};
use crate::connection::{ExclusiveClient, ServerSession};
use crate::error::{Error, ErrorKind, Result};
use crate::limit::Admission;
use crate::net::Peek;
use crate::observe::{self, span};
use crate::random;
use crate::tally::{One, Tally};
use crate::wire::{Snapshot, TransactionStatus};

/// How long an idle connection may take to answer before it counts as dead.
const TEST_TIMEOUT: Duration = Duration::from_secs(1);

/// The maximum, as a part of `max_age`, of the random time by which a connection is replaced
/// earlier, so that connections opened together do not expire together.
const AGE_JITTER: f64 = 0.1;

/// The maximum time to wait: longer than any invocation, and short enough to be added to any
/// instant without an overflow.
const MAX_WAIT: Duration = Duration::from_secs(24 * 60 * 60);

/// The right to lease one connection of a pool.
pub(crate) struct Permit {
    pool: Arc<Pool>,
    permit: OwnedSemaphorePermit,
}

/// A session with its exclusive client.
type Leased = (Arc<ServerSession>, ExclusiveClient);

impl Pool {
    /// Waits for a permit, for `acquire_timeout` and at most for `left`. The caller that has
    /// waited longest is served first.
    pub(crate) async fn permit(self: Arc<Self>, left: Option<Duration>) -> Result<Permit> {
        if let Some(permit) = self.try_permit() {
            return Ok(Permit { pool: self, permit });
        }
        span::waits();
        let meters = self.shared.meters.clone();
        let _pending = meters.pending();
        // What is given back meanwhile is kept for this caller, however crowded the server is.
        let _waiting = self.waiting.one();
        let limit = self.settings().acquire_timeout;
        let limit = left.map_or(limit, |left| left.min(limit));
        let acquire = Arc::clone(&self.permits).acquire_owned();
        // The semaphore is never closed.
        if let Ok(Ok(permit)) = timeout(limit, acquire).await {
            return Ok(Permit { pool: self, permit });
        }
        meters.timed_out();
        let error = Error::acquire_timeout(limit, self.in_use(), self.max_connections());
        // The holders of the permits may be waiting for the server.
        Err(error.with_next_try(self.shared.limits.breaker.next_try()))
    }

    /// Leases an idle connection to an invocation that was `granted` this time, if one can be
    /// leased without waiting and without sending anything. Otherwise nothing has changed, and
    /// a [checkout](Permit::checkout) finds out why.
    pub(crate) fn try_checkout(
        self: Arc<Self>,
        granted: Option<Duration>,
    ) -> Option<(Arc<Lease>, ExclusiveClient)> {
        let permit = self.try_permit()?;
        let now = self.shared.clock.now();
        let (session, client) = self.pop_if(now, |idle| {
            let session = &idle.session;
            let is_ready = session.link.socket.peek() == Peek::Quiet
                && session.has_server_timeouts(granted)
                && !self.needs_test(idle, now);
            let client = is_ready.then(|| session.exclusive_client())??;
            // Only the Close of a dropped statement can have been queued since it was kept, and
            // that is sent in front of the next statement.
            check_rest(&self, session, client.session.wire.snapshot()).ok()?;
            Some(client)
        })?;
        Some((Lease::of_kept(session, self, permit), client))
    }

    /// Returns whether a connection was idle for so long that it has to answer a query before it
    /// is leased.
    fn needs_test(&self, idle: &Idle, now: SystemTime) -> bool {
        between(idle.since, now) > self.settings().test_after_idle
    }

    fn try_permit(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.permits).try_acquire_owned().ok()
    }

    /// Opens an idle connection, unless the pool has enough of them.
    pub(crate) async fn open_idle(self: Arc<Self>, limit: Duration) -> Result<()> {
        let open = !self.shared.is_shut();
        let Some(permit) = open.then(|| self.try_permit()).flatten() else {
            return Ok(());
        };
        // The permit above is counted.
        if self.in_use() + self.idle() > self.settings().idle_limit() {
            return Ok(());
        }
        let limits = &self.shared.limits;
        let begin = Instant::now();
        let attempt = limits.breaker.admit(begin, begin + limit, true).await?;
        let _opening = self.shared.opening.one();
        let (session, client) = self.open(Some(limit), None, attempt, None).await?;
        let lease = Lease::new(session, Arc::clone(&self), permit);
        // Even if the server is crowded: it is opened for an event that is about to come.
        if let Some(reservation) = self.reserve(self.settings().idle_limit()) {
            lease.keep(client, reservation);
        }
        Ok(())
    }

    /// Opens a connection. The server gets its timeouts for an invocation of `granted`.
    async fn open(
        self: &Arc<Self>,
        left: Option<Duration>,
        granted: Option<Duration>,
        attempt: Admission<'_>,
        closing: Option<&Tally>,
    ) -> Result<Leased> {
        let shared = &self.shared;
        let begin = Instant::now();
        let weak = Arc::downgrade(self);
        let on_end = move || {
            if let Some(pool) = weak.upgrade() {
                pool.retain_idle(|idle| !idle.session.is_over());
            }
        };
        let jitter = random::fraction() * AGE_JITTER;
        let added_age = self.settings().max_age.mul_f64(jitter);
        let now = shared.clock.now();
        let opened = now.checked_sub(added_age).unwrap_or(now);
        let options = ConnectOptions {
            once: attempt.probes,
            granted,
            closing,
            ..ConnectOptions::DEFAULT
        };
        let connector = &shared.connector;
        let session = ServerSession::open(connector, left, options, opened, on_end);
        let session = match session.await {
            Ok(session) => session,
            Err(error) => {
                if error.kind() == ErrorKind::TooManyConnections {
                    shared.limits.room.note_refusal(error.pool_size());
                }
                let next = attempt.failed(&error);
                return Err(error.with_next_try(next));
            }
        };
        attempt.succeeded();
        if session.link.pooler != self.settings().pooler {
            // It turned out to go through a pooler: its slots are the pooler's.
            shared.limits.room.stop_counting();
        }
        *shared.round_trip.lock() = session.link.round_trip;
        let elapsed = begin.elapsed();
        observe::connected(session.process(), elapsed);
        shared.meters.connected(elapsed);
        span::checked_out("opened");
        let client = session.exclusive_client();
        let client = client.ok_or_else(Error::invocation_ended)?;
        session.set_server_timeouts(granted);
        Ok((session, client))
    }
}

impl Permit {
    /// Leases an idle or a new connection to an invocation that has `left` of the time that it
    /// was `granted`.
    ///
    /// Cancel-safe: if the caller stops waiting while a session is being opened, that session
    /// is counted in `closing` until the server has closed it.
    pub(crate) async fn checkout(
        self,
        left: Option<Duration>,
        granted: Option<Duration>,
        closing: &Tally,
    ) -> Result<(Arc<Lease>, ExclusiveClient)> {
        let Permit { pool, permit } = self;
        let begin = Instant::now();
        // A connection that comes at the very end is of no use.
        let patience = left.map_or(pool.settings().connect_timeout, |left| left / 8 * 7);
        let mut checkout = Checkout {
            pool: &pool,
            begin,
            end: begin + patience.min(MAX_WAIT),
            left,
            granted,
            last_error: None,
            waiting: None,
        };
        loop {
            let admitted = {
                // While it connects, a connection that is given back is another caller's.
                let mut returned = pin!(pool.returned.notified());
                returned.as_mut().enable();
                if let Some((session, client)) = checkout.reuse().await {
                    let lease = Lease::of_kept(session, Arc::clone(&pool), permit);
                    return Ok((lease, client));
                }
                match select(Box::pin(checkout.admission()), returned).await {
                    Either::Left((admitted, _)) => admitted,
                    Either::Right(_) => continue,
                }
            };
            let attempt = admitted?;
            // Counted until the connection is leased.
            let _opening = pool.shared.opening.one();
            if let Some((session, client)) = checkout.connect(attempt, closing).await? {
                let lease = Lease::new(session, Arc::clone(&pool), permit);
                lease.ask_behind();
                return Ok((lease, client));
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
    /// Why the last connect failed.
    last_error: Option<Error>,
    waiting: Option<One>,
}

impl<'a> Checkout<'a> {
    fn left(&self) -> Option<Duration> {
        Some(self.left?.saturating_sub(self.begin.elapsed()))
    }

    /// Takes an idle connection that is still usable.
    async fn reuse(&self) -> Option<Leased> {
        let pool = self.pool;
        pool.end_old();
        while let Some(idle) = pool.pop() {
            let probes = pool.needs_test(&idle, pool.shared.clock.now());
            match examine(pool, &idle, self.left()).await {
                Ok(client) => {
                    span::checked_out(if probes { "probed" } else { "kept" });
                    let session = idle.session;
                    session.set_server_timeouts(self.granted);
                    return Some((session, client));
                }
                Err(why) => {
                    observe::discarded(idle.session.process(), why);
                    pool.shared.meters.discarded(why);
                    // Sends Terminate; the end of the session need not be awaited.
                    idle.session.terminate();
                    if why == NO_ANSWER {
                        pool.end_forgotten();
                    }
                }
            }
        }
        None
    }

    /// Waits until the circuit breaker admits the checkout. Fails if that is too late.
    async fn admission(&mut self) -> Result<Admission<'a>> {
        let limits = &self.pool.shared.limits;
        // While the server is full, another invocation may give a connection back first.
        if limits.breaker.next_try().is_some() {
            self.waiting.get_or_insert_with(|| self.pool.waiting.one());
        }
        let admitted = limits.breaker.admit(self.begin, self.end, limits.sheds());
        admitted.await.map_err(|shed| {
            observe::shed(None, &shed);
            self.pool.shared.meters.shed();
            let (last, next) = (self.last_error.take(), shed.retry_after());
            last.map_or(shed, |error| error.with_next_try(next))
        })
    }

    /// Opens a connection. `None`: the server accepts none now, and there is time to wait and
    /// try again.
    async fn connect(&mut self, attempt: Admission<'_>, closing: &Tally) -> Result<Option<Leased>> {
        let tried = Instant::now();
        // Boxed: a checkout that gets an idle connection does not carry this future's size.
        let open: BoxFuture<'_, _> =
            Box::pin(
                self.pool
                    .open(self.left(), self.granted, attempt, Some(closing)),
            );
        let (session, client) = match open.await {
            Ok(leased) => leased,
            Err(error) => return self.failed(error, tried).map(|()| None),
        };
        Ok(Some((session, client)))
    }

    /// Records why the connect failed. Fails if the breaker has no next try in time.
    fn failed(&mut self, error: Error, tried: Instant) -> Result<()> {
        // The caller's time ran out before the server answered: its last error stands.
        let cut_short = error.kind() == ErrorKind::ConnectTimeout
            && tried.elapsed() < self.pool.settings().connect_timeout;
        let error = match self.last_error.take() {
            Some(last) if cut_short => last.with_next_try(error.retry_after()),
            _ => error,
        };
        let next = error.retry_after();
        match next.zip(retry_end(&error, self.begin, self.end)) {
            Some((next, until)) if Instant::now() + next < until => {
                self.last_error = Some(error);
                Ok(())
            }
            _ => Err(error),
        }
    }
}

/// Until when connecting is retried, if the error is transient. A slot can become free at any
/// time, and a server that is starting will be ready. For other transient errors half of the
/// time is enough: a function that can do without the database should know before the end.
fn retry_end(error: &Error, begin: Instant, end: Instant) -> Option<Instant> {
    match error.kind() {
        ErrorKind::TooManyConnections | ErrorKind::ServerStarting => Some(end),
        _ => is_transient(error).then(|| begin + (end - begin) / 2),
    }
}

/// Examines whether an idle connection is still usable, without a round trip unless it was
/// idle for long. `Err` has the reason why not.
async fn examine(
    pool: &Pool,
    idle: &Idle,
    left: Option<Duration>,
) -> Result<ExclusiveClient, &'static str> {
    let session = &idle.session;
    match session.link.socket.peek() {
        Peek::Closed => return Err("closed by the server"),
        // The bytes may be harmless (a parameter has changed): the driver has to read them
        // first, and for that tokio has to see that the socket is readable.
        Peek::Bytes => yield_now().await,
        Peek::Quiet => {}
    }
    check_rest(pool, session, session.pump())?;
    let client = session.exclusive_client().ok_or("in use")?;
    if pool.needs_test(idle, pool.shared.clock.now()) {
        let limit = left.map_or(TEST_TIMEOUT, |left| left.min(TEST_TIMEOUT));
        let test = async {
            // Reading the slots is a test as good as any, for the same round trip.
            match pool.shared.limits.room.ask_again(session) {
                Some(reading) => reading.await,
                None => match session.ask("", true) {
                    Some(answer) => answer.await.is_some(),
                    None => false,
                },
            }
        };
        let answered = timeout(limit, test).await;
        pool.shared.meters.thawed(answered == Ok(true));
        match answered {
            // Parameters that have changed were reported together with the answer.
            Ok(true) => check_target_attrs(pool, session)?,
            _ => return Err(NO_ANSWER),
        }
    }
    Ok(client)
}

/// Checks that a session can be leased, according to `snapshot`.
fn check_rest(
    pool: &Pool,
    session: &ServerSession,
    snapshot: Snapshot,
) -> Result<(), &'static str> {
    if !snapshot.is_quiet() || snapshot.status != Some(TransactionStatus::Idle) {
        return Err("not at rest");
    }
    check_target_attrs(pool, session)
}

/// Checks that the server is still what `target_session_attrs` asks for: a failover or a
/// promotion does not end every session.
fn check_target_attrs(pool: &Pool, session: &ServerSession) -> Result<(), &'static str> {
    let wanted = pool.settings().target_session_attrs;
    if wanted == TargetSessionAttrs::Any {
        return Ok(());
    }
    let facts = session.link.wire.facts();
    wanted.check(facts.parameters)?;
    if wanted.wants_writes() && facts.refused_write {
        return Err("refused a write, and target_session_attrs asks for a writable server");
    }
    Ok(())
}

#[cfg(all(test, unix))]
mod tests;
