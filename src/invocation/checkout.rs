//! How an invocation comes by its connections, and what becomes of those that are dropped.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{Either, select};
use tokio::sync::Notify;
use tokio::time::{Instant, timeout};

use super::{Caller, Connection, Held, Inner, Phase, Scope, State};
use crate::connection::Home;
use crate::error::{Error, Result};
use crate::pool::Lease;
use crate::teardown::{Outcome, at_rest, close, rest};

impl Inner {
    pub(super) async fn checkout(self: &Arc<Self>, caller: Caller) -> Result<Connection> {
        let mut asking = Asking::start(self)?;
        let leasing = async {
            let pools = self.database.pools();
            let mut permit = pin!(pools.permit(self.left()));
            let permit = loop {
                let mut returned = pin!(self.returned.notified());
                returned.as_mut().enable();
                if let Some(connection) = self.lease_again(&mut asking).await? {
                    return Ok(connection);
                }
                let max = pools.here().max_connections();
                if Scope::transactions(self) >= max {
                    return Err(Error::would_wait_for_itself(max, caller));
                }
                match select(permit.as_mut(), returned).await {
                    Either::Left((Ok(permit), _)) => break permit,
                    Either::Left((Err(error), _)) => {
                        let held = Scope::in_use(self);
                        return Err(match held >= max {
                            true => Error::would_wait_for_itself(held, caller),
                            false => error,
                        });
                    }
                    Either::Right(_) => {}
                }
            };
            let whole = self.deadline.whole();
            let (lease, home) = pools
                .checkout(permit, self.left(), whole, &self.leaving)
                .await?;
            self.give_out(lease, home, &mut asking)
        };
        // A checkout must not outlive the invocation: what it opens would stay behind.
        match select(pin!(leasing), pin!(self.closed())).await {
            Either::Left((connection, _)) => connection,
            Either::Right(((), _)) => Err(Error::invocation_ended()),
        }
    }

    /// Waits until the gate is closed.
    async fn closed(&self) {
        let mut closing = pin!(self.gate.notified());
        closing.as_mut().enable();
        if self.check_open().is_ok() {
            closing.await;
        }
    }

    /// Waits until no checkout is under way any more, as the gate is closed.
    pub(super) async fn asked(&self, limit: Duration) {
        let asked = async {
            loop {
                let mut asked = pin!(self.asked.notified());
                asked.as_mut().enable();
                if self.state().asking == 0 {
                    break;
                }
                asked.await;
            }
        };
        let _ = timeout(limit, asked).await;
    }

    /// A connection that came home without being at rest, brought to rest.
    async fn lease_again(self: &Arc<Self>, asking: &mut Asking<'_>) -> Result<Option<Connection>> {
        let here = self.database.pools().here();
        let found = {
            let mut state = self.state();
            let number = state.next_lease;
            let found = state.leases.iter_mut().find_map(|held| {
                let home = held.lease.session.home()?;
                // Under its old number somebody may still wish to cancel something.
                let found = held.lease.belongs_to(&here).then_some((held, home));
                found.map(|(held, home)| {
                    held.number = number;
                    held.resting = false;
                    (Arc::clone(&held.lease.session), home)
                })
            });
            if found.is_some() {
                state.next_lease += 1;
                // From here on it is one that the invocation has.
                asking.done(&mut state);
            }
            found.map(|(session, home)| (number, session, home))
        };
        let Some((number, session, home)) = found else {
            return Ok(None);
        };
        let (began, before) = (Instant::now(), session.wire().round_trips());
        let config = self.database.settings();
        let budget = self.budget();
        let room = &self.database.pools().limits().room;
        // Given up meanwhile, it is free again for a sibling that waits.
        let _returned = Notifies(&self.returned);
        let rested = rest(&session, Some(home), true, config, room, &budget).await;
        let round_trips = session.wire().round_trips() - before;
        let kept = rested.home.is_some();
        let mut state = self.state();
        let Some(at) = state.leases.iter().position(|held| held.number == number) else {
            return Err(Error::invocation_ended());
        };
        let again = rested
            .home
            .map(|home| Connection::new(self, number, Arc::clone(&session), home));
        if again.is_none() {
            let lease = state.leases.swap_remove(at).lease;
            asking.again(&mut state);
            drop(state);
            drop(lease);
        } else {
            drop(state);
        }
        self.report(&session, rested.outcome, kept, round_trips, began);
        Ok(again)
    }

    /// Notes the lease, unless the gate was closed meanwhile.
    fn give_out(
        self: &Arc<Self>,
        lease: Lease,
        home: Home,
        asking: &mut Asking<'_>,
    ) -> Result<Connection> {
        let mut state = self.state();
        if state.phase == Phase::Closed {
            drop(state);
            match lease.place() {
                Some(place) => lease.keep(home, place),
                None => self.leave(lease),
            }
            return Err(Error::invocation_ended());
        }
        let number = state.next_lease;
        state.next_lease += 1;
        let session = Arc::clone(&lease.session);
        state.leases.push(Held {
            number,
            lease,
            resting: false,
        });
        asking.done(&mut state);
        Ok(Connection::new(self, number, session, home))
    }

    /// Closes a connection that came too late to be anybody's.
    fn leave(&self, lease: Lease) {
        let (leaving, budget) = (self.leaving.one(), self.budget());
        tokio::spawn(async move {
            close(&lease.session, Outcome::default(), &budget).await;
            drop((lease, leaving));
        });
    }

    /// A connection was dropped. At rest it is free for others at once; else it
    /// stays here, for the next checkout or the teardown.
    pub(super) fn came_home(&self, number: u64) {
        let mut state = self.state();
        let found = state.leases.iter().position(|held| held.number == number);
        let (Some(at), Phase::Open) = (found, state.phase) else {
            return;
        };
        let lease = &state.leases[at].lease;
        if let Some(place) = lease.place() {
            if let Some(home) = at_rest(&lease.session, self.database.settings()) {
                let lease = state.leases.swap_remove(at).lease;
                drop(state);
                self.report_clean(&lease.session);
                lease.keep(home, place);
                return;
            }
        }
        drop(state);
        // A sibling that waits for a connection brings it to rest.
        self.returned.notify_waiters();
    }

    /// Whoever knows the connection by this number has it still.
    pub(super) fn has(&self, number: u64) -> bool {
        let state = self.state();
        state.phase == Phase::Open && state.leases.iter().any(|held| held.number == number)
    }

    /// How many connections somebody uses.
    pub(super) fn in_use(&self) -> usize {
        let away = |held: &&Held| held.lease.session.home().is_none();
        self.state().leases.iter().filter(away).count()
    }

    /// Its transaction has a connection, and gives it back at the end alone. The head of a
    /// streamed response is another end, before that of the tasks that wait.
    pub(super) fn keeps_one(&self) -> bool {
        self.transaction.is_made() && !self.state().streams
    }
}

/// Wakes whoever waits, when it is dropped.
struct Notifies<'a>(&'a Notify);

impl Drop for Notifies<'_> {
    fn drop(&mut self) {
        self.0.notify_waiters();
    }
}

/// A checkout under way: until it is done the invocation does not end.
struct Asking<'a> {
    inner: &'a Inner,
    counts: bool,
}

impl<'a> Asking<'a> {
    fn start(inner: &'a Inner) -> Result<Self> {
        let mut state = inner.state();
        if state.phase == Phase::Closed {
            return Err(Error::invocation_ended());
        }
        state.asking += 1;
        Ok(Asking {
            inner,
            counts: true,
        })
    }

    fn done(&mut self, state: &mut State) {
        if std::mem::take(&mut self.counts) {
            state.asking -= 1;
            self.inner.asked.notify_waiters();
        }
    }

    fn again(&mut self, state: &mut State) {
        if !std::mem::replace(&mut self.counts, true) {
            state.asking += 1;
        }
    }
}

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        let inner = self.inner;
        self.done(&mut inner.state());
    }
}
