//! `Invocation`: what one call of the function owns.

use std::any::Any;
use std::collections::VecDeque;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use super::leases::Leases;
use super::tasks::Tasks;
use super::transaction::Slot;
use crate::deadline::Deadline;
use crate::engine::Engine;
use crate::error::Error;

/// What is run at the end of an invocation.
pub(super) type Hook = Pin<Box<dyn Future<Output = ()> + Send>>;

/// The caller of a checkout: a place in the source, or an extractor.
pub(crate) type Caller = &'static (dyn fmt::Display + Sync);

/// One call of the function.
///
/// It owns the connections, the transaction and the tasks that the call uses, and
/// brings them to rest before the response leaves. Cheap to clone: a task that was
/// started with `tokio::spawn` does not inherit the invocation, so give it a clone.
///
/// ```no_run
/// # async fn handler() -> Result<(), antifreeze::Error> {
/// let invocation = antifreeze::invocation()?;
/// tokio::spawn(async move {
///     let connection = invocation.connection().await?;
///     connection.execute("select 1", &[]).await?;
///     Ok::<_, antifreeze::Error>(())
/// })
/// .await
/// .expect("the task does not panic")
/// # }
/// ```
#[derive(Clone)]
pub struct Invocation {
    pub(super) inner: Arc<Inner>,
}

pub(super) struct Inner {
    pub(super) leases: Arc<Leases>,
    pub(super) transaction: Slot,
    pub(super) tasks: Tasks,
    agenda: Mutex<Agenda>,
}

/// What the end of the invocation has to do, and to decide by.
#[derive(Default)]
pub(super) struct Agenda {
    pub(super) deferred: VecDeque<Hook>,
    pub(super) after: VecDeque<Hook>,
    pub(super) failed: bool,
    /// Alive as long as a body that was marked is.
    pub(super) streams: Weak<()>,
    /// Dropped when everything is at rest.
    pub(super) guard: Option<Box<dyn Any + Send>>,
}

impl Invocation {
    pub(crate) fn new(engine: Arc<Engine>, deadline: Deadline, request_id: &str) -> Self {
        Invocation {
            inner: Arc::new(Inner {
                leases: Arc::new(Leases::new(engine, deadline, request_id)),
                transaction: Slot::default(),
                tasks: Tasks::default(),
                agenda: Mutex::default(),
            }),
        }
    }

    /// Has the invocation's transaction rolled back whatever the response says: for
    /// a GraphQL answer of 200 that carries errors.
    pub fn fail(&self) {
        self.agenda().failed = true;
    }

    /// Runs `cleanup` when the handler is done and its tasks are, before the
    /// connections are brought to rest: for what other stores leave behind. The
    /// last one deferred runs first.
    ///
    /// It is given up after half a second. All of them together have what the deadline
    /// leaves, less half a second for COMMIT; those that have not begun by then are dropped
    /// unrun, as is one that is deferred when the connections are being brought to rest
    /// already.
    pub fn defer(&self, cleanup: impl Future<Output = ()> + Send + 'static) {
        self.hook(Box::pin(cleanup), |agenda| &mut agenda.deferred);
    }

    /// Runs `hook` last, when the connections are at rest and before the response
    /// leaves: for exporters that have to flush what teardown reports.
    ///
    /// All of them together have half a second, and at most half of what the deadline
    /// leaves; those that have not begun by then are dropped unrun, as is one that is
    /// registered when the connections are being brought to rest already.
    pub fn after(&self, hook: impl Future<Output = ()> + Send + 'static) {
        self.hook(Box::pin(hook), |agenda| &mut agenda.after);
    }

    fn hook(&self, hook: Hook, list: impl FnOnce(&mut Agenda) -> &mut VecDeque<Hook>) {
        let mut agenda = self.agenda();
        if self.inner.leases.is_open() {
            list(&mut agenda).push_back(hook);
        } else {
            // Kept, it would keep what it holds for ever, and that may be ourselves.
            drop(agenda);
            drop(hook);
        }
    }

    /// The host's id of this request; empty where there is none.
    pub fn request_id(&self) -> &str {
        &self.inner.leases.request_id
    }

    /// What is left until the handler is stopped; `None` without a deadline.
    pub fn remaining(&self) -> Option<Duration> {
        self.inner.leases.left()
    }

    /// Keeps `guard` until everything is at rest.
    #[cfg(feature = "vercel")]
    pub(crate) fn guard(&self, guard: impl Any + Send) {
        self.agenda().guard = Some(Box::new(guard));
    }

    /// Why it had better not begin, where [`LoadShed::BeforeHandler`](crate::config::LoadShed::BeforeHandler) is
    /// asked for.
    pub(crate) fn turned_away(&self) -> Option<Error> {
        let left = self.inner.leases.left();
        self.engine().before_handler(left, self.request_id())
    }

    pub(super) fn engine(&self) -> &Arc<Engine> {
        &self.inner.leases.engine
    }

    pub(super) fn belongs_to(&self, engine: &Arc<Engine>) -> bool {
        Arc::ptr_eq(self.engine(), engine)
    }

    /// Whether the body of the response reads from the database while it is sent.
    pub(crate) fn streams(&self) -> bool {
        self.agenda().streams.strong_count() > 0
    }

    /// Whether its transaction has a connection, and gives it back at the end alone. The
    /// head of a streamed response is another end, before that of the tasks that wait.
    pub(super) fn keeps_one(&self) -> bool {
        self.inner.transaction.is_made() && !self.streams()
    }

    pub(crate) fn cutoff(&self) -> Option<tokio::time::Instant> {
        self.inner.leases.cutoff()
    }

    pub(super) fn agenda(&self) -> MutexGuard<'_, Agenda> {
        let agenda = self.inner.agenda.lock();
        agenda.unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Invocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let leases = &self.inner.leases;
        f.debug_struct("Invocation")
            .field("request_id", &leases.request_id)
            .field("remaining", &leases.deadline.remaining())
            .field("open", &leases.is_open())
            .field("connections", &leases.count())
            .finish_non_exhaustive()
    }
}
