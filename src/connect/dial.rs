//! Resolves host names and dials sockets.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
#[cfg(unix)]
use std::path::PathBuf;
use std::time::Duration;

use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::time::{Instant, timeout};
use tokio_postgres::config::Host;

use super::sandbox;
use crate::error::{DialledTarget, Error, Result};
use crate::net::Socket;
use crate::observe::Peer;

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
    pub(super) fn dialled(&self) -> DialledTarget<'_> {
        DialledTarget {
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

/// How long to wait for an address before the next is dialled as well (RFC 8305, section 8).
const STAGGER: Duration = Duration::from_millis(250);

/// How often an address is dialled. A server whose queue of connections is full, as in a burst,
/// drops a SYN, which the kernel repeats only after a second (RFC 6298, section 2.1).
const TRIES: usize = 3;

/// Dials addresses, each a little later than the one before, until one accepts (RFC 8305, section
/// 5). Returns the first that accepted, with the time that it took, or the last that failed.
pub(super) async fn race(
    targets: &[Target],
    server: &tokio_postgres::Config,
) -> (usize, io::Result<(Socket, Duration)>) {
    race_with(targets, |target| target.dial(server)).await
}

/// Addresses that have not answered are dialled again; one that has failed is not.
async fn race_with<'a, T, D>(
    targets: &'a [Target],
    dial: impl Fn(&'a Target) -> D,
) -> (usize, io::Result<(T, Duration)>)
where
    D: Future<Output = io::Result<T>>,
{
    let mut waiting = (0..TRIES).flat_map(|_| 0..targets.len());
    let mut failed = vec![false; targets.len()];
    let mut dialling = FuturesUnordered::new();
    let mut last = (0, Err(io::ErrorKind::AddrNotAvailable.into()));
    loop {
        let next = waiting.find(|at| !failed[*at]);
        if let Some(at) = next {
            let dialled = dial(&targets[at]);
            dialling.push(async move {
                let begin = Instant::now();
                (at, dialled.await.map(|dialled| (dialled, begin.elapsed())))
            });
        }
        let dialled = if next.is_none() {
            dialling.next().await
        } else {
            match timeout(STAGGER, dialling.next()).await {
                Ok(dialled) => dialled,
                Err(_) => continue,
            }
        };
        match dialled {
            Some(dialled) if dialled.1.is_ok() => return dialled,
            // The next one is dialled at once.
            Some((at, error)) => {
                failed[at] = true;
                last = (at, error);
            }
            None => return last,
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

/// Returns the server as spans and metrics name it.
pub(super) fn peer(server: &tokio_postgres::Config) -> Peer {
    let first = endpoints(server).next();
    let (address, port) = first.map_or((String::new(), PORT), |first| {
        let address = match (first.host, first.address) {
            (Some(Host::Tcp(name)), _) => name.clone(),
            #[cfg(unix)]
            (Some(Host::Unix(directory)), _) => directory.display().to_string(),
            (None, address) => address
                .map(|address| address.to_string())
                .unwrap_or_default(),
        };
        (address, first.port)
    });
    let database = server.get_dbname().or(server.get_user());
    let database = database.unwrap_or_default().to_owned();
    Peer {
        pool: format!("{address}:{port}/{database}"),
        address,
        port,
        database,
    }
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
                .map(alternate)
                .map_err(|error| Error::not_resolved(&name, error))?,
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

/// Lets IPv6 and IPv4 addresses take turns, in the order of the resolver (RFC 8305, section 4).
fn alternate(addresses: impl Iterator<Item = SocketAddr>) -> Vec<SocketAddr> {
    let mut addresses = addresses.peekable();
    let preferred = addresses.peek().is_some_and(SocketAddr::is_ipv6);
    let (first, second): (Vec<_>, Vec<_>) =
        addresses.partition(|address| address.is_ipv6() == preferred);
    let length = first.len().max(second.len());
    let turn = |at: usize| first.get(at).into_iter().chain(second.get(at)).copied();
    (0..length).flat_map(turn).collect()
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::future::pending;

    use tokio::net::{TcpListener, TcpSocket};
    use tokio::time::sleep;

    use super::*;

    fn target(address: &str) -> Target {
        Target::Tcp {
            address: address.parse().expect("an address"),
            host: "db".to_owned(),
            only_ipv6: false,
        }
    }

    #[test]
    fn address_families_take_turns() {
        let parse = |address: &str| format!("{address}:1").parse().expect("an address");
        for (given, expected) in [
            ("", ""),
            ("1.1.1.1", "1.1.1.1"),
            ("[::1] [::2] 1.1.1.1 1.1.1.2", "[::1] 1.1.1.1 [::2] 1.1.1.2"),
            ("1.1.1.1 [::1] [::2] [::3]", "1.1.1.1 [::1] [::2] [::3]"),
            ("1.1.1.1 1.1.1.2 [::1]", "1.1.1.1 [::1] 1.1.1.2"),
        ] {
            let list = |text: &str| text.split_whitespace().map(parse).collect::<Vec<_>>();
            assert_eq!(
                alternate(list(given).into_iter()),
                list(expected),
                "{given}"
            );
        }
    }

    #[tokio::test(start_paused = true)]
    async fn address_that_drops_a_dial_is_dialled_again() {
        let targets = [target("192.0.2.1:5432")];
        for (answers, waits) in [(1, Some(0)), (2, Some(1)), (3, Some(2)), (4, None)] {
            let dials = Cell::new(0);
            let dial = |_: &Target| {
                dials.set(dials.get() + 1);
                let number = dials.get();
                async move {
                    if number != answers {
                        pending::<()>().await;
                    }
                    Ok(number)
                }
            };
            let begin = Instant::now();
            let raced = timeout(STAGGER * 10, race_with(&targets, dial)).await;
            let won = raced
                .ok()
                .map(|(_, dialled)| dialled.expect("it answers").0);
            assert_eq!(won, waits.map(|_| answers));
            let waited = waits.map_or(STAGGER * 10, |waits| STAGGER * waits);
            assert_eq!(begin.elapsed(), waited, "{answers}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn dial_takes_its_own_time() {
        let targets = [target("192.0.2.1:5432"), target("192.0.2.2:5432")];
        let took = Duration::from_millis(10);
        let dial = async |target: &Target| {
            let silent = std::ptr::eq(target, &targets[0]);
            sleep(if silent { STAGGER * 10 } else { took }).await;
            Ok(())
        };
        let (at, dialled) = race_with(&targets, dial).await;
        assert_eq!((at, dialled.expect("it answers").1), (1, took));
    }

    #[tokio::test]
    async fn silent_and_refusing_addresses_are_overtaken() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let accepts = listener.local_addr().expect("an address").to_string();
        // It has the port, and does not listen.
        let closed = TcpSocket::new_v4().expect("a socket");
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        closed.bind(any).expect("a port");
        let refuses = closed.local_addr().expect("an address").to_string();
        // A test network (RFC 5737): nothing answers, or nothing is routed there.
        let silent = "192.0.2.1:5432";
        let server = tokio_postgres::Config::new();
        for (addresses, winner) in [
            (vec![accepts.as_str()], Some(0)),
            (vec![&refuses, &accepts], Some(1)),
            (vec![silent, &accepts], Some(1)),
            (vec![silent, &refuses, &accepts], Some(2)),
            (vec![&refuses, &refuses], None),
        ] {
            let targets: Vec<_> = addresses.iter().map(|address| target(address)).collect();
            let (at, dialled) = race(&targets, &server).await;
            assert_eq!(dialled.is_ok().then_some(at), winner, "{addresses:?}");
        }
    }
}
