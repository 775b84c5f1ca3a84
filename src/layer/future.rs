//! The future of a call.

use std::fmt;
use std::future::Future;
use std::panic::resume_unwind;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::response::Parts;
use http::{Method, Response, StatusCode};
use pin_project_lite::pin_project;

use super::body::{Ending, drop_inside};
use super::{Body, HealthFuture, Joined, Settings, problem};
use crate::error::Error;
use crate::invocation::{Ended, Finished, Invocation, Judge, Run, Scope};
use crate::observe;

pin_project! {
    /// The response of a [`DatabaseService`](super::DatabaseService), once everything
    /// that the call used is at rest.
    pub struct ResponseFuture<F: Future> {
        #[pin]
        kind: Kind<F>,
    }
}

pin_project! {
    #[project = KindProjection]
    enum Kind<F: Future> {
        // A layer around this one has made the invocation.
        Joined { #[pin] inner: Joined<F>, settings: Settings },
        // It was turned away.
        Refused { error: Option<Error> },
        Ours { #[pin] run: Run<F, Settings>, is_head: bool },
        // Nobody will read what the handler meant to stream.
        Unread { head: Option<Parts>, ending: Ending },
        // Nobody inside is called.
        Health { health: HealthFuture },
    }
}

impl<F, R, E> ResponseFuture<F>
where
    F: Future<Output = Result<Response<R>, E>>,
{
    pub(crate) fn joined(inner: F, settings: &Settings) -> Self {
        ResponseFuture {
            kind: Kind::Joined {
                inner: Joined::new(inner, settings),
                settings: settings.clone(),
            },
        }
    }

    /// Answers that it was turned away, without a call.
    pub(crate) fn refused(error: Error) -> Self {
        ResponseFuture {
            kind: Kind::Refused { error: Some(error) },
        }
    }

    pub(crate) fn health(health: HealthFuture) -> Self {
        ResponseFuture {
            kind: Kind::Health { health },
        }
    }

    pub(crate) fn new(
        invocation: Invocation,
        settings: Settings,
        method: &Method,
        call: impl FnOnce() -> F,
    ) -> Self {
        ResponseFuture {
            kind: Kind::Ours {
                run: Run::new(invocation, settings, call),
                is_head: method == Method::HEAD,
            },
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
        if let KindProjection::Ours { mut run, is_head } = kind.as_mut().project() {
            let (ended, finished) = ready!(run.as_mut().poll(cx));
            let invocation = run.invocation().clone();
            let response = match (ended, finished) {
                (Ended::Returned(Ok(response)), Ok(()))
                    if invocation.streams() && has_no_content(*is_head, response.status()) =>
                {
                    response
                }
                (ended, finished) => return Poll::Ready(answer(ended, finished, &invocation)),
            };
            let (head, body) = response.into_parts();
            drop_inside(&Scope::around(invocation.clone()), body);
            kind.set(Kind::Unread {
                head: Some(head),
                ending: Ending::new(invocation, observe::abandoned),
            });
        }
        match kind.project() {
            KindProjection::Joined { inner, settings } => {
                Poll::Ready(match ready!(inner.poll(cx)) {
                    Some(response) => response.map(|mut response| {
                        settings.judge(&mut response);
                        response.map(Body::whole)
                    }),
                    None => Ok(problem::of(&Error::deadline()).map(Body::ours)),
                })
            }
            KindProjection::Refused { error } => {
                let error = error.take().expect(POLLED);
                Poll::Ready(Ok(problem::of(&error).map(Body::ours)))
            }
            KindProjection::Health { health } => {
                let Ok(response) = ready!(Pin::new(health).poll(cx));
                Poll::Ready(Ok(response.map(|body| Body::ours(body.into()))))
            }
            KindProjection::Unread { head, ending } => {
                ready!(Pin::new(ending).poll(cx));
                let head = head.take().expect(POLLED);
                Poll::Ready(Ok(Response::from_parts(head, Body::ours(Bytes::new()))))
            }
            KindProjection::Ours { .. } => unreachable!("it has become another above"),
        }
    }
}

const POLLED: &str = "a future is not polled once it is done";

/// No content follows the head (RFC 9110, section 6.4.1): whatever is outside the layer
/// drops a body unread.
fn has_no_content(is_head: bool, status: StatusCode) -> bool {
    is_head
        || status.is_informational()
        || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED)
}

/// What the caller is told.
fn answer<R, E>(
    ended: Ended<Result<Response<R>, E>>,
    finished: Finished,
    invocation: &Invocation,
) -> Result<Response<Body<R>>, E>
where
    R: http_body::Body<Data = Bytes>,
{
    match (ended, finished) {
        (Ended::Returned(Ok(response)), Ok(())) => Ok(match invocation.streams() {
            true => response.map(|body| Body::held(body, invocation.clone())),
            false => response.map(Body::whole),
        }),
        (Ended::Returned(Ok(_)), Err(error)) => Ok(problem::of(&error).map(Body::ours)),
        (Ended::Returned(Err(error)), _) => Err(error),
        (Ended::Deadline(error), _) => Ok(problem::of(&error).map(Body::ours)),
        (Ended::Panicked(panic), _) => resume_unwind(panic),
    }
}

impl<R, E> Judge<Result<Response<R>, E>> for Settings {
    fn is_success(&self, result: &Result<Response<R>, E>) -> bool {
        let response = result.as_ref();
        response.is_ok_and(|response| self.commits(response))
    }

    fn streams(&self, result: &Result<Response<R>, E>, invocation: &Invocation) -> bool {
        result.is_ok() && invocation.streams()
    }
}

impl<F: Future> fmt::Debug for ResponseFuture<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ResponseFuture")
    }
}
