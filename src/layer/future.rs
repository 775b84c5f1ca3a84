//! Drives a call over HTTP to its response.

use std::fmt;
use std::future::Future;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::response::Parts;
use http::{HeaderName, Response, StatusCode};
use pin_project_lite::pin_project;

use super::body::Body;
use super::call::Call;
use super::health::HealthFuture;
use super::problem;
use super::settings::LayerSettings;
use crate::error::Result;
use crate::invocation::{Ending, Invocation, Scope};
use crate::observe;

pin_project! {
    /// The response of a [`DatabaseService`](super::DatabaseService), ready once the call's
    /// connections are at rest.
    #[must_use = "futures do nothing unless they are awaited"]
    pub struct ResponseFuture<F: Future> {
        #[pin]
        kind: Kind<F>,
    }
}

pin_project! {
    #[project = KindProjection]
    enum Kind<F: Future> {
        Call { #[pin] call: Call<F, LayerSettings>, is_head: bool },
        // No client reads the body that the handler wanted to stream.
        Unread { head: Option<Parts>, ending: Ending },
        // The inner service is not called.
        Health { health: HealthFuture },
    }
}

impl<F: Future> ResponseFuture<F> {
    /// `is_head`: the request's method is HEAD.
    #[inline]
    pub(crate) fn new(call: Call<F, LayerSettings>, is_head: bool) -> Self {
        ResponseFuture {
            kind: Kind::Call { call, is_head },
        }
    }

    pub(crate) fn health(health: HealthFuture) -> Self {
        ResponseFuture {
            kind: Kind::Health { health },
        }
    }
}

impl<F, R, E> Future for ResponseFuture<F>
where
    F: Future<Output = Result<Response<R>, E>>,
    R: http_body::Body<Data = Bytes>,
{
    type Output = Result<Response<Body<R>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut kind = self.project().kind;
        if let KindProjection::Call { mut call, is_head } = kind.as_mut().project() {
            let response = match ready!(call.as_mut().poll(cx)) {
                Ok(answer) => with_timing(answer?, call.invocation()),
                Err(error) => return Poll::Ready(Ok(problem::of(&error).map(Body::ours))),
            };
            let Some(invocation) = call.streaming().cloned() else {
                return Poll::Ready(Ok(response.map(Body::whole)));
            };
            if !has_no_content(*is_head, response.status()) {
                return Poll::Ready(Ok(response.map(|body| Body::held(body, invocation))));
            }
            let (head, body) = response.into_parts();
            Scope::around(invocation.clone()).drop_inside(pin!(Some(body)));
            kind.set(Kind::Unread {
                head: Some(head),
                ending: Ending::new(invocation, observe::abandoned),
            });
        }
        match kind.project() {
            KindProjection::Unread { head, ending } => {
                let _ = ready!(Pin::new(ending).poll(cx));
                let head = head.take().expect("a future is not polled once it is done");
                Poll::Ready(Ok(Response::from_parts(head, Body::ours(Bytes::new()))))
            }
            KindProjection::Health { health } => {
                let Ok(response) = ready!(Pin::new(health).poll(cx));
                Poll::Ready(Ok(response.map(|body| Body::ours(body.into()))))
            }
            KindProjection::Call { .. } => unreachable!("it has become another above"),
        }
    }
}

/// Adds `Server-Timing` to a response, if the layer is to.
fn with_timing<R>(mut response: Response<R>, invocation: Option<&Invocation>) -> Response<R> {
    if let Some(timing) = invocation.and_then(Invocation::server_timing) {
        let name = HeaderName::from_static("server-timing");
        response.headers_mut().append(name, timing);
    }
    response
}

/// Returns whether no content follows the head (RFC 9110, section 6.4.1): the host drops the body
/// unread.
fn has_no_content(is_head: bool, status: StatusCode) -> bool {
    is_head
        || status.is_informational()
        || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED)
}

impl<F: Future> fmt::Debug for ResponseFuture<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ResponseFuture")
    }
}
