//! The body of a response, and the one that the invocation lives on in.

use std::any::Any;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::pin::Pin;
use std::sync::{Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use pin_project_lite::pin_project;
use tokio::time::{Instant, Sleep};

use super::ending::{Ending, set_none};
use crate::error::Error;
use crate::invocation::{Invocation, Scope, Watch};
use crate::observe;

/// When the deadline is reached, whoever reads the body has so long to come and see
/// it end in order.
const READ_BY: Duration = Duration::from_millis(50);

/// An error of a body.
pub(crate) type BoxError = Box<dyn std::error::Error + Send + Sync>;

pin_project! {
    /// The body of a response: the handler's, as it is; the layer's own, where the
    /// handler had none to give; or the handler's, held until the invocation that it
    /// reads from is at rest ([`Invocation::stream`]).
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
        Held { held: Pin<Box<Held<R>>> },
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
        let watch = cutoff.map(|cutoff| invocation.watch(cutoff + READ_BY));
        let cutoff = cutoff.map(tokio::time::sleep_until);
        Body {
            kind: Kind::Held {
                held: Box::pin(Held {
                    body: Some(body),
                    kept: None,
                    scope: Scope::around(invocation.clone()),
                    _watch: watch,
                    waits: Mutex::new(Waits {
                        cutoff: cutoff.map(Box::pin),
                        ending: Ending::new(invocation, observe::hung_up),
                    }),
                    error: None,
                    panic: Mutex::new(None),
                    done: false,
                }),
            },
        }
    }

    /// The handler's own body, if it is to be had as it is.
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
            KindProjection::Held { held } => held.as_mut().poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Kind::Whole { body } => body.is_end_stream(),
            Kind::Ours { bytes } => bytes.is_none(),
            // Whoever believes in an end does not poll for it.
            Kind::Held { held } => held.done && held.kept.is_none() && held.error.is_none(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Whole { body } => body.size_hint(),
            Kind::Ours { bytes } => {
                SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64))
            }
            // Nor does who has all the bytes that were announced.
            Kind::Held { .. } => SizeHint::default(),
        }
    }
}

pin_project! {
    /// A body that reads from the database while it is sent.
    ///
    /// One frame is always kept back: the last one leaves when everything is at rest.
    struct Held<R> {
        #[pin]
        body: Option<R>,
        kept: Option<Frame<Bytes>>,
        scope: Scope,
        _watch: Option<Watch>,
        // Never locked but through `&mut`: it makes the whole `Sync`, as the runners ask.
        waits: Mutex<Waits>,
        error: Option<BoxError>,
        panic: Mutex<Option<Box<dyn Any + Send>>>,
        done: bool,
    }

    impl<R> PinnedDrop for Held<R> {
        fn drop(this: Pin<&mut Self>) {
            let this = this.project();
            set_none(this.scope, this.body);
        }
    }
}

struct Waits {
    cutoff: Option<Pin<Box<Sleep>>>,
    ending: Ending,
}

impl<R> Held<R>
where
    R: http_body::Body<Data = Bytes>,
    R::Error: Into<BoxError>,
{
    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let mut this = self.project();
        let waits = this.waits.get_mut().unwrap_or_else(PoisonError::into_inner);
        let panic = this.panic.get_mut().unwrap_or_else(PoisonError::into_inner);
        while let Some(body) = this.body.as_mut().as_pin_mut() {
            let polled = this
                .scope
                .enter(|| catch_unwind(AssertUnwindSafe(|| body.poll_frame(cx))));
            let cutoff = waits.cutoff.as_ref();
            let late = cutoff.is_some_and(|cutoff| cutoff.deadline() <= Instant::now());
            match polled {
                Ok(Poll::Ready(Some(Ok(frame)))) if !late => match this.kept.replace(frame) {
                    Some(frame) => return Poll::Ready(Some(Ok(frame))),
                    None => continue,
                },
                // It always has something to say.
                Ok(Poll::Ready(Some(Ok(_)))) => {
                    *this.error = Some(too_late(&waits.ending.invocation).into())
                }
                Ok(Poll::Ready(Some(Err(error)))) => *this.error = Some(error.into()),
                Ok(Poll::Ready(None)) => {}
                Ok(Poll::Pending) => match &mut waits.cutoff {
                    Some(cutoff) => {
                        ready!(cutoff.as_mut().poll(cx));
                        *this.error = Some(too_late(&waits.ending.invocation).into());
                    }
                    None => return Poll::Pending,
                },
                Err(payload) => *panic = Some(payload),
            }
            set_none(this.scope, this.body.as_mut());
            waits.cutoff = None;
        }
        if !*this.done {
            ready!(Pin::new(&mut waits.ending).poll(cx));
            *this.done = true;
        }
        if let Some(frame) = this.kept.take() {
            return Poll::Ready(Some(Ok(frame)));
        }
        if let Some(payload) = panic.take() {
            resume_unwind(payload);
        }
        Poll::Ready(this.error.take().map(Err))
    }
}

/// The deadline is reached in the body: its reader is told, and so is the log.
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
