//! Finds the invocation that the current task belongs to.

use std::future::Future;
use std::iter::{once, successors};
use std::panic::{AssertUnwindSafe, Location, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;

use tokio::task::JoinHandle;
use tracing::Instrument;

use super::builder::TransactionBuilder;
use super::connection::Connection;
use super::state::{Caller, Invocation};
use crate::deadline::Deadline;
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::pool::Pool;

tokio::task_local! {
    static CURRENT: Scope;
}

/// The invocations that code runs in, one for each database, the innermost first.
#[derive(Clone)]
pub(crate) struct Scope {
    invocation: Invocation,
    outer: Option<Arc<Scope>>,
}

impl Scope {
    /// Returns the current scope with `invocation` as the innermost.
    pub(crate) fn around(invocation: Invocation) -> Self {
        let outer = CURRENT.try_with(|scope| Arc::new(scope.clone())).ok();
        Scope { invocation, outer }
    }

    fn invocations(&self) -> impl Iterator<Item = &Invocation> {
        let scopes = successors(Some(self), |scope| scope.outer.as_deref());
        scopes.map(|scope| &scope.invocation)
    }

    /// Finds the current invocation of a database.
    pub(crate) fn find(engine: &Arc<Engine>) -> Option<Invocation> {
        let found = CURRENT.try_with(|scope| {
            let mut all = scope.invocations();
            all.find(|invocation| invocation.belongs_to(engine))
                .cloned()
        });
        found.ok().flatten()
    }

    /// Finds the invocation of the same database inside which this one began.
    pub(super) fn outer(&self) -> Option<&Invocation> {
        let engine = self.invocation.engine();
        let outer = self.outer.as_ref()?;
        outer.invocations().find(|one| one.belongs_to(engine))
    }

    /// Returns `invocation` and the outer ones of the same database.
    fn with_outer(invocation: &Invocation) -> Vec<Invocation> {
        let is_outer = |outer: &&Invocation| {
            !Arc::ptr_eq(&outer.inner, &invocation.inner) && outer.belongs_to(invocation.engine())
        };
        let outer = CURRENT.try_with(|scope| {
            let outer = scope.invocations().filter(is_outer);
            outer.cloned().collect::<Vec<_>>()
        });
        let outer = outer.unwrap_or_default();
        once(invocation.clone()).chain(outer).collect()
    }

    /// Counts the connections of `pool` that `invocation` and the outer ones use.
    pub(super) fn in_use(invocation: &Invocation, pool: &Arc<Pool>) -> usize {
        let all = Scope::with_outer(invocation);
        all.iter().map(|one| one.inner.leases.in_use(pool)).sum()
    }

    /// Counts the connections of `pool` that transactions keep until the end of `invocation`.
    /// Concurrent futures may give back any of the others.
    pub(super) fn transactions(invocation: &Invocation, pool: &Arc<Pool>) -> usize {
        let all = Scope::with_outer(invocation);
        all.iter().filter(|one| one.keeps_one(pool)).count()
    }

    /// Runs `f` in this scope.
    pub(crate) fn enter<R>(&self, f: impl FnOnce() -> R) -> R {
        CURRENT.sync_scope(self.clone(), f)
    }

    /// Drops a future of the invocation in this scope, and catches panics of its destructors.
    pub(crate) fn drop_inside<T>(&self, mut what: Pin<&mut Option<T>>) {
        if what.is_some() {
            let drop = AssertUnwindSafe(|| what.set(None));
            let _ = self.enter(|| catch_unwind(drop));
        }
    }

    /// Runs `future` in this scope.
    pub(crate) fn run<F: Future>(self, future: F) -> impl Future<Output = F::Output> {
        CURRENT.scope(self, future)
    }
}

impl Invocation {
    /// Begins an invocation. Inside another one, whose cutoff would drop it, it ends before that,
    /// as it is known now.
    pub(crate) fn inside(engine: Arc<Engine>, deadline: Deadline, request_id: &str) -> Self {
        let outer = CURRENT.try_with(|scope| {
            let leases = &scope.invocation.inner.leases;
            // A clean-up may run behind it.
            leases
                .left()
                .filter(|left| !left.is_zero())
                .or_else(|| leases.budget().left())
        });
        let left = outer.ok().flatten();
        let capped = left.map(|left| deadline.capped(deadline.elapsed() + left));
        Invocation::new(engine, capped.unwrap_or(deadline), request_id)
    }

    /// Spawns a task that belongs to this invocation: [`connection`] and [`transaction`] work in
    /// it as in the handler.
    ///
    /// A task that still runs when the handler returns is aborted. If it holds the invocation's
    /// [transaction](Invocation::transaction), the transaction is rolled back and the response is
    /// an error ([`TransactionInUse`](crate::ErrorKind::TransactionInUse)). The same happens if a
    /// task or a deferred clean-up panics while it holds the transaction.
    ///
    /// For work that continues after the response, see [the crate's
    /// documentation](crate#work-after-the-response).
    pub fn spawn<F>(&self, future: F) -> JoinHandle<F::Output>
    where
        F: Future<Output: Send + 'static> + Send + 'static,
    {
        let scope = Scope::around(self.clone());
        let _agenda = self.agenda();
        let task = self
            .inner
            .tasks
            .spawn(scope.run(future).instrument(self.span()));
        if !self.inner.leases.is_open() {
            task.abort();
        }
        task
    }
}

/// Returns the current invocation: with several layers, that of the innermost.
///
/// # Errors
///
/// [`NotInInvocation`](crate::ErrorKind::NotInInvocation) outside any layer, or in
/// a task that was started with `tokio::spawn`.
pub fn invocation() -> Result<Invocation> {
    CURRENT
        .try_with(|scope| scope.invocation.clone())
        .map_err(|_| Error::not_in_invocation())
}

/// Leases a connection for the current [`invocation`], like [`Invocation::connection`].
///
/// The invocation is the one in which this function is called, not the one in which its future is
/// awaited.
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

/// Returns the transaction of the current [`invocation`], like [`Invocation::transaction`].
/// Outside an invocation, awaiting it fails with
/// [`NotInInvocation`](crate::ErrorKind::NotInInvocation).
pub fn transaction() -> TransactionBuilder {
    TransactionBuilder::of(invocation().ok())
}
