//! The response body, which ends the invocation if it reads from the database.

use std::any::Any;
use std::fmt;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use pin_project_lite::pin_project;
use tokio::task::coop::unconstrained;
use tokio::time::{Instant, Sleep, sleep_until};

use crate::error::Error;
use crate::invocation::{Ending, Invocation, Scope, Watch};
use crate::lock::Mutex;
use crate::observe;

/// How long after the deadline a body may still be polled, and end in order, before its invocation
/// is ended from outside.
const READ_BY: Duration = Duration::from_millis(50);

/// The error of a body.
pub(crate) type BoxError = Box<dyn std::error::Error + Send + Sync>;

pin_project! {
    /// The body of a response: the handler's; the layer's own, in place of the handler's; or a
    /// body that reads from the database and ends the invocation ([`Invocation::stream`]).
    pub struct Body<R> {
        #[pin]
        kind: Kind<R>,
    }
}

pin_project! {
    #[project = KindProjection]
    enum Kind<R> {
        Whole { #[pin] body: R },
        Ours { bytes: Option<Bytes> },
        // The mutex makes the body `Sync`, which the runners require. It is never contended.
        Held { held: Box<Mutex<HeldBody<R>>> },
    }
}

impl<R> Body<R> {
    pub(crate) fn whole(body: R) -> Self {
        Body {
            kind: Kind::Whole { body },
        }
    }

    pub(crate) fn ours(bytes: Bytes) -> Self {
        Body {
            kind: Kind::Ours {
                bytes: Some(bytes).filter(|bytes| !bytes.is_empty()),
            },
        }
    }

    pub(crate) fn held(body: R, invocation: Invocation) -> Self {
        let cutoff = invocation.cutoff();
        let end = invocation.end();
        let held = HeldBody {
            body: Box::pin(Some(body)),
            kept: None,
            scope: Scope::around(invocation.clone()),
            _watch: cutoff.map(|cutoff| Watch::new(&end, cutoff + READ_BY)),
            cutoff: cutoff.map(|cutoff| Box::pin(sleep_until(cutoff))),
            ending: Ending::of(invocation, end, observe::hung_up),
            error: None,
            panic: None,
            done: false,
        };
        Body {
            kind: Kind::Held {
                held: Box::new(Mutex::new(held)),
            },
        }
    }

    /// Returns the handler's own body, if it is unchanged.
    #[cfg(feature = "vercel")]
    pub(crate) fn into_whole(self) -> Result<R, Self> {
        match self.kind {
            Kind::Whole { body } => Ok(body),
            kind => Err(Body { kind }),
        }
    }
}

impl<R> http_body::Body for Body<R>
where
    R: http_body::Body<Data = Bytes>,
    R::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match self.project().kind.project() {
            KindProjection::Whole { body } => body.poll_frame(cx).map_err(Into::into),
            KindProjection::Ours { bytes } => {
                Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes))))
            }
            KindProjection::Held { held } => held.get_mut().poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Kind::Whole { body } => body.is_end_stream(),
            Kind::Ours { bytes } => bytes.is_none(),
            // A reader that sees the end of the stream here does not poll again, so there is none
            // before teardown.
            Kind::Held { held } => {
                let held = held.lock();
                held.done && held.kept.is_none() && held.error.is_none()
            }
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Whole { body } => body.size_hint(),
            Kind::Ours { bytes } => {
                SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64))
            }
            // A reader that has received all bytes of an exact size hint does not poll again
            // either.
            Kind::Held { .. } => SizeHint::default(),
        }
    }
}

/// A body that reads from the database while it is sent.
///
/// One frame is always held back: the last one leaves when every connection is at rest.
struct HeldBody<R> {
    body: Pin<Box<Option<R>>>,
    kept: Option<Frame<Bytes>>,
    scope: Scope,
    _watch: Option<Watch>,
    cutoff: Option<Pin<Box<Sleep>>>,
    ending: Ending,
    error: Option<BoxError>,
    panic: Option<Box<dyn Any + Send>>,
    done: bool,
}

impl<R> HeldBody<R>
where
    R: http_body::Body<Data = Bytes>,
    R::Error: Into<BoxError>,
{
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let span = self.ending.invocation().span();
        let _entered = span.enter();
        while let Some(body) = self.body.as_mut().as_pin_mut() {
            let polled = self
                .scope
                .enter(|| catch_unwind(AssertUnwindSafe(|| body.poll_frame(cx))));
            let cutoff = self.cutoff.as_ref();
            let late = cutoff.is_some_and(|cutoff| cutoff.deadline() <= Instant::now());
            match polled {
                Ok(Poll::Ready(Some(Ok(frame)))) if !late => match self.kept.replace(frame) {
                    Some(frame) => return Poll::Ready(Some(Ok(frame))),
                    None => continue,
                },
                // A body that is always ready is checked against the deadline too.
                Ok(Poll::Ready(Some(Ok(_)))) => {
                    self.error = Some(too_late(self.ending.invocation()).into())
                }
                Ok(Poll::Ready(Some(Err(error)))) => self.error = Some(error.into()),
                Ok(Poll::Ready(None)) => {}
                Ok(Poll::Pending) => match &mut self.cutoff {
                    Some(cutoff) => {
                        ready!(pin!(unconstrained(cutoff)).poll(cx));
                        self.error = Some(too_late(self.ending.invocation()).into());
                    }
                    None => return Poll::Pending,
                },
                Err(payload) => self.panic = Some(payload),
            }
            self.scope.drop_inside(self.body.as_mut());
            self.cutoff = None;
        }
        if !self.done {
            let _ = ready!(Pin::new(&mut self.ending).poll(cx));
            self.done = true;
        }
        if let Some(frame) = self.kept.take() {
            return Poll::Ready(Some(Ok(frame)));
        }
        if let Some(payload) = self.panic.take() {
            resume_unwind(payload);
        }
        Poll::Ready(self.error.take().map(Err))
    }
}

impl<R> Drop for HeldBody<R> {
    fn drop(&mut self) {
        self.scope.drop_inside(self.body.as_mut());
    }
}

/// Makes and logs the error of a body that reached the deadline.
fn too_late(invocation: &Invocation) -> Error {
    let error = Error::deadline();
    observe::deadline(invocation.request_id(), &error);
    error
}

impl<R> fmt::Debug for Body<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.kind {
            Kind::Whole { .. } => "Body::Whole",
            Kind::Ours { .. } => "Body::Ours",
            Kind::Held { .. } => "Body::Held",
        })
    }
}
