//! The tower service, for HTTP of any kind.

use std::fmt;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Method, Request, Response};
use tower_service::Service;

use super::arrival;
use super::body::Body;
use super::call::Call;
use super::future::ResponseFuture;
use super::settings::LayerSettings;

/// A service whose calls are invocations; created by [`DatabaseLayer`](super::DatabaseLayer).
///
/// It is ready when the inner service is.
#[derive(Clone)]
pub struct DatabaseService<S> {
    pub(crate) inner: S,
    pub(crate) settings: LayerSettings,
}

impl<S> DatabaseService<S> {
    pub(super) fn new(inner: S, settings: LayerSettings) -> Self {
        DatabaseService { inner, settings }
    }
}

impl<S, B, R> Service<Request<B>> for DatabaseService<S>
where
    S: Service<Request<B>, Response = Response<R>>,
    R: http_body::Body<Data = Bytes>,
{
    type Response = Response<Body<R>>;
    type Error = S::Error;
    type Future = ResponseFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        if let Some(health) = self.settings.health_of(&request) {
            return ResponseFuture::health(health);
        }
        let is_head = request.method() == Method::HEAD;
        let (deadline, id) = arrival::of(request.extensions(), request.headers());
        let (settings, judge) = (&self.settings, self.settings.clone());
        let call = Call::new(settings, judge, (deadline, &id), |invocation| {
            if let Some(invocation) = invocation {
                request.extensions_mut().insert(invocation.clone());
            }
            self.inner.call(request)
        });
        ResponseFuture::new(call, is_head)
    }
}

impl<S: fmt::Debug> fmt::Debug for DatabaseService<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DatabaseService")
            .field("inner", &self.inner)
            .finish_non_exhaustive()
    }
}
