//! The connections that this process keeps.
//!
//! There is a pool for each tokio runtime: a connection is driven by the runtime
//! that it was opened on and used on no other. It knows nothing of invocations.

mod checkout;

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::runtime::{self, Handle};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::clock::Clock;
use crate::config::Config;
use crate::connect::Connector;
use crate::connection::{Home, Session};

/// The pools of one database, one for each runtime.
pub(crate) struct Pools {
    connector: Arc<Connector>,
    clock: Arc<dyn Clock>,
    by_runtime: Mutex<HashMap<runtime::Id, Arc<Pool>>>,
    /// The distance to the server in microseconds, as last measured.
    round_trip: AtomicU64,
}

/// The connections of one runtime.
pub(crate) struct Pool {
    connector: Arc<Connector>,
    clock: Arc<dyn Clock>,
    /// One for each connection that may be leased. Fair: first come, first served.
    permits: Arc<Semaphore>,
    idle: Mutex<Vec<Idle>>,
}

/// A connection at rest.
struct Idle {
    session: Arc<Session>,
    since: SystemTime,
}

/// A connection that somebody has, with the right to have it.
pub(crate) struct Lease {
    pub(crate) session: Arc<Session>,
    pool: Arc<Pool>,
    permit: OwnedSemaphorePermit,
}

impl Pools {
    pub(crate) fn new(connector: Arc<Connector>, clock: Arc<dyn Clock>) -> Self {
        Pools {
            connector,
            clock,
            by_runtime: Mutex::default(),
            round_trip: AtomicU64::new(0),
        }
    }

    pub(crate) fn config(&self) -> &Config {
        self.connector.config()
    }

    pub(crate) fn connector(&self) -> &Connector {
        &self.connector
    }

    /// The pool of the current runtime.
    ///
    /// # Panics
    ///
    /// Outside any tokio runtime, as everything that is asynchronous in tokio does.
    pub(crate) fn here(self: &Arc<Self>) -> Arc<Pool> {
        let runtime = Handle::current().id();
        let mut pools = lock(&self.by_runtime);
        if let Some(pool) = pools.get(&runtime) {
            return Arc::clone(pool);
        }
        // Runtimes that are gone leave an empty pool that nobody knows any more.
        pools.retain(|_, pool| Arc::strong_count(pool) > 1 || pool.idle() > 0);
        let pool = Arc::new(Pool {
            connector: Arc::clone(&self.connector),
            clock: Arc::clone(&self.clock),
            permits: Arc::new(Semaphore::new(self.config().max_connections)),
            idle: Mutex::default(),
        });
        pools.insert(runtime, Arc::clone(&pool));
        pool
    }

    /// The distance to the server; zero until somebody connected.
    pub(crate) fn round_trip(&self) -> Duration {
        Duration::from_micros(self.round_trip.load(Ordering::Relaxed))
    }

    pub(crate) fn note_round_trip(&self, round_trip: Duration) {
        let micros = u64::try_from(round_trip.as_micros()).unwrap_or(u64::MAX);
        self.round_trip.store(micros, Ordering::Relaxed);
    }
}

impl Pool {
    fn config(&self) -> &Config {
        self.connector.config()
    }

    /// How many connections others could be waited for.
    pub(crate) fn max_connections(&self) -> usize {
        self.config().max_connections
    }

    fn in_use(&self) -> usize {
        self.max_connections()
            .saturating_sub(self.permits.available_permits())
    }

    fn idle(&self) -> usize {
        lock(&self.idle).len()
    }

    /// Whether a connection that comes to rest now may stay open.
    pub(crate) fn keeps(&self, session: &Session) -> bool {
        self.idle() < self.config().idle_limit()
            && self.clock.since(session.opened()) < self.config().max_age
    }

    /// The driver of a connection ended.
    fn forget_ended(&self) {
        lock(&self.idle).retain(|idle| !idle.session.is_over());
    }
}

impl Lease {
    pub(crate) fn pool(&self) -> &Pool {
        &self.pool
    }

    /// Gives the connection back, at rest. `home` shows that nobody uses it.
    pub(crate) fn keep(self, home: Home) {
        let Lease {
            session,
            pool,
            permit,
        } = self;
        drop(home);
        let since = pool.clock.now();
        let mut idle = lock(&pool.idle);
        if !session.is_over() {
            idle.push(Idle { session, since });
        }
        drop(idle);
        drop(permit);
    }
}

impl fmt::Debug for Pools {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map()
            .entries(lock(&self.by_runtime).iter())
            .finish()
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

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
