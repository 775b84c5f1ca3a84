//! The connections that this process keeps.
//!
//! There is a pool for each tokio runtime: a connection is driven by the runtime
//! that it was opened on and used on no other. It knows nothing of invocations.

mod checkout;
mod shut;
mod stale;

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::runtime::{self, Handle};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

use crate::clock::Clock;
use crate::config::{LoadShed, Settings};
use crate::connect::Connector;
use crate::connection::{Home, Session};
use crate::error::Error;
use crate::limit::Limits;
use crate::observe;
use crate::tally::Tally;

pub(crate) use shut::Away;
use shut::{Out, Shut};

/// The pools of one database, one for each runtime.
pub(crate) struct Pools {
    connector: Arc<Connector>,
    clock: Arc<dyn Clock>,
    limits: Arc<Limits>,
    by_runtime: Mutex<HashMap<runtime::Id, Arc<Pool>>>,
    shut: Arc<Shut>,
    /// Connections that are being opened.
    opening: Tally,
    /// The distance to the server in microseconds, as last measured.
    round_trip: AtomicU64,
}

/// The connections of one runtime.
pub(crate) struct Pool {
    connector: Arc<Connector>,
    clock: Arc<dyn Clock>,
    limits: Arc<Limits>,
    shut: Arc<Shut>,
    /// One for each connection that may be leased. Fair: first come, first served.
    permits: Arc<Semaphore>,
    kept: Mutex<Kept>,
    /// One came to be kept.
    came_home: Notify,
    /// So many wait for the server, and would take what comes home.
    wanting: AtomicUsize,
}

/// The connections that stay open between invocations.
#[derive(Default)]
struct Kept {
    idle: Vec<Idle>,
    /// Places for connections that are being brought to rest.
    reserved: usize,
    /// Those that somebody has.
    away: Vec<Arc<Away>>,
}

/// A connection at rest.
struct Idle {
    session: Arc<Session>,
    since: SystemTime,
}

/// A place among the connections that stay open, for one that is being brought to rest.
pub(crate) struct Place {
    /// Taken when the place is.
    pool: Option<Arc<Pool>>,
}

/// A connection that somebody has, with the right to have it.
pub(crate) struct Lease {
    pub(crate) session: Arc<Session>,
    pool: Arc<Pool>,
    permit: OwnedSemaphorePermit,
    out: Out,
}

impl Pools {
    pub(crate) fn new(connector: Arc<Connector>, clock: Arc<dyn Clock>) -> Self {
        let limits = Limits::new(connector.config(), Arc::clone(&clock));
        Pools {
            connector,
            clock,
            limits: Arc::new(limits),
            by_runtime: Mutex::default(),
            shut: Arc::default(),
            opening: Tally::default(),
            round_trip: AtomicU64::new(0),
        }
    }

    pub(crate) fn config(&self) -> &Settings {
        self.connector.config()
    }

    pub(crate) fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Why an invocation that has so much time left is turned away, if it is: a connection
    /// that is kept serves it whatever the server is like.
    pub(crate) fn at_the_door(
        self: &Arc<Self>,
        left: Option<Duration>,
        request_id: &str,
    ) -> Option<Error> {
        if self.config().load_shed != LoadShed::Door || self.here().idle() > 0 {
            return None;
        }
        let left = left.unwrap_or(self.config().connect_timeout);
        let error = self.limits.at_the_door(left)?;
        observe::shed(Some(request_id), &error);
        Some(error)
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
            limits: Arc::clone(&self.limits),
            shut: Arc::clone(&self.shut),
            permits: Arc::new(Semaphore::new(self.config().max_connections)),
            kept: Mutex::default(),
            came_home: Notify::new(),
            wanting: AtomicUsize::new(0),
        });
        pools.insert(runtime, Arc::clone(&pool));
        pool
    }

    /// The distance to the server; zero until somebody connected.
    pub(crate) fn round_trip(&self) -> Duration {
        Duration::from_micros(self.round_trip.load(Ordering::Relaxed))
    }

    pub(crate) fn clock(&self) -> &dyn Clock {
        &*self.clock
    }

    pub(crate) fn note_round_trip(&self, round_trip: Duration) {
        let micros = u64::try_from(round_trip.as_micros()).unwrap_or(u64::MAX);
        self.round_trip.store(micros, Ordering::Relaxed);
    }
}

impl Pool {
    fn config(&self) -> &Settings {
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
        lock(&self.kept).idle.len()
    }

    /// The driver of a connection ended.
    fn forget_ended(&self) {
        lock(&self.kept).idle.retain(|idle| !idle.session.is_over());
    }

    /// How many connections are leased, and how many are kept for the next.
    pub(crate) fn counts(&self) -> (usize, usize) {
        (self.in_use(), self.idle())
    }
}

impl Lease {
    fn new(session: Arc<Session>, pool: Arc<Pool>, permit: OwnedSemaphorePermit) -> Self {
        Lease {
            out: Out::new(Arc::clone(&pool), Arc::clone(&session)),
            session,
            pool,
            permit,
        }
    }

    /// Whether it is driven by the runtime whose pool this is.
    pub(crate) fn belongs_to(&self, pool: &Arc<Pool>) -> bool {
        Arc::ptr_eq(&self.pool, pool)
    }

    /// A place for this connection to stay open; `None` if it is to be closed.
    pub(crate) fn place(&self) -> Option<Place> {
        let pool = &self.pool;
        if pool.shut.is_shut() {
            return None;
        }
        pool.end_stale();
        let limit = match pool.limits.room.is_crowded() {
            // Others need the slot more, but for those who wait here for one.
            true => pool.wanted().min(pool.config().idle_limit()),
            false => pool.config().idle_limit(),
        };
        let mut kept = lock(&pool.kept);
        let room = kept.idle.len() + kept.reserved < limit;
        let young = pool.clock.since(self.session.opened()) < pool.config().max_age;
        (room && young).then(|| {
            kept.reserved += 1;
            Place {
                pool: Some(Arc::clone(pool)),
            }
        })
    }

    /// Gives the connection back, at rest. `home` shows that nobody uses it.
    pub(crate) fn keep(self, home: Home, mut place: Place) {
        let Lease {
            session,
            pool,
            permit,
            out,
        } = self;
        drop(home);
        let since = pool.clock.now();
        let mut kept = lock(&pool.kept);
        place.pool = None;
        kept.reserved -= 1;
        if pool.shut.is_shut() {
            // It was shut since there was a place.
            session.end();
        } else if !session.is_over() {
            kept.idle.push(Idle { session, since });
        }
        drop(kept);
        drop(out);
        // He who has waited longest.
        pool.came_home.notify_one();
        drop(permit);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(pool) = self.pool.take() {
            lock(&pool.kept).reserved -= 1;
        }
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

#[cfg(test)]
mod tests;
