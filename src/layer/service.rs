//! The service, for HTTP of any kind.

use std::fmt;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Request, Response};
use tower_service::Service;

use super::{Body, ResponseFuture, Settings, arrival};
use crate::invocation::Scope;

/// A service whose calls are invocations; made by
/// [`DatabaseLayer`](super::DatabaseLayer).
///
/// It is ready when the service inside is, and clones with it.
#[derive(Clone)]
pub struct DatabaseService<S> {
    pub(crate) inner: S,
    pub(crate) settings: Settings,
}

impl<S> DatabaseService<S> {
    pub(super) fn new(inner: S, settings: Settings) -> Self {
        DatabaseService { inner, settings }
    }

    /// Whether a layer around this one has made the invocation already.
    pub(crate) fn joins(&self) -> bool {
        Scope::find(&self.settings.database).is_some()
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
        if self.joins() {
            return ResponseFuture::joined(self.inner.call(request), &self.settings);
        }
        let (deadline, id) = arrival::of(request.extensions(), request.headers());
        let invocation = match self.settings.begin(deadline, &id) {
            Ok(invocation) => invocation,
            Err(error) => return ResponseFuture::refused(error),
        };
        request.extensions_mut().insert(invocation.clone());
        let (inner, method) = (&mut self.inner, request.method().clone());
        ResponseFuture::new(invocation, self.settings.clone(), &method, || {
            inner.call(request)
        })
    }
}

impl<S: fmt::Debug> fmt::Debug for DatabaseService<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DatabaseService")
            .field("inner", &self.inner)
            .finish_non_exhaustive()
    }
}
