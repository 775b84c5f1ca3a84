//! Lambda events other than HTTP.

use std::error::Error as StdError;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use lambda_runtime::{Diagnostic, LambdaEvent};
use pin_project_lite::pin_project;
use tower_service::Service;

use crate::error::Error;
use crate::invocation::{Invocation, IsOk};
use crate::layer::{Call, DatabaseService, arrival, problem};

/// The reason why an event was not handled.
#[derive(Debug)]
#[non_exhaustive]
pub enum EventError<E> {
    /// The handler's own error.
    Handler(E),
    /// The deadline was reached, the transaction could not be committed, or load shedding rejected
    /// the event ([`LoadShed::BeforeHandler`](crate::config::LoadShed::BeforeHandler)): it can be
    /// retried, with [`CommitUnknown`](crate::ErrorKind::CommitUnknown) if handling it twice does
    /// no harm.
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

/// Requires only `Debug` and `Display` of the handler's error: a boxed error does not implement
/// `Error`.
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

/// Lets a handler of events fail with it. It is also logged once: Lambda passes the diagnostic to
/// the function's caller and does not keep it.
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
        let deadline = arrival::lambda::deadline(&event.context);
        let id = event.context.request_id.clone();
        let call = |_: Option<&Invocation>| self.inner.call(event);
        let call = Call::new(&self.settings, IsOk, (deadline, &id), call);
        EventFuture { call }
    }
}

pin_project! {
    /// The answer to an event, ready once the call's connections are at rest.
    #[must_use = "futures do nothing unless they are awaited"]
    pub struct EventFuture<F: Future> {
        #[pin]
        call: Call<F, IsOk>,
    }
}

impl<F, T, E> Future for EventFuture<F>
where
    F: Future<Output = Result<T, E>>,
{
    type Output = Result<T, EventError<E>>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Poll::Ready(match ready!(self.project().call.poll(cx)) {
            Ok(answer) => answer.map_err(EventError::Handler),
            Err(error) => Err(EventError::Database(error)),
        })
    }
}

impl<F: Future> fmt::Debug for EventFuture<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("EventFuture")
    }
}
