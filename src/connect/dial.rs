//! Resolves names and dials sockets.

use std::fmt;
use std::io;
use std::net::SocketAddr;
#[cfg(unix)]
use std::path::PathBuf;
use std::sync::Arc;

use tokio::net::TcpStream;
#[cfg(unix)]
use tokio::net::UnixStream;
use tokio_postgres::config::Host;

use super::place;
use crate::error::{Dialled, Error, Result};
use crate::net::{Liveness, Socket};

/// The port of PostgreSQL (IANA).
const PORT: u16 = 5432;

/// One address that was, or is to be, dialled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// Over the network.
    Tcp {
        /// Where it is.
        address: SocketAddr,
        /// The name that the certificate is for.
        host: String,
        /// The name stands for no IPv4 address at all.
        only_ipv6: bool,
        /// How it is found to be gone.
        liveness: Liveness,
    },
    /// A unix socket.
    #[cfg(unix)]
    Unix(PathBuf),
}

impl Target {
    /// Over the network, for tests.
    pub fn tcp(address: SocketAddr, host: &str) -> Self {
        Target::Tcp {
            address,
            host: host.to_owned(),
            only_ipv6: false,
            liveness: Liveness::of(&tokio_postgres::Config::new()),
        }
    }

    /// The name of the host, if it has one.
    pub fn host(&self) -> Option<&str> {
        match self {
            Target::Tcp { host, .. } => Some(host),
            #[cfg(unix)]
            Target::Unix(_) => None,
        }
    }

    /// What an error can say of it.
    pub(super) fn dialled(&self) -> Dialled<'_> {
        let (host, loopback, only_ipv6) = match self {
            Target::Tcp {
                host,
                address,
                only_ipv6,
                ..
            } => (host.as_str(), address.ip().is_loopback(), *only_ipv6),
            #[cfg(unix)]
            Target::Unix(_) => ("", false, false),
        };
        Dialled {
            target: self,
            host,
            loopback,
            only_ipv6,
            inside: place::inside(),
        }
    }

    pub(crate) async fn dial(&self) -> io::Result<Socket> {
        match self {
            Target::Tcp {
                address, liveness, ..
            } => {
                let stream = TcpStream::connect(address).await?;
                stream.set_nodelay(true)?;
                liveness.watch(&stream)?;
                Ok(Socket::Tcp(Arc::new(stream)))
            }
            #[cfg(unix)]
            Target::Unix(path) => Ok(Socket::Unix(Arc::new(UnixStream::connect(path).await?))),
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Target::Tcp { address, host, .. } if address.ip().to_string() == *host => {
                write!(f, "{address}")
            }
            Target::Tcp { address, host, .. } => write!(f, "{host} ({address})"),
            #[cfg(unix)]
            Target::Unix(path) => write!(f, "{}", path.display()),
        }
    }
}

/// Resolves the names, for the resolver's own cache. Fails if none can be.
pub(super) async fn resolve(server: &tokio_postgres::Config) -> Result<()> {
    let mut last = None;
    for endpoint in endpoints(server) {
        match endpoint.targets().await {
            Ok(_) => return Ok(()),
            Err(error) => last = Some(error),
        }
    }
    last.map_or(Ok(()), Err)
}

/// A host of the configuration, with the address and the port that go with it.
pub(super) struct Endpoint<'a> {
    host: Option<&'a Host>,
    address: Option<std::net::IpAddr>,
    port: u16,
    liveness: Liveness,
}

pub(super) fn endpoints(server: &tokio_postgres::Config) -> impl Iterator<Item = Endpoint<'_>> {
    let (hosts, addresses, ports) = (
        server.get_hosts(),
        server.get_hostaddrs(),
        server.get_ports(),
    );
    (0..hosts.len().max(addresses.len())).map(move |at| Endpoint {
        host: hosts.get(at),
        address: addresses.get(at).copied(),
        // One port serves all hosts.
        port: ports.get(at).or(ports.first()).copied().unwrap_or(PORT),
        liveness: Liveness::of(server),
    })
}

impl Endpoint<'_> {
    /// The name is looked up.
    pub(super) async fn targets(&self) -> Result<Vec<Target>> {
        let liveness = self.liveness;
        match (self.host, self.address) {
            #[cfg(unix)]
            (Some(Host::Unix(directory)), _) => {
                let socket = format!(".s.PGSQL.{}", self.port);
                Ok(vec![Target::Unix(directory.join(socket))])
            }
            (host, Some(address)) => Ok(vec![Target::Tcp {
                address: (address, self.port).into(),
                host: match host {
                    Some(Host::Tcp(name)) => name.clone(),
                    _ => address.to_string(),
                },
                only_ipv6: address.is_ipv6(),
                liveness,
            }]),
            (Some(Host::Tcp(name)), None) => {
                let found = tokio::net::lookup_host((name.as_str(), self.port)).await;
                let found = found.map_err(|error| Error::not_resolved(name, error))?;
                let addresses: Vec<SocketAddr> = found.collect();
                let only_ipv6 = addresses.iter().all(SocketAddr::is_ipv6);
                let target = |address| Target::Tcp {
                    address,
                    host: name.clone(),
                    only_ipv6,
                    liveness,
                };
                Ok(addresses.into_iter().map(target).collect())
            }
            (None, None) => Ok(Vec::new()),
        }
    }
}
