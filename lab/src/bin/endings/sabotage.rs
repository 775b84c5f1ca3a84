//! What a layer has to live with: a service that panics in `call`, and somebody
//! around it who drops its future.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

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

/// Gives up after a while when asked for `dropped_from_outside`: a timeout in the
/// wrong place.
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
            match gives_up {
                true => match tokio::time::timeout(Duration::from_millis(300), future).await {
                    Ok(response) => response.map_err(Into::into),
                    Err(_) => Err("gave up".into()),
                },
                false => future.await.map_err(Into::into),
            }
        })
    }
}
