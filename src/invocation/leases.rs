//! Tracks the connections that an invocation leases, from checkout to rest.

use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, MutexGuard};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::ledger::{self, Ledger};
use super::list::{List, remove};
use crate::connection::ExclusiveClient;
use crate::deadline::Deadline;
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::lock::Mutex;
use crate::observe::span::{self, InvocationSpan};
use crate::observe::{self, Caller};
use crate::pool::{Lease, Pool, Reservation};
use crate::tally::{One, Tally};
use crate::teardown::{Budget, Rested, close};
use crate::wire::Work;

/// What owns the leases of an invocation: connections refer to it, and it is not known here.
pub(super) trait Owner: Send + Sync {
    fn leases(&self) -> &Leases;
}

pub(super) struct Leases {
    pub(super) engine: Arc<Engine>,
    pub(super) request_id: Box<str>,
    pub(super) deadline: Deadline,
    pub(super) span: InvocationSpan,
    /// The time that answers take is measured.
    pub(super) times: AtomicBool,
    /// Made by the first entry, so that an invocation without any has no cost.
    ledger: Mutex<Option<Box<Ledger>>>,
    state: Mutex<State>,
    /// The gate was closed.
    gate: Notify,
    /// Checkouts under way: until they are done the invocation does not end.
    pub(super) checkouts: Tally,
    /// Connections that no caller received any more, until the server has closed them.
    pub(super) closing: Tally,
    /// Notified when a dropped connection stays with the invocation, and when the transaction
    /// takes one, so that none will be given back.
    pub(super) returned: Notify,
}

#[derive(Default)]
pub(super) struct State {
    /// The gate is closed: no more connections are given out.
    closed: bool,
    pub(super) leases: List,
    /// What another driver has left, until it is at rest.
    pub(super) left_by_drivers: List,
}

impl Leases {
    #[inline]
    pub(super) fn new(engine: Arc<Engine>, deadline: Deadline, request_id: &str) -> Self {
        Leases {
            engine,
            request_id: request_id.into(),
            deadline,
            span: InvocationSpan::new(request_id),
            times: AtomicBool::new(false),
            ledger: Mutex::default(),
            state: Mutex::default(),
            gate: Notify::new(),
            checkouts: Tally::default(),
            closing: Tally::default(),
            returned: Notify::new(),
        }
    }

    /// Returns the time at which the handler is stopped.
    pub(super) fn cutoff(&self) -> Option<Instant> {
        self.deadline.cutoff(self.engine.pools().round_trip())
    }

    /// Returns the time that the handler has left.
    pub(super) fn left(&self) -> Option<Duration> {
        let cutoff = self.cutoff()?;
        Some(cutoff.saturating_duration_since(Instant::now()))
    }

    pub(super) fn budget(&self) -> Budget {
        Budget::new(self.deadline.end(), self.engine.pools().round_trip())
    }

    pub(super) fn count(&self) -> usize {
        self.state().leases.len()
    }

    /// Counts the connections of `pool` in use.
    pub(super) fn in_use(&self, pool: &Arc<Pool>) -> usize {
        let leases = &self.state().leases;
        let ours = leases.iter().filter(|lease| lease.belongs_to(pool));
        ours.filter(|lease| lease.session().exclusive_client().is_none())
            .count()
    }

    pub(super) fn is_open(&self) -> bool {
        !self.state().closed
    }

    pub(super) fn check_open(&self) -> Result<()> {
        self.is_open()
            .then_some(())
            .ok_or_else(Error::invocation_ended)
    }

    /// Waits until the gate is closed.
    pub(super) async fn closed(&self) {
        let mut closing = pin!(self.gate.notified());
        closing.as_mut().enable();
        if self.is_open() {
            closing.await;
        }
    }

    /// Closes the gate: gives out no more connections, and stops callers that wait for one. No
    /// connection or token that was given out reaches its lease from here on.
    pub(super) fn close_gate(&self) {
        let mut state = self.state();
        state.closed = true;
        for lease in &state.leases {
            lease.next_turn();
        }
        drop(state);
        self.gate.notify_waiters();
    }

    /// Closes the gate at once, if every connection is at rest already and stays open:
    /// those are to be given back.
    pub(super) fn try_close(&self) -> Option<Vec<(Arc<Lease>, Rested, Reservation)>> {
        let mut state = self.state();
        if !self.checkouts.is_empty() || !self.closing.is_empty() {
            return None;
        }
        let at_rest = |lease: &Arc<Lease>| {
            let (rested, reservation) = lease.try_rest()?;
            Some((Arc::clone(lease), rested, reservation))
        };
        let all = state.leases.iter().map(at_rest).collect::<Option<_>>()?;
        state.closed = true;
        state.leases.clear();
        Some(all)
    }

    /// Leases an idle connection, if that is possible without waiting and this invocation has no
    /// connection yet.
    pub(super) fn try_lease(&self, caller: Caller) -> Option<(Arc<Lease>, u64, ExclusiveClient)> {
        let pool = self.engine.pools().here();
        let mut state = self.state();
        if state.closed || !state.leases.is_empty() {
            return None;
        }
        let (lease, client) = pool.try_checkout(self.deadline.whole())?;
        self.engine.pools().meters.did_not_wait();
        let turn = self.begin_turn(&lease, caller);
        state.leases.push(Arc::clone(&lease));
        Some((lease, turn, client))
    }

    /// Begins a checkout.
    pub(super) fn begin(&self) -> Result<One> {
        let state = self.state();
        let begun = (!state.closed).then(|| self.checkouts.one());
        begun.ok_or_else(Error::invocation_ended)
    }

    /// Adds a lease and ends the checkout. Fails if the gate was closed meanwhile.
    pub(super) fn add(
        &self,
        lease: Arc<Lease>,
        client: ExclusiveClient,
        caller: Caller,
        checkout: &mut Option<One>,
    ) -> Result<(Arc<Lease>, u64, ExclusiveClient)> {
        let mut state = self.state();
        if state.closed {
            drop(state);
            match lease.reserve() {
                Some(reservation) => lease.keep(client, reservation),
                None => self.close_late(lease),
            }
            return Err(Error::invocation_ended());
        }
        let turn = self.begin_turn(&lease, caller);
        state.leases.push(Arc::clone(&lease));
        *checkout = None;
        Ok((lease, turn, client))
    }

    /// Finds a dropped connection that is not at rest, and brings it to rest for the next caller.
    /// Ends the checkout if it finds one.
    pub(super) async fn recycle(
        &self,
        caller: Caller,
        checkout: &mut Option<One>,
    ) -> Result<Option<(Arc<Lease>, u64, ExclusiveClient)>> {
        let pool = self.engine.pools().here();
        let (lease, turn, client) = {
            let state = self.state();
            if state.closed {
                return Err(Error::invocation_ended());
            }
            let found = state.leases.iter().find_map(|lease| {
                let client = lease.session().exclusive_client()?;
                lease.belongs_to(&pool).then_some((lease, client))
            });
            let Some((lease, client)) = found else {
                return Ok(None);
            };
            // A token of the old turn may still try to cancel a statement.
            let turn = lease.next_turn();
            // From here on the connection counts as the invocation's.
            *checkout = None;
            (Arc::clone(lease), turn, client)
        };
        // If this future is dropped meanwhile, the connection is free again for another caller
        // that waits.
        let _returned = Notifies(&self.returned);
        let budget = self.budget();
        lease.wait_while_reading(budget.step()).await;
        if !lease.is_turn(turn) {
            return Err(Error::invocation_ended());
        }
        let rest = self.bring_to_rest(&lease, Some(client), true, &budget);
        let rested = lease.in_turn(turn, Box::pin(rest)).await;
        let mut rested = rested.ok_or_else(Error::invocation_ended)?;
        let mut state = self.state();
        if !lease.is_turn(turn) {
            drop(state);
            return Err(Error::invocation_ended());
        }
        if rested.client.is_none() {
            remove(&mut state.leases, &lease);
            *checkout = Some(self.checkouts.one());
        }
        drop(state);
        if rested.client.is_none() {
            lease.check_in();
        }
        self.report(&lease, &rested);
        // What was left open was that of the caller before.
        if rested.client.is_some() {
            lease.set_caller(caller);
        }
        let client = rested.client.take();
        Ok(client.map(|client| (lease, turn, client)))
    }

    /// Takes back a connection that was dropped. If it is at rest it returns to the pool; otherwise
    /// it stays here, for the next checkout or the teardown.
    ///
    /// May be called once no other thread is driving the connection.
    pub(super) fn take_back(&self, owner: &Arc<dyn Owner>, lease: Arc<Lease>, turn: u64) {
        let mut state = self.state();
        if !lease.is_turn(turn) {
            return;
        }
        let rested = lease.try_rest();
        if rested.is_some() {
            remove(&mut state.leases, &lease);
        }
        drop(state);
        match rested {
            Some((rested, reservation)) => self.give_back(lease, rested, Some(reservation)),
            None => {
                // Another caller of this invocation that waits for a connection brings it to rest.
                self.returned.notify_waiters();
                self.take_back_after_reading(owner, lease, turn);
            }
        }
    }

    /// Takes back a connection once the reading behind its first statement is answered, if that is
    /// all that keeps it: another invocation may wait for it.
    fn take_back_after_reading(&self, owner: &Arc<dyn Owner>, lease: Arc<Lease>, turn: u64) {
        let Ok(runtime) = Handle::try_current() else {
            return;
        };
        if lease.reading_is_done() || !lease.session().pump().is_quiet() {
            return;
        }
        let owner = Arc::downgrade(owner);
        let limit = self.budget().step();
        // The lease is not held meanwhile: it may end before, and others wait for its permit.
        let read = lease.unheld_until_reading(limit);
        runtime.spawn(async move {
            if let (Some(lease), Some(owner)) = (read.await, owner.upgrade()) {
                lease.session().wait_for_pump();
                owner.leases().take_back(&owner, lease, turn);
            }
        });
    }

    /// Takes the leases, when no task will wait until they are at rest.
    pub(super) fn take_all(&self) -> Vec<Arc<Lease>> {
        let mut state = self.state();
        let mut all = std::mem::take(&mut state.leases);
        all.append(&mut state.left_by_drivers);
        all.into_vec()
    }

    pub(super) fn give_back(
        &self,
        lease: Arc<Lease>,
        mut rested: Rested,
        reservation: Option<Reservation>,
    ) {
        self.report(&lease, &rested);
        if let (Some(client), Some(reservation)) = (rested.client.take(), reservation) {
            lease.keep(client, reservation);
        } else {
            lease.check_in();
        }
    }

    /// Closes a connection that came too late for its caller.
    fn close_late(&self, lease: Arc<Lease>) {
        let (closing, budget) = (self.closing.one(), self.budget());
        tokio::spawn(async move {
            close(lease.session(), &budget).await;
            drop((lease, closing));
        });
    }

    pub(super) fn report(&self, lease: &Lease, rested: &Rested) {
        let process = lease.session().process();
        let (caller, counts) = lease.caller();
        self.engine
            .report(&self.request_id, process, caller, rested);
        let (work, watched) = match counts {
            true => lease.session().link.wire.take_work(),
            false => Default::default(),
        };
        if !counts && !rested.is_unclean {
            return;
        }
        let mut ledger = self.ledger();
        let ledger = ledger.get_or_insert_default();
        if rested.is_unclean {
            let first = watched.as_ref().and_then(|watched| watched.first.clone());
            ledger.note_unclean(caller, rested, first);
        }
        ledger.note(&work, watched);
    }

    /// Begins the turn of a caller that leases a connection.
    fn begin_turn(&self, lease: &Lease, caller: Caller) -> u64 {
        let times = self.times.load(Ordering::Relaxed);
        let watching = ledger::watching(self.engine.settings(), times);
        // Also without: an earlier turn may have been watched.
        lease.session().link.wire.begin_work(watching);
        lease.turn_of(caller, watching.is_some())
    }

    /// Returns what the connections that were given back were asked for.
    pub(super) fn work(&self) -> Work {
        let ledger = self.ledger();
        ledger
            .as_ref()
            .map_or_else(Work::default, |ledger| ledger.work())
    }

    /// Writes the lines about the invocation, at its end.
    pub(super) fn log_end(&self) {
        if !observe::logs_ends() && !self.span.is_open() && !cfg!(feature = "metrics") {
            return;
        }
        let mut ledger = self.ledger();
        let ledger = ledger.get_or_insert_default();
        if ledger.close(&self.engine, &self.request_id, &self.deadline) {
            let work = ledger.work();
            span::worked(
                &self.span.get(),
                work.statements,
                work.round_trips,
                work.rows,
            );
            let meters = &self.engine.pools().meters;
            meters.worked(work.statements, work.round_trips);
        }
    }

    fn ledger(&self) -> MutexGuard<'_, Option<Box<Ledger>>> {
        self.ledger.lock()
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }
}

/// Wakes waiting callers when it is dropped.
struct Notifies<'a>(&'a Notify);

impl Drop for Notifies<'_> {
    fn drop(&mut self) {
        self.0.notify_waiters();
    }
}
