//! From names to a connected socket.

use std::fmt;
use std::io;
use std::net::SocketAddr;
#[cfg(unix)]
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpStream;
#[cfg(unix)]
use tokio::net::UnixStream;
use tokio::time::Instant;
use tokio_postgres::config::Host;

use crate::error::{Error, ErrorKind, Result};
use crate::net::Socket;

/// The port of PostgreSQL (IANA).
const PORT: u16 = 5432;

/// One address that was, or is to be, dialled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Target {
    Tcp {
        address: SocketAddr,
        /// The name that the certificate is for.
        host: String,
    },
    #[cfg(unix)]
    Unix(PathBuf),
}

impl Target {
    pub(crate) fn host(&self) -> Option<&str> {
        match self {
            Target::Tcp { host, .. } => Some(host),
            #[cfg(unix)]
            Target::Unix(_) => None,
        }
    }

    pub(crate) async fn dial(&self) -> io::Result<Socket> {
        match self {
            Target::Tcp { address, .. } => {
                let stream = TcpStream::connect(address).await?;
                stream.set_nodelay(true)?;
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
            Target::Tcp { address, host } if address.ip().to_string() == *host => {
                write!(f, "{address}")
            }
            Target::Tcp { address, host } => write!(f, "{host} ({address})"),
            #[cfg(unix)]
            Target::Unix(path) => write!(f, "{}", path.display()),
        }
    }
}

/// Dials each host in turn, and each of its addresses, until one answers.
pub(super) async fn any(server: &tokio_postgres::Config) -> Result<(Socket, Target, Duration)> {
    let mut last = None;
    for endpoint in endpoints(server) {
        let targets = match endpoint.targets().await {
            Ok(targets) => targets,
            Err(error) => {
                last = Some(error);
                continue;
            }
        };
        for target in targets {
            let start = Instant::now();
            match target.dial().await {
                Ok(socket) => return Ok((socket, target, start.elapsed())),
                Err(error) => {
                    last = Some(
                        Error::new(
                            ErrorKind::Unreachable,
                            format!("{target} does not take connections: is the server running, and may this function reach it?"),
                        )
                        .with_source(error),
                    );
                }
            }
        }
    }
    Err(last.unwrap_or_else(|| Error::configuration("no host is given")))
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
struct Endpoint<'a> {
    host: Option<&'a Host>,
    address: Option<std::net::IpAddr>,
    port: u16,
}

fn endpoints(server: &tokio_postgres::Config) -> impl Iterator<Item = Endpoint<'_>> {
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
    })
}

impl Endpoint<'_> {
    async fn targets(&self) -> Result<Vec<Target>> {
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
            }]),
            (Some(Host::Tcp(name)), None) => {
                let found = tokio::net::lookup_host((name.as_str(), self.port)).await;
                let addresses = found.map_err(|error| {
                    Error::new(
                        ErrorKind::Unreachable,
                        format!("the host name {name} cannot be resolved: is it spelt right?"),
                    )
                    .with_source(error)
                })?;
                Ok(addresses
                    .map(|address| Target::Tcp {
                        address,
                        host: name.clone(),
                    })
                    .collect())
            }
            (None, None) => Ok(Vec::new()),
        }
    }
}
