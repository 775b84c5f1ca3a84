//! Runs a handler to its end, and the invocation after it.

use std::any::Any;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};

use pin_project_lite::pin_project;
use tokio::task::coop::unconstrained;
use tokio::time::Sleep;

use super::finish::Ending;
use super::scope::Scope;
use super::state::Invocation;
use crate::connection::LateWaker;
use crate::error::{Error, Result};
use crate::observe;

/// How a handler ended.
enum HandlerEnd<T> {
    Returned(T),
    /// The payload of its panic.
    Panicked(Box<dyn Any + Send>),
    /// The deadline was reached; the handler was dropped.
    Deadline(Error),
}

/// Decides about the answer of a handler that did not fail.
pub(crate) trait Judge<T> {
    /// Returns whether the invocation's transaction is committed.
    fn commits(&self, _: &T) -> bool {
        true
    }

    /// Returns whether the invocation may go on in the body of the answer.
    fn may_stream(&self) -> bool {
        false
    }

    /// Notes the decision on the answer, for an outer layer.
    fn note(&self, _: &mut T) {}
}

/// Commits after every answer that is not an error.
pub(crate) struct IsOk;

impl<T> Judge<T> for IsOk {}

pin_project! {
    /// The future of an invocation: runs the handler, then the teardown.
    ///
    /// The handler runs and is dropped inside the task-local scope, and its panics are caught and
    /// resumed once every connection is at rest. An error of this crate replaces the handler's
    /// answer. If this future is dropped before its end, the invocation is abandoned.
    ///
    /// It is boxed: what it holds of the handler is large, and would be moved several times before
    /// it is polled.
    pub(crate) struct Run<F: Future, J> {
        scope: Scope,
        judge: J,
        #[pin]
        handler: Option<F>,
        waker: Option<LateWaker>,
        #[pin]
        cutoff: Option<Sleep>,
        ended: Option<HandlerEnd<F::Output>>,
        // Dropped after the handler.
        ending: Ending,
    }

    impl<F: Future, J> PinnedDrop for Run<F, J> {
        fn drop(this: Pin<&mut Self>) {
            let this = this.project();
            this.scope.drop_inside(this.handler);
        }
    }
}

impl<F: Future, J> Run<F, J> {
    /// Calls `handler` inside the invocation; the call itself may panic.
    #[inline]
    pub(crate) fn new(
        invocation: Invocation,
        judge: J,
        handler: impl FnOnce() -> F,
    ) -> Pin<Box<Self>> {
        let scope = Scope::around(invocation.clone());
        invocation.begin(&scope);
        let cutoff = invocation.cutoff().map(tokio::time::sleep_until);
        let waker = LateWaker::where_useful();
        let ending = Ending::new(invocation, observe::abandoned);
        let mut run = Box::pin(Run {
            scope,
            judge,
            handler: None,
            waker,
            cutoff,
            ended: None,
            ending,
        });
        let span = run.invocation().span();
        let this = run.as_mut().project();
        let mut place = this.handler;
        // Written to its place at once: a result of `catch_unwind` would be moved there.
        let call = AssertUnwindSafe(|| place.set(Some(handler())));
        let called = span.in_scope(|| this.scope.enter(|| catch_unwind(call)));
        *this.ended = called.err().map(HandlerEnd::Panicked);
        run
    }

    pub(crate) fn invocation(&self) -> &Invocation {
        self.ending.invocation()
    }

    /// Returns the invocation if only its head has ended.
    pub(crate) fn streaming(&self) -> Option<&Invocation> {
        self.ending.streams.then(|| self.invocation())
    }
}

impl<F, J, T, E> Future for Run<F, J>
where
    F: Future<Output = Result<T, E>>,
    J: Judge<T>,
{
    type Output = Result<Result<T, E>>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        let cx = &mut match this.waker {
            Some(late) => late.context(cx),
            None => Context::from_waker(cx.waker()),
        };
        let invocation = this.ending.invocation();
        let span = invocation.span();
        let _entered = span.enter();
        if let Some(handler) = this.handler.as_mut().as_pin_mut() {
            let mut polled = Poll::Pending;
            let poll = AssertUnwindSafe(|| polled = handler.poll(cx));
            let caught = this.scope.enter(|| catch_unwind(poll));
            // The work is polled before its timer: after a freeze both are ready.
            let ended = match (caught, polled) {
                (Err(panic), _) => HandlerEnd::Panicked(panic),
                (Ok(()), Poll::Ready(result)) => HandlerEnd::Returned(result),
                (Ok(()), Poll::Pending) => match this.cutoff.as_mut().as_pin_mut() {
                    Some(mut cutoff) => {
                        // The cutoff depends on the round-trip time, which is known after the
                        // first connect.
                        if let Some(at) = invocation.cutoff() {
                            if at != cutoff.deadline() {
                                cutoff.as_mut().reset(at);
                            }
                        }
                        // The handler may have used up what the task may do before it yields.
                        ready!(pin!(unconstrained(cutoff)).poll(cx));
                        let error = Error::deadline();
                        observe::deadline(invocation.request_id(), &error);
                        HandlerEnd::Deadline(error)
                    }
                    None => return Poll::Pending,
                },
            };
            *this.ended = Some(ended);
            this.scope.drop_inside(this.handler.as_mut());
            // No timer outlives the handler.
            this.cutoff.set(None);
        }
        if !this.ending.has_begun() {
            let judged = catch_unwind(AssertUnwindSafe(|| match this.ended {
                Some(HandlerEnd::Returned(Ok(answer))) => (
                    this.judge.commits(answer),
                    this.judge.may_stream() && invocation.streams(),
                ),
                _ => (false, false),
            }));
            let (success, streams) = judged.unwrap_or_else(|panic| {
                *this.ended = Some(HandlerEnd::Panicked(panic));
                (false, false)
            });
            this.ending.begin(success, streams);
        }
        let finished = ready!(Pin::new(&mut *this.ending).poll(cx));
        if let Err(error) = &finished {
            observe::not_committed(this.ending.invocation().request_id(), error);
        }
        Poll::Ready(match this.ended.take().expect("not polled after its end") {
            HandlerEnd::Returned(Ok(answer)) => finished.map(|()| Ok(answer)),
            HandlerEnd::Returned(Err(error)) => Ok(Err(error)),
            HandlerEnd::Deadline(error) => Err(error),
            HandlerEnd::Panicked(panic) => resume_unwind(panic),
        })
    }
}
