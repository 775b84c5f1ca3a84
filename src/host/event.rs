//! Lambda events that are not HTTP.

use std::error::Error as StdError;
use std::fmt;
use std::future::Future;
use std::panic::resume_unwind;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use lambda_runtime::{Diagnostic, LambdaEvent};
use pin_project_lite::pin_project;
use tower_service::Service;

use crate::database::IsOk;
use crate::error::Error;
use crate::invocation::{Ended, Run};
use crate::layer::{DatabaseService, Joined, arrival, problem};

/// Why an event was not handled: the handler failed, or we did.
#[derive(Debug)]
#[non_exhaustive]
pub enum EventError<E> {
    /// The handler's own error.
    Handler(E),
    /// The deadline was reached, the transaction could not be committed, or the event was
    /// turned away ([`LoadShed::Door`](crate::LoadShed::Door)): it can be retried.
    Database(Error),
}

impl<E: fmt::Display> fmt::Display for EventError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            EventError::Handler(error) => error.fmt(f),
            EventError::Database(error) => error.fmt(f),
        }
    }
}

/// Asks no more of the handler's error than that it can be shown: a boxed error is
/// none itself.
impl<E: fmt::Debug + fmt::Display> StdError for EventError<E> {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        match self {
            EventError::Handler(_) => None,
            EventError::Database(error) => error.source(),
        }
    }
}

impl<E: Into<Diagnostic>> From<EventError<E>> for Diagnostic {
    fn from(error: EventError<E>) -> Self {
        match error {
            EventError::Handler(error) => error.into(),
            EventError::Database(error) => error.into(),
        }
    }
}

/// So that a handler of events can fail with it. The log has it once, too: Lambda hands it
/// to whoever invoked the function, and keeps nothing.
impl From<Error> for Diagnostic {
    fn from(error: Error) -> Self {
        problem::log(&error);
        Diagnostic {
            error_type: format!("antifreeze::{:?}", error.kind()),
            error_message: error.to_string(),
        }
    }
}

impl<S, T> Service<LambdaEvent<T>> for DatabaseService<S>
where
    S: Service<LambdaEvent<T>>,
{
    type Response = S::Response;
    type Error = EventError<S::Error>;
    type Future = EventFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx).map_err(EventError::Handler)
    }

    fn call(&mut self, event: LambdaEvent<T>) -> Self::Future {
        let kind = if self.joins() {
            Kind::Joined {
                inner: Joined::new(self.inner.call(event), &self.settings),
            }
        } else {
            let deadline = arrival::lambda::deadline(&event.context);
            match self.settings.begin(deadline, &event.context.request_id) {
                Ok(invocation) => Kind::Ours {
                    run: Run::new(invocation, IsOk, || self.inner.call(event)),
                },
                Err(error) => Kind::Refused { error: Some(error) },
            }
        };
        EventFuture { kind }
    }
}

pin_project! {
    /// The answer to an event, once everything that the call used is at rest.
    pub struct EventFuture<F: Future> {
        #[pin]
        kind: Kind<F>,
    }
}

pin_project! {
    #[project = KindProjection]
    enum Kind<F: Future> {
        // A layer around this one has made the invocation.
        Joined { #[pin] inner: Joined<F> },
        // It was turned away.
        Refused { error: Option<Error> },
        Ours { #[pin] run: Run<F, IsOk> },
    }
}

impl<F, T, E> Future for EventFuture<F>
where
    F: Future<Output = Result<T, E>>,
{
    type Output = Result<T, EventError<E>>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let run = match self.project().kind.project() {
            KindProjection::Joined { inner } => {
                return Poll::Ready(match ready!(inner.poll(cx)) {
                    Some(answer) => answer.map_err(EventError::Handler),
                    None => Err(EventError::Database(Error::deadline())),
                });
            }
            KindProjection::Refused { error } => {
                let error = error
                    .take()
                    .expect("a future is not polled once it is done");
                return Poll::Ready(Err(EventError::Database(error)));
            }
            KindProjection::Ours { run } => run,
        };
        let (ended, finished) = ready!(run.poll(cx));
        Poll::Ready(match ended {
            Ended::Returned(Ok(answer)) => finished.map(|()| answer).map_err(EventError::Database),
            Ended::Returned(Err(error)) => Err(EventError::Handler(error)),
            Ended::Deadline(error) => Err(EventError::Database(error)),
            Ended::Panicked(panic) => resume_unwind(panic),
        })
    }
}

impl<F: Future> fmt::Debug for EventFuture<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("EventFuture")
    }
}
