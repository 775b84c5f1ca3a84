//! `Invocation`: what one call of the function owns.

use std::any::Any;
use std::collections::VecDeque;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::sync::{Arc, MutexGuard, Weak};
use std::time::Duration;

use http::HeaderValue;
use tracing::Span;

use super::connection::Connection;
use super::leases::{Leases, Owner};
use super::tasks::Tasks;
use super::transaction::Slot;
use crate::connection::ExclusiveClient;
use crate::deadline::Deadline;
use crate::engine::Engine;
use crate::error::Error;
use crate::lock::Mutex;
pub(crate) use crate::observe::Caller;
use crate::pool::{Lease, Pool};

/// A future that runs at the end of an invocation.
pub(super) type Hook = Pin<Box<dyn Future<Output = ()> + Send>>;

/// One call of the function.
///
/// It owns the connections, the transaction and the tasks of the call, and brings them to rest
/// before the response leaves. It is cheap to clone: a task that was started with `tokio::spawn`
/// does not inherit the invocation, so move a clone into it.
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
    pub(super) leases: Leases,
    pub(super) transaction: Slot,
    pub(super) tasks: Tasks,
    agenda: Mutex<Agenda>,
}

impl Owner for Inner {
    fn leases(&self) -> &Leases {
        &self.leases
    }
}

/// What the end of the invocation has to run, and what decides it.
#[derive(Default)]
pub(super) struct Agenda {
    pub(super) deferred: VecDeque<Hook>,
    pub(super) after: VecDeque<Hook>,
    pub(super) failed: bool,
    /// Alive as long as a body made by [`Invocation::stream`].
    pub(super) streams: Weak<()>,
    /// Dropped when every connection is at rest.
    pub(super) guard: Option<Box<dyn Any + Send>>,
}

impl Invocation {
    pub(crate) fn new(engine: Arc<Engine>, deadline: Deadline, request_id: &str) -> Self {
        Invocation {
            inner: Arc::new(Inner {
                leases: Leases::new(engine, deadline, request_id),
                transaction: Slot::default(),
                tasks: Tasks::default(),
                agenda: Mutex::default(),
            }),
        }
    }

    /// Lets the invocation's transaction be rolled back whatever the response's status: for a
    /// GraphQL response of 200 that contains errors.
    pub fn fail(&self) {
        self.agenda().failed = true;
    }

    /// Runs `cleanup` after the handler and its tasks, before the connections are brought to rest:
    /// to clean up other stores. The last one deferred runs first.
    ///
    /// It is dropped after half a second. All clean-ups together have the time that the deadline
    /// leaves, less half a second for COMMIT; those that have not begun by then are dropped unrun,
    /// as is one that is deferred once teardown has begun.
    pub fn defer(&self, cleanup: impl Future<Output = ()> + Send + 'static) {
        self.hook(Box::pin(cleanup), |agenda| &mut agenda.deferred);
    }

    /// Runs `hook` after the connections are at rest and before the response leaves: to flush
    /// exporters that record teardowns.
    ///
    /// All hooks together have half a second, and at most half of what the deadline leaves; those
    /// that have not begun by then are dropped unrun, as is one that is registered once teardown
    /// has begun.
    pub fn after(&self, hook: impl Future<Output = ()> + Send + 'static) {
        self.hook(Box::pin(hook), |agenda| &mut agenda.after);
    }

    fn hook(&self, hook: Hook, list: impl FnOnce(&mut Agenda) -> &mut VecDeque<Hook>) {
        let mut agenda = self.agenda();
        if self.inner.leases.is_open() {
            list(&mut agenda).push_back(hook);
        } else {
            // Storing it could make a cycle: it may hold this invocation.
            drop(agenda);
            drop(hook);
        }
    }

    /// Returns the host's id of this request; empty if there is none.
    pub fn request_id(&self) -> &str {
        &self.inner.leases.request_id
    }

    /// Returns the time until the handler is stopped; `None` without a deadline.
    pub fn remaining(&self) -> Option<Duration> {
        self.inner.leases.left()
    }

    /// Keeps `guard` until every connection is at rest.
    #[cfg(feature = "vercel")]
    pub(crate) fn guard(&self, guard: impl Any + Send) {
        self.agenda().guard = Some(Box::new(guard));
    }

    /// Returns the error with which load shedding rejects the invocation, with
    /// [`LoadShed::BeforeHandler`](crate::config::LoadShed::BeforeHandler).
    pub(crate) fn rejected(&self) -> Option<Error> {
        let leases = &self.inner.leases;
        self.engine()
            .before_handler(|| leases.left(), &leases.request_id)
    }

    pub(crate) fn engine(&self) -> &Arc<Engine> {
        &self.inner.leases.engine
    }

    /// Makes a connection of what was leased.
    pub(super) fn connection_of(&self, leased: (Arc<Lease>, u64, ExclusiveClient)) -> Connection {
        let owner: Weak<Inner> = Arc::downgrade(&self.inner);
        Connection::new(owner, leased)
    }

    pub(super) fn belongs_to(&self, engine: &Arc<Engine>) -> bool {
        Arc::ptr_eq(self.engine(), engine)
    }

    /// Returns whether the body of the response reads from the database while it is sent.
    pub(crate) fn streams(&self) -> bool {
        self.agenda().streams.strong_count() > 0
    }

    /// Returns whether its transaction keeps a connection of `pool` until the end. With a streamed response
    /// the transaction ends with the head, before the tasks that wait.
    pub(super) fn keeps_one(&self, pool: &Arc<Pool>) -> bool {
        self.inner.transaction.is_made_in(pool) && !self.streams()
    }

    /// Measures the time that answers of the server take.
    pub(crate) fn time_answers(&self) {
        self.inner.leases.times.store(true, Ordering::Relaxed);
    }

    /// Returns the value of a `Server-Timing` header, if that time is measured.
    pub(crate) fn server_timing(&self) -> Option<HeaderValue> {
        let leases = &self.inner.leases;
        if !leases.times.load(Ordering::Relaxed) {
            return None;
        }
        let work = leases.work();
        let plural = |count: u64| if count == 1 { "" } else { "s" };
        let value = format!(
            "db;dur={:.1};desc=\"{} statement{}, {} round trip{}\"",
            work.busy.as_secs_f64() * 1e3,
            work.statements,
            plural(work.statements),
            work.round_trips,
            plural(work.round_trips),
        );
        HeaderValue::from_str(&value).ok()
    }

    /// Returns the span of the invocation, which polls of its code and of its end are inside.
    pub(crate) fn span(&self) -> Span {
        self.inner.leases.span.get()
    }

    pub(crate) fn cutoff(&self) -> Option<tokio::time::Instant> {
        self.inner.leases.cutoff()
    }

    pub(super) fn agenda(&self) -> MutexGuard<'_, Agenda> {
        self.inner.agenda.lock()
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
