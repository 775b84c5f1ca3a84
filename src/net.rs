//! Sockets, and a view that peeks at one without owning it.
//!
//! The wire owns the stream, below TLS or not; teardown peeks at the very same socket. A
//! duplicated descriptor would keep the connection open after the wire has closed it, so
//! the view does not keep it: what the wire drops is closed.

use std::io;
use std::mem::MaybeUninit;
use std::net::Shutdown;
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
#[cfg(unix)]
use tokio::net::UnixStream;

/// A connected socket.
#[derive(Debug)]
pub(crate) enum Socket {
    Tcp(Arc<TcpStream>),
    #[cfg(unix)]
    Unix(Arc<UnixStream>),
}

/// A view of a [`Socket`] that does not keep it open.
#[derive(Debug, Clone)]
pub(crate) enum SocketView {
    Tcp(Weak<TcpStream>),
    #[cfg(unix)]
    Unix(Weak<UnixStream>),
}

/// After so long a silence the kernel asks whether the other side is still there: well
/// before the 350 s after which NAT gateways and connection tracking of EC2 forget a
/// connection.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(30);

/// And asks again so often.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);

/// Until this many have not been answered: a minute in all.
const KEEPALIVE_RETRIES: u32 = 3;

/// So long may bytes that were sent remain unacknowledged (RFC 5482; tcp(7): it decides
/// over keepalive, too). Else the kernel repeats them for a quarter of an hour.
const USER_TIMEOUT: Duration = Duration::from_secs(30);

/// How a connection is found dead that ended without a word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Liveness {
    keepalive: Option<Keepalive>,
    /// Linux alone has it.
    #[cfg_attr(not(target_os = "linux"), allow(dead_code))]
    user_timeout: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Keepalive {
    idle: Duration,
    interval: Duration,
    retries: u32,
}

impl Liveness {
    /// Our own values, unless the URL says otherwise (`keepalives`, `keepalives_idle`,
    /// `keepalives_interval`, `keepalives_retries`, `tcp_user_timeout`).
    pub(crate) fn of(server: &tokio_postgres::Config) -> Self {
        // The default of tokio-postgres.
        let unset = tokio_postgres::Config::new().get_keepalives_idle();
        let idle = server.get_keepalives_idle();
        let keepalive = Keepalive {
            idle: if idle == unset { KEEPALIVE_IDLE } else { idle },
            interval: server
                .get_keepalives_interval()
                .unwrap_or(KEEPALIVE_INTERVAL),
            retries: server.get_keepalives_retries().unwrap_or(KEEPALIVE_RETRIES),
        };
        let user_timeout = server.get_tcp_user_timeout().copied();
        Liveness {
            keepalive: server.get_keepalives().then_some(keepalive),
            user_timeout: user_timeout.unwrap_or(USER_TIMEOUT),
        }
    }

    pub(crate) fn watch(&self, stream: &TcpStream) -> io::Result<()> {
        let socket = SockRef::from(stream);
        match self.keepalive {
            None => socket.set_keepalive(false)?,
            Some(keepalive) => {
                let watched = TcpKeepalive::new().with_time(keepalive.idle);
                #[cfg(not(any(target_os = "openbsd", target_os = "haiku")))]
                let watched = watched
                    .with_interval(keepalive.interval)
                    .with_retries(keepalive.retries);
                socket.set_tcp_keepalive(&watched)?;
            }
        }
        #[cfg(target_os = "linux")]
        socket.set_tcp_user_timeout(Some(self.user_timeout))?;
        Ok(())
    }
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

impl SocketView {
    /// The socket, until its owner closes it.
    fn socket(&self) -> Option<Socket> {
        match self {
            SocketView::Tcp(stream) => stream.upgrade().map(Socket::Tcp),
            #[cfg(unix)]
            SocketView::Unix(stream) => stream.upgrade().map(Socket::Unix),
        }
    }

    pub(crate) fn peek(&self) -> Peek {
        self.socket().map_or(Peek::Closed, |socket| socket.peek())
    }
}

impl Socket {
    pub(crate) fn view(&self) -> SocketView {
        match self {
            Socket::Tcp(stream) => SocketView::Tcp(Arc::downgrade(stream)),
            #[cfg(unix)]
            Socket::Unix(stream) => SocketView::Unix(Arc::downgrade(stream)),
        }
    }

    fn peek(&self) -> Peek {
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

#[cfg(all(test, unix))]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    async fn watched(url: &str) -> TcpStream {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let stream = TcpStream::connect(address).await.expect("a connection");
        let server = url.parse().expect("a URL");
        Liveness::of(&server).watch(&stream).expect("set");
        stream
    }

    #[tokio::test]
    async fn half_open_socket_is_found_within_a_minute() {
        let stream = watched("postgres://h/d").await;
        let socket = SockRef::from(&stream);
        assert!(socket.keepalive().expect("told"));
        assert_eq!(socket.tcp_keepalive_time().expect("told"), KEEPALIVE_IDLE);
        let interval = socket.tcp_keepalive_interval().expect("told");
        let retries = socket.tcp_keepalive_retries().expect("told");
        assert_eq!((interval, retries), (KEEPALIVE_INTERVAL, KEEPALIVE_RETRIES));
        let silence = KEEPALIVE_IDLE + interval * retries;
        assert_eq!(silence, Duration::from_secs(60));
        #[cfg(target_os = "linux")]
        assert_eq!(socket.tcp_user_timeout().expect("told"), Some(USER_TIMEOUT));
    }

    #[tokio::test]
    async fn url_overrides_keepalive_defaults() {
        let stream = watched("postgres://h/d?keepalives=0&tcp_user_timeout=7").await;
        let socket = SockRef::from(&stream);
        assert!(!socket.keepalive().expect("told"));
        #[cfg(target_os = "linux")]
        assert_eq!(
            socket.tcp_user_timeout().expect("told"),
            Some(Duration::from_secs(7))
        );
        let stream = watched("postgres://h/d?keepalives_idle=45").await;
        let socket = SockRef::from(&stream);
        let idle = socket.tcp_keepalive_time().expect("told");
        assert_eq!(idle, Duration::from_secs(45));
    }
}
