//! Answers a client whose session has another one by now.

use std::io;
use std::task::{Context, Poll};

use bytes::BytesMut;
use tokio::io::ReadBuf;

use super::stand_in::StandIn;

/// The end of the stream of a client that was detached, once another one is attached.
pub(super) struct Retired {
    pub(super) client: u64,
    pub(super) answers: Option<StandIn>,
    pub(super) inject: BytesMut,
}

impl Retired {
    pub(super) fn poll_read(&mut self, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.answers.is_some() && self.inject.is_empty() {
            return Poll::Pending;
        }
        let now = self.inject.len().min(buf.remaining());
        buf.put_slice(&self.inject.split_to(now));
        Poll::Ready(Ok(()))
    }

    pub(super) fn poll_write(&mut self, cx: &Context<'_>, bytes: &[u8]) -> usize {
        if let Some(answers) = &mut self.answers {
            answers.accept(bytes, &mut self.inject);
        }
        // The task that writes is the one that reads.
        cx.waker().wake_by_ref();
        bytes.len()
    }
}
