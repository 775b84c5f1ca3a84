//! The private socket, and the thread that serves it.
//!
//! A driver may block the handler's thread, as Diesel does: so the bridge runs on a thread of its
//! own.

use std::io;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::pin::pin;
use std::sync::{Arc, Weak};
use std::thread;

use futures_util::future::select;
use tokio::net::TcpListener;
use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;

use super::local;
use super::peer::Socket;
use super::{Bridge, drawn, secret};
use crate::error::{Error, Result};

/// The port in the URL of a Unix socket, and in its file name.
const PORT: u16 = 5432;

/// The socket, until it is dropped.
pub(super) struct Listener {
    address: Address,
    runtime: Handle,
    /// Dropped with the bridge, which ends the thread.
    stop: oneshot::Sender<()>,
}

enum Address {
    /// A directory that only this user can enter, removed when this is dropped.
    #[cfg(unix)]
    Directory(PathBuf),
    /// Where there are no Unix sockets. Every user of the machine can connect to it.
    Loopback { port: u16, password: String },
}

/// The socket that accepts connections.
enum Acceptor {
    #[cfg(unix)]
    Unix(tokio::net::UnixListener, u32),
    Tcp(TcpListener),
}

impl Listener {
    /// Makes the socket, and serves it for the bridge: on a thread of its own, or on the current
    /// runtime.
    pub(super) fn start(
        own_thread: bool,
        bridge: impl FnOnce(Listener) -> Bridge,
    ) -> Result<Arc<Bridge>> {
        let own = own_thread.then(|| Builder::new_current_thread().enable_all().build());
        let own = own.transpose().map_err(failed)?;
        let runtime = match &own {
            Some(own) => own.handle().clone(),
            None => Handle::try_current().map_err(|_| outside())?,
        };
        let (address, acceptor) = {
            let _entered = runtime.enter();
            Address::bind(drawn()?, secret()?).map_err(failed)?
        };
        let (stop, stopped) = oneshot::channel();
        let bridge = Arc::new(bridge(Listener {
            address,
            runtime: runtime.clone(),
            stop,
        }));
        let weak = Arc::downgrade(&bridge);
        let serve = async move {
            let serve = pin!(serve(acceptor, weak));
            select(stopped, serve).await;
        };
        match own {
            Some(own) => {
                let thread = thread::Builder::new().name("antifreeze".to_owned());
                thread.spawn(move || own.block_on(serve)).map_err(failed)?;
            }
            None => drop(runtime.spawn(serve)),
        }
        Ok(bridge)
    }

    /// Returns whether the socket is served: not once the runtime has ended that did so.
    pub(super) fn is_served(&self) -> bool {
        !self.stop.is_closed()
    }

    pub(super) fn runtime(&self) -> &Handle {
        &self.runtime
    }

    /// Returns the password that a driver has to know.
    pub(super) fn password(&self) -> Option<&str> {
        match &self.address {
            #[cfg(unix)]
            Address::Directory(_) => None,
            Address::Loopback { password, .. } => Some(password),
        }
    }

    pub(super) fn url(&self, user: &str, database: &str) -> String {
        let database = encoded(database);
        match &self.address {
            #[cfg(unix)]
            Address::Directory(directory) => {
                let host = encoded(&directory.to_string_lossy());
                format!("postgres://{user}@{host}:{PORT}/{database}?sslmode=disable")
            }
            Address::Loopback { port, password } => {
                format!("postgres://{user}:{password}@127.0.0.1:{port}/{database}?sslmode=disable")
            }
        }
    }
}

impl Address {
    fn bind(name: u64, password: String) -> io::Result<(Address, Acceptor)> {
        #[cfg(unix)]
        if let Ok(bound) = Address::bind_unix(name) {
            return Ok(bound);
        }
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        listener.set_nonblocking(true)?;
        let address = Address::Loopback {
            port: listener.local_addr()?.port(),
            password,
        };
        Ok((address, Acceptor::Tcp(TcpListener::from_std(listener)?)))
    }

    #[cfg(unix)]
    fn bind_unix(name: u64) -> io::Result<(Address, Acceptor)> {
        use std::fs::{DirBuilder, metadata};
        use std::os::unix::fs::{DirBuilderExt, MetadataExt};

        let directory = std::env::temp_dir().join(format!("antifreeze-{name:016x}"));
        DirBuilder::new().mode(0o700).create(&directory)?;
        // Removed again if the rest fails.
        let address = Address::Directory(directory.clone());
        let user = metadata(&directory)?.uid();
        let path = directory.join(format!(".s.PGSQL.{PORT}"));
        let listener = tokio::net::UnixListener::bind(path)?;
        Ok((address, Acceptor::Unix(listener, user)))
    }
}

impl Drop for Address {
    fn drop(&mut self) {
        #[cfg(unix)]
        if let Address::Directory(directory) = self {
            // What cannot be removed is in the system's directory of temporary files.
            let _ = std::fs::remove_dir_all(directory);
        }
    }
}

async fn serve(acceptor: Acceptor, bridge: Weak<Bridge>) {
    loop {
        let Ok(socket) = acceptor.next().await else {
            // No descriptor is left, for one: the next may come when one is closed.
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
            continue;
        };
        let Some(bridge) = bridge.upgrade() else {
            return;
        };
        if let Some(socket) = socket {
            tokio::spawn(local::serve(bridge, socket));
        }
    }
}

impl Acceptor {
    /// Accepts a connection. `None`: it is another user's.
    async fn next(&self) -> io::Result<Option<Socket>> {
        match self {
            #[cfg(unix)]
            Acceptor::Unix(listener, user) => {
                let (socket, _) = listener.accept().await?;
                let ours = socket.peer_cred()?.uid() == *user;
                Ok(ours.then(|| Box::new(socket) as Socket))
            }
            Acceptor::Tcp(listener) => {
                let (socket, _) = listener.accept().await?;
                socket.set_nodelay(true)?;
                Ok(Some(Box::new(socket)))
            }
        }
    }
}

fn failed(error: io::Error) -> Error {
    Error::configuration("the private socket for other drivers could not be made")
        .with_remedy("let the process write to its directory of temporary files (TMPDIR)")
        .with_source(error)
}

fn outside() -> Error {
    Error::configuration("the URL for other drivers was asked for outside a tokio runtime")
        .with_remedy("ask for it inside, or leave `drivers_on_runtime` at its default")
}

/// Percent-encodes all but the letters, digits and signs that stand for themselves in any part of
/// a URL (RFC 3986, 2.3).
fn encoded(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_a_url_are_encoded() {
        assert_eq!(encoded("/tmp/a b"), "%2Ftmp%2Fa%20b");
        assert_eq!(encoded("shop_1-x.y~"), "shop_1-x.y~");
        assert_eq!(encoded("größe?#"), "gr%C3%B6%C3%9Fe%3F%23");
    }
}
