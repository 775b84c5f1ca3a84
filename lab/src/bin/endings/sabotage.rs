//! Services around the layer and inside it that misbehave: one panics in `call`, one drops the
//! future.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::sync::Notify;
use tower::Service;

use crate::BoxError;
use crate::shape::Asks;

/// Panics in `call`, before there is a future, when asked for `panic_in_call`.
#[derive(Clone)]
pub struct PanicsInCall<S>(pub S);

impl<S, R> Service<R> for PanicsInCall<S>
where
    S: Service<R>,
    R: Asks,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: R) -> S::Future {
        assert_ne!(request.ending(), "panic_in_call", "as it was asked to");
        self.0.call(request)
    }
}

/// Notified when the handler of `dropped_from_outside` is inside its transaction.
pub static INSIDE: Notify = Notify::const_new();

/// Drops the future of `dropped_from_outside` before it is done, as a timeout in the wrong place
/// does.
#[derive(Clone)]
pub struct Impatient<S>(pub S);

impl<S, R> Service<R> for Impatient<S>
where
    S: Service<R, Error: Into<BoxError>>,
    S::Future: Send + 'static,
    R: Asks,
{
    type Response = S::Response;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<S::Response, BoxError>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.0.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, request: R) -> Self::Future {
        let gives_up = request.ending() == "dropped_from_outside";
        let future = self.0.call(request);
        Box::pin(async move {
            tokio::select! {
                biased;
                () = INSIDE.notified(), if gives_up => Err("gave up".into()),
                response = future => response.map_err(Into::into),
            }
        })
    }
}
