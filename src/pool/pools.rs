//! The pools of one database, one for each tokio runtime.

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use tokio::runtime::{self, Handle};
use tokio::sync::{Notify, Semaphore};

use crate::clock::Clock;
use crate::config::Settings;
use crate::connect::Connector;
use crate::connection::ServerSession;
use crate::limit::Limiter;
use crate::lock::Mutex;
use crate::observe::{Meters, Stamp};
use crate::tally::{One, Tally};

/// The pools of one database, by runtime.
pub(crate) struct Pools {
    shared: Arc<SharedState>,
    by_runtime: Mutex<Vec<(runtime::Id, Arc<Pool>)>>,
}

impl Pools {
    pub(crate) fn new(connector: Arc<Connector>, clock: Arc<dyn Clock>) -> Self {
        let settings = connector.settings();
        let limits = (settings.max_connections, settings.idle_limit());
        let meters = Meters::new(&connector.peer().pool, limits);
        Pools {
            shared: Arc::new(SharedState {
                limits: Limiter::new(settings, Arc::clone(&clock), &meters),
                meters,
                connector,
                clock,
                opening: Tally::default(),
                closing: tokio::sync::Mutex::default(),
                shut: AtomicBool::new(false),
                round_trip: Mutex::default(),
            }),
            by_runtime: Mutex::default(),
        }
    }

    /// Returns the pool of the current runtime, and makes it if there is none.
    ///
    /// # Panics
    ///
    /// When called outside a tokio runtime.
    pub(crate) fn here(&self) -> Arc<Pool> {
        let runtime = Handle::current().id();
        let mut pools = self.by_runtime.lock();
        if let Some((_, pool)) = pools.iter().find(|(of, _)| *of == runtime) {
            return Arc::clone(pool);
        }
        // A runtime that has ended leaves an empty pool without other references.
        pools.retain(|(_, pool)| Arc::strong_count(pool) > 1 || pool.idle() > 0);
        let pool = Arc::new(Pool::new(Arc::clone(&self.shared)));
        pools.push((runtime, Arc::clone(&pool)));
        pool
    }

    /// Counts the idle connections of every runtime.
    pub(crate) fn idle(&self) -> usize {
        self.all().iter().map(|pool| pool.idle()).sum()
    }

    /// Removes the idle connections of every runtime from their pools.
    pub(crate) fn take_idle(&self) -> Vec<Arc<ServerSession>> {
        let all = self.all();
        all.iter().flat_map(|pool| pool.take_idle()).collect()
    }

    /// Lists the connections of every runtime that are checked out.
    pub(crate) fn checked_out(&self) -> Vec<Arc<ServerSession>> {
        let all = self.all();
        all.iter().flat_map(|pool| pool.checked_out()).collect()
    }

    fn all(&self) -> Vec<Arc<Pool>> {
        self.by_runtime
            .lock()
            .iter()
            .map(|(_, pool)| Arc::clone(pool))
            .collect()
    }
}

impl Deref for Pools {
    type Target = SharedState;

    fn deref(&self) -> &SharedState {
        &self.shared
    }
}

impl fmt::Debug for Pools {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counts = |pool: &Arc<Pool>| (pool.in_use(), pool.idle());
        f.debug_list()
            .entries(self.all().iter().map(counts))
            .finish()
    }
}

/// State that the pools of all runtimes share.
pub(crate) struct SharedState {
    pub(crate) connector: Arc<Connector>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) limits: Limiter,
    pub(crate) meters: Meters,
    /// Connections that are being opened.
    pub(crate) opening: Tally,
    /// Held while one caller closes all connections; the next finds them closed.
    pub(crate) closing: tokio::sync::Mutex<()>,
    shut: AtomicBool,
    pub(super) round_trip: Mutex<Duration>,
}

impl SharedState {
    pub(crate) fn settings(&self) -> &Settings {
        self.connector.settings()
    }

    /// Returns the last measured round-trip time; zero before the first connect.
    pub(crate) fn round_trip(&self) -> Duration {
        *self.round_trip.lock()
    }

    /// Stops the pools from keeping connections, and from opening any to keep. Invocations are
    /// still served: their connections are closed at their end.
    pub(crate) fn shut(&self) {
        self.shut.store(true, Ordering::Release);
    }

    /// Reverts [`SharedState::shut`].
    #[cfg(feature = "lambda")]
    pub(crate) fn reopen(&self) {
        self.shut.store(false, Ordering::Release);
    }

    pub(super) fn is_shut(&self) -> bool {
        self.shut.load(Ordering::Acquire)
    }
}

/// The pool of one runtime: its idle, reserved and checked-out connections.
pub(crate) struct Pool {
    pub(super) shared: Arc<SharedState>,
    /// One permit for each connection that may be leased. The semaphore is first in, first out.
    pub(super) permits: Arc<Semaphore>,
    /// Notified when a connection was given back and kept.
    pub(super) returned: Notify,
    /// Checkouts that wait for the server, and would also take a connection that is given back.
    pub(super) waiting: Tally,
    connections: Mutex<Connections>,
}

#[derive(Default)]
struct Connections {
    idle: Vec<Idle>,
    /// Connections that are being brought to rest to be kept.
    reserved: Tally,
    checked_out: Vec<Arc<ServerSession>>,
}

/// An idle connection.
pub(super) struct Idle {
    pub(super) session: Arc<ServerSession>,
    pub(super) since: SystemTime,
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.change_idle(Vec::clear);
    }
}

impl Pool {
    pub(super) fn new(shared: Arc<SharedState>) -> Self {
        Pool {
            permits: Arc::new(Semaphore::new(shared.settings().max_connections)),
            shared,
            returned: Notify::new(),
            waiting: Tally::default(),
            connections: Mutex::default(),
        }
    }

    pub(super) fn settings(&self) -> &Settings {
        self.shared.settings()
    }

    /// Returns the maximum number of connections.
    pub(crate) fn max_connections(&self) -> usize {
        self.settings().max_connections
    }

    /// Counts the permits that are taken.
    pub(crate) fn in_use(&self) -> usize {
        self.max_connections()
            .saturating_sub(self.permits.available_permits())
    }

    /// Counts the idle connections.
    pub(crate) fn idle(&self) -> usize {
        self.connections.lock().idle.len()
    }

    /// Takes the most recently used connection: the others can then grow old and be closed.
    pub(super) fn pop(&self) -> Option<Idle> {
        self.change_idle(Vec::pop)
    }

    /// Takes the most recently used connection if `ready` has a result for it, and no idle one is
    /// to be ended.
    pub(super) fn pop_if<T>(
        &self,
        now: SystemTime,
        ready: impl FnOnce(&Idle) -> Option<T>,
    ) -> Option<(Arc<ServerSession>, T)> {
        let idle = &mut self.connections.lock().idle;
        if idle.iter().any(|idle| self.expired(idle, now).is_some()) {
            return None;
        }
        let ready = ready(idle.last()?)?;
        let popped = idle.pop()?.session;
        self.shared.meters.idle(1, 0);
        Some((popped, ready))
    }

    pub(super) fn take_idle(&self) -> Vec<Arc<ServerSession>> {
        let idle = self.change_idle(std::mem::take);
        idle.into_iter().map(|idle| idle.session).collect()
    }

    /// Retains the idle connections for which `keep` is true.
    pub(super) fn retain_idle(&self, keep: impl FnMut(&Idle) -> bool) {
        self.change_idle(|idle| idle.retain(keep));
    }

    fn change_idle<T>(&self, change: impl FnOnce(&mut Vec<Idle>) -> T) -> T {
        let idle = &mut self.connections.lock().idle;
        let before = idle.len();
        let changed = change(idle);
        self.shared.meters.idle(before, idle.len());
        changed
    }

    /// Reserves one of `limit` places among the idle connections, if one is free.
    pub(super) fn reserve(&self, limit: usize) -> Option<One> {
        let connections = self.connections.lock();
        let taken = connections.idle.len() + connections.reserved.count();
        (taken < limit).then(|| connections.reserved.one())
    }

    /// Keeps a connection in the place that was reserved for it, unless it has ended.
    pub(super) fn keep(&self, session: Arc<ServerSession>, reservation: One) {
        let since = self.shared.clock.now();
        let mut connections = self.connections.lock();
        drop(reservation);
        if self.shared.is_shut() {
            // The pools were shut after the place was reserved.
            session.terminate();
        } else if !session.is_over() {
            connections.idle.push(Idle { session, since });
            self.shared.meters.idle(0, 1);
        }
    }

    /// Lists a connection as checked out, until [`Pool::check_in`].
    pub(super) fn check_out(&self, session: &Arc<ServerSession>) {
        let session = Arc::clone(session);
        self.connections.lock().checked_out.push(session);
        self.shared.meters.checked_out();
    }

    pub(super) fn check_in(&self, session: &Arc<ServerSession>, since: Stamp) {
        self.shared.meters.checked_in(since);
        let checked_out = &mut self.connections.lock().checked_out;
        if let Some(at) = checked_out
            .iter()
            .position(|other| Arc::ptr_eq(other, session))
        {
            checked_out.swap_remove(at);
        }
    }

    pub(super) fn checked_out(&self) -> Vec<Arc<ServerSession>> {
        self.connections.lock().checked_out.clone()
    }

    #[cfg(all(test, unix))]
    pub(super) fn reserved(&self) -> usize {
        self.connections.lock().reserved.count()
    }
}
