//! Calls the service inside the layer, for HTTP requests and for events.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use pin_project_lite::pin_project;
use tokio::time::{Sleep, sleep};

use super::settings::Settings;
use crate::deadline::Deadline;
use crate::error::{Error, Result};
use crate::invocation::{Invocation, Judge, Run, Scope};

pin_project! {
    /// A call, once everything that it used is at rest. An error of ours takes the place of
    /// the service's answer.
    pub(crate) struct Call<F: Future, J> {
        #[pin]
        kind: Kind<F, J>,
    }
}

pin_project! {
    #[project = KindProjection]
    enum Kind<F: Future, J> {
        Ours { #[pin] run: Run<F, J> },
        // A layer around this one has made the invocation.
        Joined { #[pin] inner: Joined<F>, judge: J },
        // It was turned away.
        Refused { error: Option<Error> },
    }
}

impl<F: Future, J> Call<F, J> {
    /// Calls inside the current invocation, that of a layer around this one, or else begins
    /// one and calls inside it, unless it is turned away. `call` is told which it begins.
    pub(crate) fn new(
        settings: &Settings,
        judge: J,
        (deadline, request_id): (Deadline, &str),
        call: impl FnOnce(Option<&Invocation>) -> F,
    ) -> Self {
        let kind = if let Some(outer) = Scope::find(settings.database.engine()) {
            let inner = Joined {
                inner: Some(call(None)),
                cutoff: settings.max_duration.map(sleep),
                invocation: outer,
            };
            Kind::Joined { inner, judge }
        } else {
            match settings.begin(deadline, request_id) {
                Ok(invocation) => Kind::Ours {
                    run: Run::new(invocation.clone(), judge, || call(Some(&invocation))),
                },
                Err(error) => Kind::Refused { error: Some(error) },
            }
        };
        Call { kind }
    }

    /// The invocation of its own, if it has one.
    pub(super) fn invocation(&self) -> Option<&Invocation> {
        match &self.kind {
            Kind::Ours { run } => Some(run.invocation()),
            Kind::Joined { .. } | Kind::Refused { .. } => None,
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
        match self.project().kind.project() {
            KindProjection::Ours { run } => run.poll(cx),
            KindProjection::Joined { inner, judge } => {
                let mut answer = ready!(inner.poll(cx)).ok_or_else(Error::deadline);
                if let Ok(Ok(answer)) = &mut answer {
                    judge.note(answer);
                }
                Poll::Ready(answer)
            }
            KindProjection::Refused { error } => {
                let error = error.take();
                Poll::Ready(Err(error.expect("a future is not polled once it is done")))
            }
        }
    }
}

pin_project! {
    /// A call that belongs to the invocation of a layer around it, and takes no longer than
    /// its own layer allows. `None`: it would have, and was dropped.
    struct Joined<F> {
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
        if cutoff.is_none_or(|cutoff| cutoff.poll(cx).is_pending()) {
            return Poll::Pending;
        }
        this.inner.set(None);
        // Half of the work was cut off, whatever the outer layer's caller is told.
        this.invocation.fail();
        Poll::Ready(None)
    }
}
