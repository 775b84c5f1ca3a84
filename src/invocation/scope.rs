//! The invocation that the current task works for.

use std::future::Future;
use std::panic::Location;
use std::sync::Arc;

use super::{Caller, Connection, Inner, Invocation, TransactionBuilder};
use crate::database::Database;
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
        let outer = CURRENT.try_with(Clone::clone).ok();
        Scope(Arc::new(Layered { invocation, outer }))
    }

    /// The invocation of `database` that is current, if there is one.
    pub(crate) fn find(database: &Database) -> Option<Invocation> {
        let mut scope = CURRENT.try_with(Clone::clone).ok();
        while let Some(Scope(layered)) = scope {
            if layered.invocation.belongs_to(database) {
                return Some(layered.invocation.clone());
            }
            scope = layered.outer.clone();
        }
        None
    }

    /// How many connections of the same database `inner` and the invocations around it use.
    pub(super) fn in_use(inner: &Inner) -> usize {
        let around = Scope::around_it(inner).into_iter();
        inner.in_use() + around.map(|outer| outer.inner.in_use()).sum::<usize>()
    }

    /// How many of these are kept by transactions: nothing gives them back before `inner`
    /// has ended. Any other may be given back, by a future that runs beside this one.
    pub(super) fn transactions(inner: &Inner) -> usize {
        let around = Scope::around_it(inner);
        let keep = around.iter().filter(|outer| outer.inner.keeps_one());
        usize::from(inner.keeps_one()) + keep.count()
    }

    /// The invocations of the same database around `inner`.
    fn around_it(inner: &Inner) -> Vec<Invocation> {
        let mut around = Vec::new();
        let mut scope = CURRENT.try_with(Clone::clone).ok();
        while let Some(Scope(layered)) = scope {
            let outer = &layered.invocation;
            if !std::ptr::eq(&*outer.inner, inner) && outer.belongs_to(&inner.database) {
                around.push(outer.clone());
            }
            scope = layered.outer.clone();
        }
        around
    }

    /// Runs `f` inside this scope.
    pub(crate) fn enter<R>(&self, f: impl FnOnce() -> R) -> R {
        CURRENT.sync_scope(self.clone(), f)
    }

    /// Runs `future` inside this scope.
    pub(crate) fn run<F: Future>(self, future: F) -> impl Future<Output = F::Output> {
        CURRENT.scope(self, future)
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
/// the rest.
///
/// # Errors
///
/// Those of [`invocation`].
pub fn transaction() -> Result<TransactionBuilder> {
    Ok(invocation()?.transaction())
}
