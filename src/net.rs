//! A socket that several can look at.
//!
//! TLS and the wire own the stream; teardown has to peek at the very same socket
//! and to shut it down. A duplicated descriptor would keep the connection open
//! after the first was closed, so both share one.

use std::io;
use std::mem::MaybeUninit;
use std::net::Shutdown;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
#[cfg(unix)]
use tokio::net::UnixStream;

/// A connected socket.
#[derive(Debug, Clone)]
pub(crate) enum Socket {
    Tcp(Arc<TcpStream>),
    #[cfg(unix)]
    Unix(Arc<UnixStream>),
}

/// What is at the socket, as the kernel tells it at this moment.
///
/// After a thaw this is the only truth that costs nothing: the runtime has not
/// looked at the socket yet and still says what it said before the freeze.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Peek {
    /// Nothing came.
    Quiet,
    /// Something came: only reading it tells what.
    Bytes,
    /// The server closed the connection, or it broke.
    Closed,
}

/// Calls the same method on whichever socket it is.
macro_rules! either {
    ($socket:expr, $stream:ident => $call:expr) => {
        match $socket {
            Socket::Tcp($stream) => $call,
            #[cfg(unix)]
            Socket::Unix($stream) => $call,
        }
    };
}

impl Socket {
    pub(crate) fn peek(&self) -> Peek {
        let mut byte = [MaybeUninit::uninit()];
        loop {
            let peeked = either!(self, stream => SockRef::from(&**stream).peek(&mut byte));
            return match peeked {
                Ok(0) => Peek::Closed,
                Ok(_) => Peek::Bytes,
                Err(error) => match error.kind() {
                    io::ErrorKind::WouldBlock => Peek::Quiet,
                    io::ErrorKind::Interrupted => continue,
                    _ => Peek::Closed,
                },
            };
        }
    }

    /// Closes the connection in both directions, at once and for every owner.
    pub(crate) fn shut_down(&self) {
        let _ = either!(self, stream => SockRef::from(&**stream).shutdown(Shutdown::Both));
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            ready!(either!(&*self, stream => stream.poll_read_ready(cx)))?;
            match either!(&*self, stream => stream.try_read(buf.initialize_unfilled())) {
                Ok(read) => {
                    buf.advance(read);
                    return Poll::Ready(Ok(()));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        loop {
            ready!(either!(&*self, stream => stream.poll_write_ready(cx)))?;
            match either!(&*self, stream => stream.try_write(bytes)) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                written => return Poll::Ready(written),
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        let shut = either!(&*self, stream => SockRef::from(&**stream).shutdown(Shutdown::Write));
        Poll::Ready(match shut {
            // The server was faster.
            Err(error) if error.kind() == io::ErrorKind::NotConnected => Ok(()),
            shut => shut,
        })
    }
}
