//! The end of an invocation behind its response.

use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use crate::invocation::{Finished, Invocation, Scope};

/// The end of an invocation whose response needs no more deciding. Dropped before it is
/// done, it does what can be done at once.
pub(super) struct Ending {
    pub(super) invocation: Invocation,
    teardown: Option<Pin<Box<dyn Future<Output = Finished> + Send>>>,
    abandoned: fn(&str, usize),
    done: bool,
}

impl Ending {
    /// What is left undone is told to `abandoned`.
    pub(super) fn new(invocation: Invocation, abandoned: fn(&str, usize)) -> Self {
        Ending {
            invocation,
            teardown: None,
            abandoned,
            done: false,
        }
    }
}

impl Future for Ending {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if !self.done {
            let invocation = self.invocation.clone();
            let teardown = self
                .teardown
                .get_or_insert_with(|| Box::pin(async move { invocation.finish(false).await }));
            let _ = ready!(teardown.as_mut().poll(cx));
            self.teardown = None;
            self.done = true;
        }
        Poll::Ready(())
    }
}

impl Drop for Ending {
    fn drop(&mut self) {
        if !self.done {
            self.teardown = None;
            self.invocation.abandon(self.abandoned);
        }
    }
}

/// Drops what belongs to an invocation inside its scope. A panic of its destructors goes
/// no further.
pub(super) fn set_none<T>(scope: &Scope, mut what: Pin<&mut Option<T>>) {
    let _ = scope.enter(|| catch_unwind(AssertUnwindSafe(|| what.set(None))));
}
