//! Marks a body that reads from the database while it is sent.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

use super::state::Invocation;

pin_project! {
    /// A body that reads from the database while it is sent; made by
    /// [`Invocation::stream`].
    ///
    /// The layer knows it wherever it is, boxed or inside another body. Dropped before the
    /// handler returns, it counts for nothing.
    #[derive(Debug)]
    #[must_use = "it is the body of a response"]
    pub struct StreamedBody<B> {
        #[pin]
        body: B,
        _alive: Arc<()>,
    }
}

impl Invocation {
    /// Has the response's body read from the database while it is sent: teardown moves from
    /// the head of the response to the end of the body that this returns. The last frame is
    /// kept back until teardown is done.
    ///
    /// Where no client reads a body (HEAD, 204, 304) it is dropped, and everything is at
    /// rest before the head leaves. A body that is dropped outside the layer has its
    /// connections closed at once, since nothing is sure to run later.
    ///
    /// The invocation's own [transaction](Invocation::transaction) still commits
    /// before the head: its outcome decides the status. From then on it is refused: what
    /// the body is to store, it commits itself in a transaction on a connection.
    ///
    /// It is for responses over HTTP. The answer to a Lambda event is taken as whole, so
    /// that this has no effect there: what still reads from the database then gets an error
    /// ([`Error::is_invocation_ended`](crate::Error::is_invocation_ended)).
    ///
    /// axum has the handler of GET answer HEAD, too: the query is begun for nothing, and cut
    /// off. Give HEAD a handler of its own, `get(list).head(headers)`.
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
