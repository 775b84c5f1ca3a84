//! The stream that tokio-postgres reads and writes.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::Wire;

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
        let mut state = self.wire.state();
        if state.has_present(self.client) {
            return state.poll_read(cx, buf);
        }
        if state.is_parked(self.client) {
            return Poll::Pending;
        }
        match state.retired(self.client) {
            Some(retired) => retired.poll_read(buf),
            None => state.poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let mut state = self.wire.state();
        if state.is_parked(self.client) {
            return Poll::Pending;
        }
        match state.retired(self.client) {
            Some(retired) => Poll::Ready(Ok(retired.poll_write(cx, bytes))),
            None => state.poll_write(cx, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut state = self.wire.state();
        if state.is_parked(self.client) || state.retired(self.client).is_some() {
            return Poll::Ready(Ok(()));
        }
        state.poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut state = self.wire.state();
        if state.is_parked(self.client) || state.retired(self.client).is_some() {
            return Poll::Ready(Ok(()));
        }
        state.poll_shutdown(cx)
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
