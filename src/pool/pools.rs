//! The pools of one database, one for each runtime.

use std::collections::HashMap;
use std::fmt;
use std::ops::Deref;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::runtime::{self, Handle};
use tokio::sync::{Notify, Semaphore};

use crate::clock::Clock;
use crate::config::Settings;
use crate::connect::Connector;
use crate::connection::Session;
use crate::limit::Limits;
use crate::tally::{One, Tally};

pub(crate) struct Pools {
    shared: Arc<Shared>,
    by_runtime: Mutex<HashMap<runtime::Id, Arc<Pool>>>,
}

impl Pools {
    pub(crate) fn new(connector: Arc<Connector>, clock: Arc<dyn Clock>) -> Self {
        Pools {
            shared: Arc::new(Shared::new(connector, clock)),
            by_runtime: Mutex::default(),
        }
    }

    /// The pool of the current runtime.
    ///
    /// # Panics
    ///
    /// Outside any tokio runtime, as everything that is asynchronous in tokio does.
    pub(crate) fn here(&self) -> Arc<Pool> {
        let runtime = Handle::current().id();
        let mut pools = lock(&self.by_runtime);
        if let Some(pool) = pools.get(&runtime) {
            return Arc::clone(pool);
        }
        // Runtimes that are gone leave an empty pool that nothing refers to any more.
        pools.retain(|_, pool| Arc::strong_count(pool) > 1 || pool.idle() > 0);
        let pool = Arc::new(Pool::new(Arc::clone(&self.shared)));
        pools.insert(runtime, Arc::clone(&pool));
        pool
    }

    /// Takes the idle connections of every runtime: they are kept no more.
    pub(crate) fn take_idle(&self) -> Vec<Arc<Session>> {
        self.all()
            .iter()
            .flat_map(|pool| pool.take_idle())
            .collect()
    }

    /// The connections of every runtime that are checked out.
    pub(crate) fn checked_out(&self) -> Vec<CheckedOut> {
        let all = self.all();
        all.iter().flat_map(|pool| pool.checked_out()).collect()
    }

    fn all(&self) -> Vec<Arc<Pool>> {
        lock(&self.by_runtime).values().cloned().collect()
    }
}

impl Deref for Pools {
    type Target = Shared;

    fn deref(&self) -> &Shared {
        &self.shared
    }
}

impl fmt::Debug for Pools {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map()
            .entries(lock(&self.by_runtime).iter())
            .finish()
    }
}

/// What the pools of all runtimes share.
pub(crate) struct Shared {
    pub(super) connector: Arc<Connector>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) limits: Limits,
    /// Connections that are being opened.
    pub(crate) opening: Tally,
    /// One at a time closes what is open; the next one finds it done.
    pub(crate) closing: tokio::sync::Mutex<()>,
    shut: AtomicBool,
    /// The distance to the server in microseconds, as last measured.
    round_trip: AtomicU64,
}

impl Shared {
    pub(super) fn new(connector: Arc<Connector>, clock: Arc<dyn Clock>) -> Self {
        Shared {
            limits: Limits::new(connector.settings(), Arc::clone(&clock)),
            connector,
            clock,
            opening: Tally::default(),
            closing: tokio::sync::Mutex::default(),
            shut: AtomicBool::new(false),
            round_trip: AtomicU64::new(0),
        }
    }

    pub(crate) fn settings(&self) -> &Settings {
        self.connector.settings()
    }

    pub(crate) fn connector(&self) -> &Arc<Connector> {
        &self.connector
    }

    pub(crate) fn clock(&self) -> &dyn Clock {
        &*self.clock
    }

    pub(crate) fn limits(&self) -> &Limits {
        &self.limits
    }

    /// The distance to the server; zero until something connected.
    pub(crate) fn round_trip(&self) -> Duration {
        Duration::from_micros(self.round_trip.load(Ordering::Relaxed))
    }

    pub(super) fn note_round_trip(&self, round_trip: Duration) {
        let micros = u64::try_from(round_trip.as_micros()).unwrap_or(u64::MAX);
        self.round_trip.store(micros, Ordering::Relaxed);
    }

    /// From now on nothing is kept, and nothing is opened to be kept. Invocations are still
    /// served: their connections are closed at their end.
    pub(crate) fn shut(&self) {
        self.shut.store(true, Ordering::Release);
    }

    /// As if it had never been shut.
    #[cfg(feature = "lambda")]
    pub(crate) fn reopen(&self) {
        self.shut.store(false, Ordering::Release);
    }

    pub(super) fn is_shut(&self) -> bool {
        self.shut.load(Ordering::Acquire)
    }
}

/// The pool of one runtime: what is idle, reserved and checked out.
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

    /// How many connections others could be waited for.
    pub(crate) fn max_connections(&self) -> usize {
        self.settings().max_connections
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

    #[cfg(all(test, unix))]
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

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
