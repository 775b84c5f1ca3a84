//! Hands a connection on that is authenticated already.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// A transport that swallows the startup packet of tokio-postgres, and answers it with what the
/// server has sent already.
pub struct Resumed<T> {
    transport: T,
    /// What is read before the transport.
    answer: BytesMut,
    /// The error that is read after the answer.
    error: Option<io::Error>,
    packet: Packet,
}

/// How much of the startup packet was swallowed.
enum Packet {
    Length { bytes: [u8; 4], seen: usize },
    Body { left: usize },
}

impl<T> Resumed<T> {
    pub(super) fn new(transport: T, answer: BytesMut, error: Option<io::Error>) -> Self {
        let (bytes, seen) = ([0; 4], 0);
        Resumed {
            transport,
            answer,
            error,
            packet: Packet::Length { bytes, seen },
        }
    }
}

impl Packet {
    /// Takes the bytes that belong to the startup packet; returns their number.
    fn take(&mut self, written: &[u8]) -> usize {
        match self {
            Packet::Length { bytes, seen } => {
                let taken = written.len().min(4 - *seen);
                bytes[*seen..*seen + taken].copy_from_slice(&written[..taken]);
                *seen += taken;
                if *seen == 4 {
                    let left = (u32::from_be_bytes(*bytes) as usize).saturating_sub(4);
                    *self = Packet::Body { left };
                }
                taken
            }
            Packet::Body { left } => {
                let taken = written.len().min(*left);
                *left -= taken;
                taken
            }
        }
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Resumed<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.answer.is_empty() {
            let length = self.answer.len().min(buf.remaining());
            buf.put_slice(&self.answer[..length]);
            self.answer.advance(length);
            return Poll::Ready(Ok(()));
        }
        match self.error.take() {
            Some(error) => Poll::Ready(Err(error)),
            None => Pin::new(&mut self.transport).poll_read(cx, buf),
        }
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Resumed<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.packet.take(bytes) {
            0 => Pin::new(&mut self.transport).poll_write(cx, bytes),
            taken => Poll::Ready(Ok(taken)),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.transport).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.transport).poll_shutdown(cx)
    }
}
