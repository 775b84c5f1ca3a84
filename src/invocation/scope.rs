//! Finds the invocation that the current task belongs to.

use std::future::Future;
use std::iter::{once, successors};
use std::panic::{AssertUnwindSafe, Location, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;

use tokio::task::JoinHandle;

use super::builder::TransactionBuilder;
use super::connection::Connection;
use super::state::{Caller, Invocation};
use crate::engine::Engine;
use crate::error::{Error, Result};

tokio::task_local! {
    static CURRENT: Scope;
}

/// The invocations around a piece of code, one for each database, the innermost
/// first.
#[derive(Clone)]
pub(crate) struct Scope(Arc<Layered>);

struct Layered {
    invocation: Invocation,
    outer: Option<Scope>,
}

impl Scope {
    /// The current scope, with `invocation` inside it.
    pub(crate) fn around(invocation: Invocation) -> Self {
        let outer = Scope::current();
        Scope(Arc::new(Layered { invocation, outer }))
    }

    fn current() -> Option<Scope> {
        CURRENT.try_with(Clone::clone).ok()
    }

    fn invocations() -> impl Iterator<Item = Invocation> {
        let scopes = successors(Scope::current(), |scope| scope.0.outer.clone());
        scopes.map(|scope| scope.0.invocation.clone())
    }

    /// The invocation of a database that is current, if there is one.
    pub(crate) fn find(engine: &Arc<Engine>) -> Option<Invocation> {
        Scope::invocations().find(|invocation| invocation.belongs_to(engine))
    }

    /// `invocation` and those of the same database around it.
    fn with_outer(invocation: &Invocation) -> impl Iterator<Item = Invocation> {
        let inner = invocation.clone();
        let outer = Scope::invocations().filter(move |outer| {
            !Arc::ptr_eq(&outer.inner, &inner.inner) && outer.belongs_to(inner.engine())
        });
        once(invocation.clone()).chain(outer)
    }

    /// How many connections `invocation` and those around it use.
    pub(super) fn in_use(invocation: &Invocation) -> usize {
        let all = Scope::with_outer(invocation);
        all.map(|one| one.inner.leases.in_use()).sum()
    }

    /// How many of these are kept by transactions: nothing gives them back before
    /// `invocation` has ended. Any other may be given back, by a future that runs beside
    /// this one.
    pub(super) fn transactions(invocation: &Invocation) -> usize {
        let all = Scope::with_outer(invocation);
        all.filter(Invocation::keeps_one).count()
    }

    /// Runs `f` inside this scope.
    pub(crate) fn enter<R>(&self, f: impl FnOnce() -> R) -> R {
        CURRENT.sync_scope(self.clone(), f)
    }

    /// Drops what belongs to the invocation inside this scope. A panic of its destructors
    /// goes no further.
    pub(crate) fn drop_inside<T>(&self, mut what: Pin<&mut Option<T>>) {
        let drop = AssertUnwindSafe(|| what.set(None));
        let _ = self.enter(|| catch_unwind(drop));
    }

    /// Runs `future` inside this scope.
    pub(crate) fn run<F: Future>(self, future: F) -> impl Future<Output = F::Output> {
        CURRENT.scope(self, future)
    }
}

impl Invocation {
    /// Starts a task that belongs to this invocation: inside it
    /// [`connection`] and [`transaction`] work as in the handler.
    ///
    /// What has not been joined when the handler returns is aborted. If it has the
    /// invocation's [transaction](Invocation::transaction) then, half of its work is done:
    /// the transaction is rolled back, and the caller is told
    /// ([`TransactionInUse`](crate::ErrorKind::TransactionInUse)). So it is where a task, or
    /// a clean-up, panics with the transaction in hand.
    ///
    /// Work that is to go on after the response has no place here: see
    /// [the crate's documentation](crate#work-after-the-response).
    pub fn spawn<F>(&self, future: F) -> JoinHandle<F::Output>
    where
        F: Future<Output: Send + 'static> + Send + 'static,
    {
        let scope = Scope::around(self.clone());
        let _agenda = self.agenda();
        let task = self.inner.tasks.spawn(scope.run(future));
        if !self.inner.leases.is_open() {
            task.abort();
        }
        task
    }
}

/// The invocation that this code runs for: with several layers, the innermost.
///
/// # Errors
///
/// [`NotInInvocation`](crate::ErrorKind::NotInInvocation) outside any layer, or in
/// a task that was started with `tokio::spawn`.
pub fn invocation() -> Result<Invocation> {
    CURRENT
        .try_with(|scope| scope.0.invocation.clone())
        .map_err(|_| Error::not_in_invocation())
}

/// Leases a connection for the current [`invocation`]:
/// [`Invocation::connection`] says the rest.
///
/// The invocation is the one in which this is called, not the one in which it is awaited.
///
/// # Errors
///
/// Those of [`invocation`] and of [`Invocation::connection`].
#[track_caller]
pub fn connection() -> impl Future<Output = Result<Connection>> + Send + use<> {
    let invocation = invocation();
    let caller: Caller = Location::caller();
    async move { invocation?.lease(caller).await }
}

/// The transaction of the current [`invocation`]: [`Invocation::transaction`] says
/// the rest. Outside one, awaiting it is
/// [`NotInInvocation`](crate::ErrorKind::NotInInvocation).
pub fn transaction() -> TransactionBuilder {
    TransactionBuilder::of(invocation().ok())
}
