//! The end of a pool: nothing is kept any more, and what is open is found.

use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use tokio::sync::Notify;

use super::{Idle, Pool, Pools, lock};
use crate::connection::Session;

/// Whether a process keeps connections, for all of its runtimes.
#[derive(Debug, Default)]
pub(crate) struct Shut {
    shut: AtomicBool,
    /// One at a time closes what is open; who comes next finds it done.
    pub(super) closing: tokio::sync::Mutex<()>,
}

impl Shut {
    pub(super) fn is_shut(&self) -> bool {
        self.shut.load(Ordering::Acquire)
    }
}

/// A session that somebody has. Dropped when he has given it back, or it was closed.
pub(super) struct Out {
    pool: Arc<Pool>,
    away: Arc<Away>,
}

/// The same, as it is seen from outside.
pub(crate) struct Away {
    pub(crate) session: Arc<Session>,
    /// It was given back.
    back: OnceLock<()>,
    returned: Notify,
}

impl Pools {
    /// From now on nothing is kept, and nothing is opened to be kept. Who is served goes on
    /// being served: his connections are closed when he is done.
    pub(crate) fn shut(&self) {
        self.shut.shut.store(true, Ordering::Release);
    }

    /// As if it had never been shut.
    #[cfg(feature = "lambda")]
    pub(crate) fn reopen(&self) {
        self.shut.shut.store(false, Ordering::Release);
    }

    /// Waits for whoever closes what is open, and keeps others from it.
    pub(crate) async fn closing(&self) -> tokio::sync::MutexGuard<'_, ()> {
        self.shut.closing.lock().await
    }

    /// Waits until no connection is being opened, by those who were served already: each
    /// is somebody's then, or given up.
    pub(crate) async fn opened(&self) {
        self.opening.none().await;
    }

    /// What is kept, of every runtime. It is kept no more.
    pub(crate) fn take_idle(&self) -> Vec<Arc<Session>> {
        let take = |pool: Arc<Pool>| std::mem::take(&mut lock(&pool.kept).idle);
        let idle = self.all().into_iter().flat_map(take);
        idle.map(|Idle { session, .. }| session).collect()
    }

    /// What somebody has, of every runtime.
    pub(crate) fn away(&self) -> Vec<Arc<Away>> {
        let away = |pool: Arc<Pool>| lock(&pool.kept).away.clone();
        self.all().into_iter().flat_map(away).collect()
    }

    fn all(&self) -> Vec<Arc<Pool>> {
        lock(&self.by_runtime).values().cloned().collect()
    }
}

impl Out {
    pub(super) fn new(pool: Arc<Pool>, session: Arc<Session>) -> Out {
        let away = Arc::new(Away {
            session,
            back: OnceLock::new(),
            returned: Notify::new(),
        });
        lock(&pool.kept).away.push(Arc::clone(&away));
        Out { pool, away }
    }
}

impl Drop for Out {
    fn drop(&mut self) {
        let mut kept = lock(&self.pool.kept);
        let at = kept
            .away
            .iter()
            .position(|away| Arc::ptr_eq(away, &self.away));
        at.map(|at| kept.away.swap_remove(at));
        drop(kept);
        let _ = self.away.back.set(());
        self.away.returned.notify_waiters();
    }
}

impl Away {
    /// Waits until it was given back.
    pub(crate) async fn returned(&self) {
        let mut returned = pin!(self.returned.notified());
        returned.as_mut().enable();
        if self.back.get().is_none() {
            returned.await;
        }
    }
}
