//! Leases: a connection that is checked out, together with its permit.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::{OptionFuture, Shared};
use tokio::sync::OwnedSemaphorePermit;
use tokio::sync::oneshot::Receiver;
use tokio::task::coop::unconstrained;
use tokio::task::yield_now;
use tokio::time::timeout;

use super::pools::Pool;
use crate::clock::between;
use crate::config::Settings;
use crate::connection::{ExclusiveClient, ServerSession};
use crate::limit::Room;
use crate::lock::Mutex;
use crate::observe::{Caller, Stamp};
use crate::tally::One;
use crate::wire::OwnAnswer;

/// A connection from its checkout until it is kept or closed.
///
/// It passes from holder to holder in turns. What an earlier holder still has, such as a
/// cancel token, no longer affects it.
pub(crate) struct Lease {
    session: Arc<ServerSession>,
    pool: Arc<Pool>,
    turn: Mutex<Turn>,
    /// Held during each poll of a [teardown with a turn](Lease::in_turn).
    resting: Mutex<()>,
    /// The reading of the slots that leaves behind the first statement. A task and the teardown
    /// may wait for it at once.
    reading: Mutex<Option<Shared<Receiver<OwnAnswer>>>>,
    checked_out: Mutex<Option<CheckedOut>>,
}

/// What ends when the connection is kept or closed, even if something still has the lease.
struct CheckedOut {
    since: Stamp,
    _leased: One,
    _permit: OwnedSemaphorePermit,
}

/// The turn of one holder.
#[derive(Default)]
struct Turn {
    number: u64,
    /// What checked the connection out last.
    caller: Option<Caller>,
    /// What the session is asked for is counted.
    counts: bool,
    /// The response has decided against the transaction.
    rolls_back: bool,
}

/// A reserved place among the idle connections, for one that is being brought to rest.
pub(crate) type Reservation = One;

impl Lease {
    pub(super) fn new(
        session: Arc<ServerSession>,
        pool: Arc<Pool>,
        permit: OwnedSemaphorePermit,
    ) -> Arc<Self> {
        pool.check_out(&session);
        Arc::new(Lease {
            checked_out: Mutex::new(Some(CheckedOut {
                since: Stamp::now(),
                _leased: session.leases.one(),
                _permit: permit,
            })),
            turn: Mutex::default(),
            resting: Mutex::default(),
            reading: Mutex::default(),
            session,
            pool,
        })
    }

    /// Leases a connection that was kept. If it was opened ahead of time, which reads no slots,
    /// they are read behind its first statement.
    pub(super) fn of_kept(
        session: Arc<ServerSession>,
        pool: Arc<Pool>,
        permit: OwnedSemaphorePermit,
    ) -> Arc<Self> {
        let lease = Lease::new(session, pool, permit);
        if lease.room().is_unread() {
            lease.ask_behind();
        }
        lease
    }

    pub(crate) fn session(&self) -> &Arc<ServerSession> {
        &self.session
    }

    pub(crate) fn settings(&self) -> &Settings {
        self.pool.settings()
    }

    pub(crate) fn room(&self) -> &Arc<Room> {
        &self.pool.shared.limits.room
    }

    /// Returns whether the connection is driven by the runtime of `pool`.
    pub(crate) fn belongs_to(&self, pool: &Arc<Pool>) -> bool {
        Arc::ptr_eq(&self.pool, pool)
    }

    /// Returns whether it is still the turn of the holder with this number.
    pub(crate) fn is_turn(&self, turn: u64) -> bool {
        self.turn.lock().number == turn
    }

    /// Ends the turn of the current holder, and begins the next.
    pub(crate) fn next_turn(&self) -> u64 {
        let mut turn = self.turn.lock();
        turn.number += 1;
        turn.number
    }

    /// Begins the turn of a new holder.
    pub(crate) fn turn_of(&self, caller: Caller, counts: bool) -> u64 {
        let mut turn = self.turn.lock();
        turn.number += 1;
        turn.caller = Some(caller);
        turn.counts = counts;
        turn.number
    }

    /// Notes what has the connection from here on, in the same turn.
    pub(crate) fn set_caller(&self, caller: Caller) {
        self.turn.lock().caller = Some(caller);
    }

    /// Returns what checked the connection out last, and whether its work is counted.
    pub(crate) fn caller(&self) -> (Option<Caller>, bool) {
        let turn = self.turn.lock();
        (turn.caller, turn.counts)
    }

    /// Notes that teardown has to roll back, since the response has decided so.
    pub(crate) fn decide_rollback(&self) {
        self.turn.lock().rolls_back = true;
    }

    /// Returns whether the response has decided that teardown rolls back.
    pub(crate) fn rolls_back(&self) -> bool {
        self.turn.lock().rolls_back
    }

    /// Ends the turn if `check` has a result. A holder that uses its turn at the same time has
    /// either used it before, which `check` sees, or is too late.
    pub(crate) fn end_turn_if<T>(&self, check: impl FnOnce() -> Option<T>) -> Option<T> {
        let mut turn = self.turn.lock();
        let checked = check()?;
        turn.number += 1;
        Some(checked)
    }

    /// Polls a teardown as long as its turn lasts: then another one brings the session to rest, and
    /// may have given it to another invocation before this one is polled again. Once Terminate was
    /// sent, none can get it.
    pub(crate) async fn in_turn<F>(&self, turn: u64, mut rest: F) -> Option<F::Output>
    where
        F: Future + Unpin,
    {
        poll_fn(|cx| {
            let _resting = self.resting.lock();
            if !self.is_turn(turn) && !self.session.link.wire.is_terminated() {
                return Poll::Ready(None);
            }
            rest.poll_unpin(cx).map(Some)
        })
        .await
    }

    /// Waits until another thread does not poll a teardown whose turn has ended.
    pub(crate) async fn end_of_turns(&self) {
        while self.resting.try_lock().is_none() {
            yield_now().await;
        }
    }

    /// Reads the slots behind the next statement.
    pub(super) fn ask_behind(&self) {
        self.expect_reading(self.pool.shared.limits.ask_behind(&self.session));
    }

    pub(super) fn expect_reading(&self, answer: Option<Receiver<OwnAnswer>>) {
        *self.reading.lock() = answer.map(FutureExt::shared);
    }

    /// Notes the reading behind the first statement. Returns false while its answer is awaited.
    pub(crate) fn reading_is_done(&self) -> bool {
        let mut reading = self.reading.lock();
        let Some(answer) = &*reading else {
            return true;
        };
        self.session.link.wire.withdraw();
        // What a task may still do before it yields has no say in what has come.
        match unconstrained(answer.clone()).now_or_never() {
            Some(Ok(answer)) => self.room().note_answer(answer),
            Some(Err(_)) => {}
            None => return false,
        }
        *reading = None;
        true
    }

    /// Waits for the reading behind the first statement: the server executes it, and it decides
    /// whether the connection is kept. Returns false if it was not answered in time.
    pub(crate) async fn wait_for_reading(&self, limit: Duration) -> bool {
        if self.reading_is_done() {
            return true;
        }
        let answer = OptionFuture::from(self.reading.lock().clone());
        timeout(limit, answer).await.is_ok() && self.reading_is_done()
    }

    /// Waits the same, if nothing else is under way.
    pub(crate) async fn wait_while_reading(&self, limit: Duration) {
        if !self.reading_is_done() && self.session().pump().is_quiet() {
            // Boxed: rarely needed, and deep in the futures of every handler.
            Box::pin(self.wait_for_reading(limit)).await;
        }
    }

    /// Waits for the reading behind the first statement without holding the lease. Returns the
    /// lease, unless the reading was not answered in time or the lease has ended.
    pub(crate) fn unheld_until_reading(
        self: Arc<Self>,
        limit: Duration,
    ) -> impl Future<Output = Option<Arc<Self>>> + Send {
        let answer = OptionFuture::from(self.reading.lock().clone());
        let lease = Arc::downgrade(&self);
        drop(self);
        async move {
            timeout(limit, answer).await.ok()?;
            lease.upgrade()
        }
    }

    /// Reserves a place for this connection to stay open. `None`: it has to be closed.
    pub(crate) fn reserve(&self) -> Option<Reservation> {
        let pool = &self.pool;
        if pool.shared.is_shut() {
            return None;
        }
        let now = pool.shared.clock.now();
        let is_crowded = pool.end_stale(now);
        if between(self.session.opened, now) >= pool.settings().max_age {
            return None;
        }
        let mut limit = pool.settings().idle_limit();
        if is_crowded {
            // Other processes need the slot more, except for callers that wait here.
            limit = limit.min(pool.waiting.count());
        }
        pool.reserve(limit)
    }

    /// Gives the connection back, at rest. `client` shows that it is not in use.
    pub(crate) fn keep(self: Arc<Self>, client: ExclusiveClient, reservation: Reservation) {
        drop(client);
        let pool = Arc::clone(&self.pool);
        pool.keep(Arc::clone(&self.session), reservation);
        // Wakes the checkout that has waited longest.
        pool.returned.notify_one();
        self.check_in();
    }

    /// Ends the checkout, so that another caller gets its permit.
    pub(crate) fn check_in(&self) {
        let checked_out = self.checked_out.lock().take();
        if let Some(CheckedOut { since, .. }) = checked_out {
            self.pool.check_in(&self.session, since);
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.check_in();
    }
}
