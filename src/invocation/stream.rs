//! Marks a body that reads from the database while it is sent.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

use super::state::Invocation;

pin_project! {
    /// A body that reads from the database while it is sent; created by [`Invocation::stream`].
    ///
    /// The layer recognises it also when it is boxed or inside another body. Dropped before the
    /// handler returns, it has no effect.
    #[derive(Debug)]
    #[must_use = "it is the body of a response"]
    pub struct StreamedBody<B> {
        #[pin]
        body: B,
        _alive: Arc<()>,
    }
}

impl Invocation {
    /// Lets the response's body read from the database while it is sent: teardown runs at the end
    /// of the returned body instead of before the head of the response. The last frame is held
    /// back until teardown is done.
    ///
    /// Where no client reads a body (HEAD, 204, 304), it is dropped, and teardown runs before the
    /// head leaves. If a body is dropped outside the layer, its connections are closed at once,
    /// since no later code is certain to run.
    ///
    /// The invocation's own [transaction](Invocation::transaction) still commits before the head,
    /// since its outcome decides the status, and cannot be used afterwards: to store something,
    /// the body commits a transaction of its own on a connection.
    ///
    /// It is for HTTP responses. It has no effect on the answer to a Lambda event, which is
    /// complete: what still reads from the database gets an error
    /// ([`Error::is_invocation_ended`](crate::Error::is_invocation_ended)).
    ///
    /// axum lets the handler of GET answer HEAD too: the query starts and is cancelled. Give HEAD
    /// a handler of its own, `get(list).head(headers)`.
    pub fn stream<B>(&self, body: B) -> StreamedBody<B> {
        let mut agenda = self.agenda();
        let alive = agenda.streams.upgrade().unwrap_or_default();
        agenda.streams = Arc::downgrade(&alive);
        StreamedBody {
            body,
            _alive: alive,
        }
    }
}

impl<B: Body> Body for StreamedBody<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        self.project().body.poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
