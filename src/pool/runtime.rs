//! The pool of one runtime: what is idle, reserved and checked out.

use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use tokio::sync::{Notify, Semaphore};

use super::shared::{Shared, lock};
use crate::config::Config;
use crate::connection::Session;
use crate::tally::{One, Tally};

pub(crate) struct Pool {
    pub(super) shared: Arc<Shared>,
    /// One for each connection that may be leased. Fair: first come, first served.
    pub(super) permits: Arc<Semaphore>,
    /// A connection was given back to be kept.
    pub(super) returned: Notify,
    /// Checkouts that wait for the server, and would take what is given back.
    pub(super) waiting: Tally,
    connections: Mutex<Connections>,
}

#[derive(Default)]
struct Connections {
    idle: Vec<Idle>,
    /// Connections that are being brought to rest to be kept.
    reserved: Tally,
    checked_out: Vec<CheckedOut>,
}

/// A connection at rest.
pub(super) struct Idle {
    pub(super) session: Arc<Session>,
    pub(super) since: SystemTime,
}

/// A connection that is leased.
#[derive(Clone)]
pub(crate) struct CheckedOut {
    pub(crate) session: Arc<Session>,
    /// Counts its lease.
    lease: Tally,
}

impl Pool {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Pool {
            permits: Arc::new(Semaphore::new(shared.config().max_connections)),
            shared,
            returned: Notify::new(),
            waiting: Tally::default(),
            connections: Mutex::default(),
        }
    }

    pub(super) fn config(&self) -> &Config {
        self.shared.config()
    }

    /// How many connections others could be waited for.
    pub(crate) fn max_connections(&self) -> usize {
        self.config().max_connections
    }

    pub(super) fn in_use(&self) -> usize {
        self.max_connections()
            .saturating_sub(self.permits.available_permits())
    }

    pub(super) fn idle(&self) -> usize {
        lock(&self.connections).idle.len()
    }

    /// How many connections are leased, and how many are kept for the next.
    pub(crate) fn counts(&self) -> (usize, usize) {
        (self.in_use(), self.idle())
    }

    /// The most recently used first: the others may then grow old and be closed.
    pub(super) fn pop(&self) -> Option<Idle> {
        lock(&self.connections).idle.pop()
    }

    pub(super) fn take_idle(&self) -> Vec<Arc<Session>> {
        let idle = std::mem::take(&mut lock(&self.connections).idle);
        idle.into_iter().map(|idle| idle.session).collect()
    }

    /// Keeps of the idle connections those that `stay`.
    pub(super) fn retain_idle(&self, stay: impl FnMut(&Idle) -> bool) {
        lock(&self.connections).idle.retain(stay);
    }

    /// Reserves one of `limit` places for an idle connection, if one is free.
    pub(super) fn reserve(&self, limit: usize) -> Option<One> {
        let connections = lock(&self.connections);
        let taken = connections.idle.len() + connections.reserved.count();
        (taken < limit).then(|| connections.reserved.one())
    }

    /// Keeps a connection in the place that was reserved for it.
    pub(super) fn keep(&self, session: Arc<Session>, reservation: One) {
        let since = self.shared.clock.now();
        let mut connections = lock(&self.connections);
        drop(reservation);
        if self.shared.is_shut() {
            // It was shut since the place was reserved.
            session.end();
        } else if !session.is_over() {
            connections.idle.push(Idle { session, since });
        }
    }

    pub(super) fn check_out(&self, session: &Arc<Session>) -> One {
        let checked_out = CheckedOut {
            session: Arc::clone(session),
            lease: Tally::default(),
        };
        let lease = checked_out.lease.one();
        lock(&self.connections).checked_out.push(checked_out);
        lease
    }

    pub(super) fn check_in(&self, session: &Arc<Session>) {
        let checked_out = &mut lock(&self.connections).checked_out;
        checked_out.retain(|other| !Arc::ptr_eq(&other.session, session));
    }

    pub(super) fn checked_out(&self) -> Vec<CheckedOut> {
        lock(&self.connections).checked_out.clone()
    }

    #[cfg(test)]
    pub(super) fn reserved(&self) -> usize {
        lock(&self.connections).reserved.count()
    }
}

impl CheckedOut {
    /// Waits until it was given back, or closed.
    pub(crate) async fn returned(&self) {
        self.lease.none().await;
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool")
            .field("max_connections", &self.max_connections())
            .field("in_use", &self.in_use())
            .field("idle", &self.idle())
            .finish()
    }
}
