//! A call inside another layer's invocation.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use pin_project_lite::pin_project;
use tokio::time::{Sleep, sleep};

use super::Settings;
use crate::invocation::{Invocation, Scope};

pin_project! {
    /// A call that belongs to the invocation of a layer around it, and takes no longer than
    /// its own layer allows. `None`: it would have, and was dropped.
    pub(crate) struct Joined<F> {
        #[pin]
        inner: Option<F>,
        #[pin]
        cutoff: Option<Sleep>,
        invocation: Option<Invocation>,
    }
}

impl<F> Joined<F> {
    pub(crate) fn new(inner: F, settings: &Settings) -> Self {
        Joined {
            inner: Some(inner),
            cutoff: settings.max_duration.map(sleep),
            invocation: Scope::find(&settings.database),
        }
    }
}

impl<F: Future> Future for Joined<F> {
    type Output = Option<F::Output>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        let inner = this.inner.as_mut().as_pin_mut();
        let inner = inner.expect("a future is not polled once it is done");
        if let Poll::Ready(output) = inner.poll(cx) {
            // No timer outlives the call.
            this.cutoff.set(None);
            return Poll::Ready(Some(output));
        }
        let cutoff = this.cutoff.as_mut().as_pin_mut();
        if cutoff.is_none_or(|cutoff| cutoff.poll(cx).is_pending()) {
            return Poll::Pending;
        }
        this.inner.set(None);
        if let Some(invocation) = this.invocation {
            // Half of the work was cut off, whatever the outer layer's caller is told.
            invocation.fail();
        }
        Poll::Ready(None)
    }
}
