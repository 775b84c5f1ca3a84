//! Calls the service inside the layer, for HTTP requests and for events.

use std::future::Future;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};

use pin_project_lite::pin_project;
use tokio::task::coop::unconstrained;
use tokio::time::{Sleep, sleep};

use super::settings::LayerSettings;
use crate::deadline::Deadline;
use crate::error::{Error, Result};
use crate::invocation::{Invocation, Judge, Run, Scope};

/// The future of a call, ready once its connections are at rest. An error of this crate
/// replaces the service's answer.
///
/// What it holds of the service is boxed: it is large, and would be moved several times.
pub(crate) enum Call<F: Future, J> {
    Ours(Pin<Box<Run<F, J>>>),
    /// An outer layer has begun the invocation.
    Joined(Pin<Box<Joined<F>>>, J),
    /// Load shedding rejected the call.
    Refused(Option<Error>),
}

/// Its parts are boxed, or not futures.
impl<F: Future, J> Unpin for Call<F, J> {}

impl<F: Future, J> Call<F, J> {
    /// Calls the service inside the current invocation, that of an outer layer, or begins one,
    /// unless it is rejected. `call` gets the invocation that was begun.
    #[inline]
    pub(crate) fn new(
        settings: &LayerSettings,
        judge: J,
        (deadline, request_id): (Deadline, &str),
        call: impl FnOnce(Option<&Invocation>) -> F,
    ) -> Self {
        if let Some(outer) = Scope::find(settings.database.engine()) {
            let inner = Box::pin(Joined {
                inner: Some(call(None)),
                cutoff: settings.max_duration.map(sleep),
                invocation: outer,
            });
            Call::Joined(inner, judge)
        } else {
            match settings.begin(deadline, request_id) {
                Ok(invocation) => {
                    let handler = || call(Some(&invocation));
                    Call::Ours(Run::new(invocation.clone(), judge, handler))
                }
                Err(error) => Call::Refused(Some(error)),
            }
        }
    }

    /// Returns the invocation that this call began.
    pub(super) fn invocation(&self) -> Option<&Invocation> {
        match self {
            Call::Ours(run) => Some(run.invocation()),
            Call::Joined(..) | Call::Refused(_) => None,
        }
    }

    /// Returns the invocation that this call began, if the body ends it.
    pub(super) fn streaming(&self) -> Option<&Invocation> {
        match self {
            Call::Ours(run) => run.streaming(),
            Call::Joined(..) | Call::Refused(_) => None,
        }
    }
}

impl<F, J, T, E> Future for Call<F, J>
where
    F: Future<Output = Result<T, E>>,
    J: Judge<T>,
{
    type Output = Result<Result<T, E>>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.get_mut() {
            Call::Ours(run) => run.as_mut().poll(cx),
            Call::Joined(inner, judge) => {
                let mut answer = ready!(inner.as_mut().poll(cx)).ok_or_else(Error::deadline);
                if let Ok(Ok(answer)) = &mut answer {
                    judge.note(answer);
                }
                Poll::Ready(answer)
            }
            Call::Refused(error) => {
                let error = error.take();
                Poll::Ready(Err(error.expect("a future is not polled once it is done")))
            }
        }
    }
}

pin_project! {
    /// A call inside the invocation of an outer layer, limited by its own layer's `max_duration`.
    /// `None`: it took longer and was dropped.
    pub(crate) struct Joined<F> {
        #[pin]
        inner: Option<F>,
        #[pin]
        cutoff: Option<Sleep>,
        invocation: Invocation,
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
        // The call may have used up what the task may do before it yields.
        if cutoff.is_none_or(|cutoff| pin!(unconstrained(cutoff)).poll(cx).is_pending()) {
            return Poll::Pending;
        }
        this.inner.set(None);
        // Work was cut off, whatever response the outer layer sends.
        this.invocation.fail();
        Poll::Ready(None)
    }
}
