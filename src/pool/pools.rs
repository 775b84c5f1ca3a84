//! The pools of one database, one for each runtime.

use std::collections::HashMap;
use std::fmt;
use std::ops::Deref;
use std::sync::{Arc, Mutex};

use tokio::runtime::{self, Handle};

use super::runtime::{CheckedOut, Pool};
use super::shared::{Shared, lock};
use crate::clock::Clock;
use crate::connect::Connector;
use crate::connection::Session;

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
        // Runtimes that are gone leave an empty pool that nobody knows any more.
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
