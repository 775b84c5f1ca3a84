//! The invocations of a database that are under way: for a connection of another driver, which
//! cannot always tell which of them it belongs to.

use std::any::Any;
use std::sync::{Arc, MutexGuard, Weak};
use std::time::Duration;

use super::scope::Scope;
use super::state::{Inner, Invocation};
use crate::deadline::Deadline;
use crate::engine::Engine;
use crate::lock::Mutex;

/// The invocations under way.
#[derive(Default)]
pub(crate) struct Live(Mutex<State>);

#[derive(Default)]
struct State {
    all: Vec<Entry>,
    /// An invocation without a handler, for connections of other drivers that may belong to any of
    /// several invocations under way; it ends with the last of them.
    common: Option<Invocation>,
}

struct Entry {
    invocation: Weak<Inner>,
    /// The invocation of the same database inside which this one began.
    outer: Weak<Inner>,
}

/// A reference to an invocation that does not keep it.
#[derive(Clone)]
pub(crate) struct WeakInvocation(Weak<Inner>);

/// Which invocation a connection belongs to that does not say so.
pub(crate) enum Attribution {
    None,
    One(Invocation),
    /// Several are under way: this one stands for all of them.
    Several(Invocation),
}

impl Live {
    pub(crate) fn of(engine: &Engine) -> &Live {
        let live = engine.live.get_or_init(|| Box::<Live>::default());
        let live: &(dyn Any + Send + Sync) = &**live;
        live.downcast_ref().expect("nothing else is put there")
    }

    /// Adds an invocation that begins.
    fn add(&self, invocation: &Invocation, outer: Option<&Invocation>) {
        let mut state = self.state();
        state
            .all
            .retain(|entry| entry.invocation.strong_count() > 0);
        state.all.push(Entry {
            invocation: Arc::downgrade(&invocation.inner),
            outer: outer.map_or_else(Weak::new, |outer| Arc::downgrade(&outer.inner)),
        });
    }

    /// Finds the invocation that is under way: of nested ones the innermost.
    pub(crate) fn attribution(&self, engine: &Arc<Engine>) -> Attribution {
        let mut state = self.state();
        let open: Vec<_> = state.open().collect();
        let mut innermost = open.iter().filter(|(inner, _)| {
            let is_outer = |outer: &Weak<Inner>| std::ptr::eq(outer.as_ptr(), Arc::as_ptr(inner));
            !open.iter().any(|(_, outer)| is_outer(outer))
        });
        match (innermost.next(), innermost.next()) {
            (None, _) => Attribution::None,
            (Some((inner, _)), None) => Attribution::One(Invocation {
                inner: Arc::clone(inner),
            }),
            _ => Attribution::Several(state.common(engine)),
        }
    }

    /// Returns what ends with the last of the invocations, and begins it if there is none.
    pub(crate) fn common(&self, engine: &Arc<Engine>) -> Invocation {
        self.state().common(engine)
    }

    /// Returns whether there is something to end with the last invocation.
    pub(super) fn has_common(&self) -> bool {
        self.state().common.is_some()
    }

    /// Takes what ends with the last invocation, if none is under way any more.
    pub(super) fn take_common(&self) -> Option<Invocation> {
        let mut state = self.state();
        let last = state.open().next().is_none();
        last.then(|| state.common.take()).flatten()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock()
    }
}

impl State {
    fn common(&mut self, engine: &Arc<Engine>) -> Invocation {
        let begin = || Invocation::new(Arc::clone(engine), Deadline::none(), "");
        self.common.get_or_insert_with(begin).clone()
    }

    fn open(&self) -> impl Iterator<Item = (Arc<Inner>, Weak<Inner>)> {
        self.all.iter().filter_map(|entry| {
            let inner = entry.invocation.upgrade()?;
            inner.leases.is_open().then(|| (inner, entry.outer.clone()))
        })
    }
}

impl Invocation {
    /// Notes that the invocation begins to run in `scope`.
    pub(super) fn begin(&self, scope: &Scope) {
        // What is done for the host is no call of the function.
        if !self.inner.leases.deadline.is_internal() {
            Live::of(self.engine()).add(self, scope.outer());
        }
    }

    pub(crate) fn downgrade(&self) -> WeakInvocation {
        WeakInvocation(Arc::downgrade(&self.inner))
    }
}

impl WeakInvocation {
    /// Returns one that has ended.
    pub(crate) fn ended() -> Self {
        WeakInvocation(Weak::new())
    }

    /// Returns the invocation, unless it has ended.
    pub(crate) fn upgrade(&self) -> Option<Invocation> {
        let inner = self.0.upgrade()?;
        inner.leases.is_open().then_some(Invocation { inner })
    }

    /// Returns how long an answer may take that comes without further requests, at the end of the
    /// invocation too.
    pub(crate) fn grace(&self) -> Duration {
        let inner = self.0.upgrade();
        inner.map_or(Duration::ZERO, |inner| inner.leases.budget().grace())
    }

    pub(crate) fn is_same(&self, other: &WeakInvocation) -> bool {
        self.0.ptr_eq(&other.0)
    }

    pub(crate) fn is(&self, invocation: &Invocation) -> bool {
        std::ptr::eq(self.0.as_ptr(), Arc::as_ptr(&invocation.inner))
    }
}
