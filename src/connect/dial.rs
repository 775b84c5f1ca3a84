//! Resolves host names and dials sockets.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
#[cfg(unix)]
use std::path::PathBuf;

use tokio_postgres::config::Host;

use super::sandbox;
use crate::error::{Dialled, Error, Result};
use crate::net::Socket;

/// The port of PostgreSQL (IANA).
const PORT: u16 = 5432;

/// An address of a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// An address of the network.
    Tcp {
        /// IP address and port.
        address: SocketAddr,
        /// The host name, which the certificate is for.
        host: String,
        /// The host name has no IPv4 address.
        only_ipv6: bool,
    },
    /// A unix socket.
    #[cfg(unix)]
    Unix(PathBuf),
}

impl Target {
    /// Returns the host name, if it has one.
    pub fn host(&self) -> Option<&str> {
        match self {
            Target::Tcp { host, .. } => Some(host),
            #[cfg(unix)]
            Target::Unix(_) => None,
        }
    }

    /// Returns whether connections to it stay on this machine.
    pub fn is_local(&self) -> bool {
        match self {
            Target::Tcp { address, .. } => address.ip().to_canonical().is_loopback(),
            #[cfg(unix)]
            Target::Unix(_) => true,
        }
    }

    /// Describes it for an error.
    pub(super) fn dialled(&self) -> Dialled<'_> {
        Dialled {
            target: self,
            host: self.host().unwrap_or_default(),
            loopback: self.host().is_some() && self.is_local(),
            only_ipv6: matches!(
                self,
                Target::Tcp {
                    only_ipv6: true,
                    ..
                }
            ),
            inside: sandbox::name(),
        }
    }

    pub(super) async fn dial(&self, server: &tokio_postgres::Config) -> io::Result<Socket> {
        match self {
            Target::Tcp { address, .. } => Socket::tcp(*address, server).await,
            #[cfg(unix)]
            Target::Unix(path) => Socket::unix(path).await,
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

/// Resolves the host names, to fill the cache of the resolver. Fails if none can be resolved.
pub(super) async fn resolve(server: &tokio_postgres::Config) -> Result<()> {
    let mut resolved = Ok(());
    for endpoint in endpoints(server) {
        resolved = endpoint.targets().await.map(drop);
        if resolved.is_ok() {
            break;
        }
    }
    resolved
}

/// A host of the configuration, with its address and port.
pub(super) struct Endpoint<'a> {
    host: Option<&'a Host>,
    address: Option<IpAddr>,
    port: u16,
}

/// Lists the hosts of the configuration.
pub(super) fn endpoints(server: &tokio_postgres::Config) -> impl Iterator<Item = Endpoint<'_>> {
    let (hosts, addresses) = (server.get_hosts(), server.get_hostaddrs());
    let ports = server.get_ports();
    (0..hosts.len().max(addresses.len())).map(move |at| Endpoint {
        host: hosts.get(at),
        address: addresses.get(at).copied(),
        // One port serves all hosts.
        port: ports.get(at).or(ports.first()).copied().unwrap_or(PORT),
    })
}

impl Endpoint<'_> {
    /// Resolves the host name.
    pub(super) async fn targets(&self) -> Result<Vec<Target>> {
        let name = match (self.host, self.address) {
            #[cfg(unix)]
            (Some(Host::Unix(directory)), _) => {
                let socket = format!(".s.PGSQL.{}", self.port);
                return Ok(vec![Target::Unix(directory.join(socket))]);
            }
            (Some(Host::Tcp(name)), _) => name.clone(),
            (None, Some(address)) => address.to_string(),
            (None, None) => return Ok(Vec::new()),
        };
        let addresses: Vec<SocketAddr> = match self.address {
            Some(address) => vec![(address, self.port).into()],
            None => tokio::net::lookup_host((name.as_str(), self.port))
                .await
                .map_err(|error| Error::not_resolved(&name, error))?
                .collect(),
        };
        let only_ipv6 = addresses.iter().all(SocketAddr::is_ipv6);
        let target = |address| Target::Tcp {
            address,
            host: name.clone(),
            only_ipv6,
        };
        Ok(addresses.into_iter().map(target).collect())
    }
}
