//! Sockets, and views that peek at one without owning it.

use std::io;
use std::mem::MaybeUninit;
use std::net::SocketAddr;
#[cfg(unix)]
use std::path::Path;
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use crate::lock::Mutex;
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
#[cfg(unix)]
use tokio::net::UnixStream;

/// A connected socket. The wire owns it, below TLS or not.
#[derive(Debug)]
pub(crate) struct Socket(Arc<Mutex<Stream>>);

/// A view of a [`Socket`] that does not keep it open. A duplicated descriptor would keep the
/// connection open after the wire has closed it.
#[derive(Debug, Clone)]
pub(crate) struct SocketView(Weak<Mutex<Stream>>);

#[derive(Debug)]
enum Stream {
    Tcp(TcpStream),
    #[cfg(unix)]
    Unix(UnixStream),
}

/// The idle time before the first keepalive probe: well below the 350 s after which NAT gateways
/// and connection tracking of EC2 forget a connection.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(30);

/// The time between keepalive probes.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);

/// The number of probes without an answer that end a connection: after a minute in all.
const KEEPALIVE_RETRIES: u32 = 3;

/// How long sent bytes may remain unacknowledged (RFC 5482; tcp(7): it overrides keepalive).
/// Without it the kernel retransmits for a quarter of an hour.
#[cfg(target_os = "linux")]
const USER_TIMEOUT: Duration = Duration::from_secs(30);

/// Sets keepalive and `TCP_USER_TIMEOUT`, so that a connection that is lost silently ends. The
/// URL can change the values: `keepalives`, `keepalives_idle`, `keepalives_interval`,
/// `keepalives_retries`, `tcp_user_timeout`.
fn set_keepalive(stream: &TcpStream, server: &tokio_postgres::Config) -> io::Result<()> {
    let socket = SockRef::from(stream);
    if server.get_keepalives() {
        let default_idle = tokio_postgres::Config::new().get_keepalives_idle();
        let idle = Some(server.get_keepalives_idle()).filter(|&idle| idle != default_idle);
        let keepalive = TcpKeepalive::new().with_time(idle.unwrap_or(KEEPALIVE_IDLE));
        #[cfg(not(any(target_os = "openbsd", target_os = "haiku")))]
        let keepalive = {
            let interval = server.get_keepalives_interval();
            keepalive
                .with_interval(interval.unwrap_or(KEEPALIVE_INTERVAL))
                .with_retries(server.get_keepalives_retries().unwrap_or(KEEPALIVE_RETRIES))
        };
        socket.set_tcp_keepalive(&keepalive)?;
    } else {
        socket.set_keepalive(false)?;
    }
    #[cfg(target_os = "linux")]
    socket.set_tcp_user_timeout(Some(
        server
            .get_tcp_user_timeout()
            .copied()
            .unwrap_or(USER_TIMEOUT),
    ))?;
    Ok(())
}

/// The state of a socket in the kernel.
///
/// After a thaw nothing else is true at no cost: the runtime has not polled the socket yet, and
/// still reports its state before the freeze.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Peek {
    /// Nothing was received.
    Quiet,
    /// Bytes were received and are not read.
    Bytes,
    /// The server closed the connection, or it broke.
    Closed,
}

/// Calls the same method on either kind of stream.
macro_rules! either {
    ($socket:expr, $stream:ident => $call:expr) => {
        match &mut *$socket.0.lock() {
            Stream::Tcp($stream) => $call,
            #[cfg(unix)]
            Stream::Unix($stream) => $call,
        }
    };
}

impl SocketView {
    pub(crate) fn peek(&self) -> Peek {
        let socket = self.0.upgrade().map(Socket);
        socket.map_or(Peek::Closed, |socket| socket.peek())
    }
}

impl Socket {
    /// Connects over TCP.
    pub(crate) async fn tcp(
        address: SocketAddr,
        server: &tokio_postgres::Config,
    ) -> io::Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        set_keepalive(&stream, server)?;
        Ok(Socket(Arc::new(Mutex::new(Stream::Tcp(stream)))))
    }

    /// Connects to a unix socket.
    #[cfg(unix)]
    pub(crate) async fn unix(path: &Path) -> io::Result<Self> {
        let stream = UnixStream::connect(path).await?;
        Ok(Socket(Arc::new(Mutex::new(Stream::Unix(stream)))))
    }

    pub(crate) fn view(&self) -> SocketView {
        SocketView(Arc::downgrade(&self.0))
    }

    fn peek(&self) -> Peek {
        let mut byte = [MaybeUninit::uninit()];
        loop {
            let peeked = either!(self, stream => SockRef::from(&*stream).peek(&mut byte));
            return match peeked.map_err(|error| error.kind()) {
                Ok(1..) => Peek::Bytes,
                Err(io::ErrorKind::WouldBlock) => Peek::Quiet,
                Err(io::ErrorKind::Interrupted) => continue,
                Ok(0) | Err(_) => Peek::Closed,
            };
        }
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        either!(self, stream => Pin::new(stream).poll_read(cx, buf))
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        either!(self, stream => Pin::new(stream).poll_write(cx, bytes))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let shut = ready!(either!(self, stream => Pin::new(stream).poll_shutdown(cx)));
        Poll::Ready(match shut {
            // The server closed first.
            Err(error) if error.kind() == io::ErrorKind::NotConnected => Ok(()),
            shut => shut,
        })
    }
}

#[cfg(all(test, unix))]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    async fn watched(url: &str) -> Socket {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let server = url.parse().expect("a URL");
        Socket::tcp(address, &server).await.expect("a connection")
    }

    #[tokio::test]
    async fn half_open_socket_is_found_within_a_minute() {
        let stream = watched("postgres://h/d").await;
        either!(stream, stream => {
            let socket = SockRef::from(&*stream);
            assert!(socket.keepalive().expect("told"));
            assert_eq!(socket.tcp_keepalive_time().expect("told"), KEEPALIVE_IDLE);
            let interval = socket.tcp_keepalive_interval().expect("told");
            let retries = socket.tcp_keepalive_retries().expect("told");
            assert_eq!((interval, retries), (KEEPALIVE_INTERVAL, KEEPALIVE_RETRIES));
            let silence = KEEPALIVE_IDLE + interval * retries;
            assert_eq!(silence, Duration::from_secs(60));
            #[cfg(target_os = "linux")]
            assert_eq!(socket.tcp_user_timeout().expect("told"), Some(USER_TIMEOUT));
        });
    }

    /// Else each answer takes two system calls.
    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn short_read_is_not_repeated() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let server = tokio_postgres::Config::new();
        let mut socket = Socket::tcp(address, &server).await.expect("a connection");
        let (mut peer, _) = listener.accept().await.expect("it");
        let mut buffer = [0; 16];
        for _ in 0..2 {
            peer.write_all(b"1234").await.expect("room");
            assert_eq!(socket.read(&mut buffer).await.expect("it"), 4);
            let mut cx = Context::from_waker(std::task::Waker::noop());
            let ready = either!(socket, stream => stream.poll_read_ready(&mut cx));
            assert!(ready.is_pending());
        }
        // A full one is, and the end of file is seen.
        peer.write_all(&[0; 20]).await.expect("room");
        drop(peer);
        let mut rest = Vec::new();
        socket.read_to_end(&mut rest).await.expect("it");
        assert_eq!(rest.len(), 20);
    }

    #[tokio::test]
    async fn url_overrides_keepalive_defaults() {
        let stream = watched("postgres://h/d?keepalives=0&tcp_user_timeout=7").await;
        either!(stream, stream => {
            let socket = SockRef::from(&*stream);
            assert!(!socket.keepalive().expect("told"));
            #[cfg(target_os = "linux")]
            assert_eq!(
                socket.tcp_user_timeout().expect("told"),
                Some(Duration::from_secs(7))
            );
        });
        let stream = watched("postgres://h/d?keepalives_idle=45").await;
        let idle = either!(stream, stream => SockRef::from(&*stream).tcp_keepalive_time());
        assert_eq!(idle.expect("told"), Duration::from_secs(45));
    }
}
