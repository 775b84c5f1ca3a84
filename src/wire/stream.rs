//! The stream that tokio-postgres reads and writes.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::Wire;
use super::attach::Attachment;

/// The stream of a connection of tokio-postgres, watched by its [`Wire`].
pub struct Stream {
    pub(super) wire: Wire,
    /// The client that it belongs to.
    pub(super) client: u64,
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.wire.state().attachment(self.client) {
            Attachment::Present(state) => state.poll_read(cx, buf),
            Attachment::Parked => Poll::Pending,
            Attachment::Retired(retired) => retired.poll_read(buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.wire.state().attachment(self.client) {
            Attachment::Present(state) => state.poll_write(cx, bytes),
            Attachment::Parked => Poll::Pending,
            Attachment::Retired(retired) => Poll::Ready(Ok(retired.poll_write(cx, bytes))),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.wire.state().attachment(self.client) {
            Attachment::Present(state) => state.poll_flush(cx),
            Attachment::Parked | Attachment::Retired(_) => Poll::Ready(Ok(())),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.wire.state().attachment(self.client) {
            Attachment::Present(state) => state.poll_shutdown(cx),
            Attachment::Parked | Attachment::Retired(_) => Poll::Ready(Ok(())),
        }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        let mut state = self.wire.state();
        state
            .retired
            .retain(|retired| retired.client != self.client);
    }
}
