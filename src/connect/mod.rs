//! From a configuration to a session that tokio-postgres can use.
//!
//! We dial and shake hands ourselves and give tokio-postgres a stream that is
//! ready ([`connect_raw`](tokio_postgres::Config::connect_raw)): so there is one
//! type of stream, the socket stays at hand, and a CancelRequest takes the same
//! way as the session did.

mod dial;
mod place;
mod retry;

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, sleep, timeout_at};
use tokio_postgres::config::{SslMode, SslNegotiation};
use tokio_postgres::tls::TlsConnect;

pub(crate) use dial::Target;

use crate::config::{Config, Path, TlsMode};
use crate::error::{Error, ErrorKind, Goal, Phase, Result};
use crate::net::Socket;
use crate::observe;
use crate::tls;
use crate::wire::{Stream, Transport, Wire};
use retry::Time;

/// How long one of several addresses may take to answer before the next has its turn: a
/// lost SYN is repeated after 1 s (RFC 6298, section 2).
const TURN: Duration = Duration::from_secs(3);

/// How a database is dialled: what stays the same from one session to the next.
#[derive(Debug)]
pub(crate) struct Connector {
    config: Config,
    tls: tls::Client,
}

/// A session that has been started and that nobody drives yet.
pub(crate) struct Opened {
    pub(crate) client: tokio_postgres::Client,
    pub(crate) connection: tokio_postgres::Connection<Stream, Stream>,
    pub(crate) wire: Wire,
    pub(crate) socket: Socket,
    pub(crate) target: Target,
    /// How long the TCP handshake took: the distance to the server.
    pub(crate) round_trip: Duration,
}

impl Connector {
    pub(crate) fn new(config: Config) -> Self {
        Connector {
            config,
            tls: tls::Client::default(),
        }
    }

    pub(crate) fn config(&self) -> &Config {
        &self.config
    }

    /// Connects and authenticates, within the configured time and at most three
    /// quarters of what is `left`. What can heal is tried again.
    pub(crate) async fn open(&self, left: Option<Duration>) -> Result<Opened> {
        let time = Time::new(self.config.connect_timeout, left);
        let mut backoff = retry::backoff();
        loop {
            let error = match self.start(&time).await {
                Ok(opened) => return Ok(opened),
                Err(error) => error,
            };
            let Some(delay) = retry::delay(&error, &time, &mut backoff) else {
                return Err(error);
            };
            observe::connecting_again(&error, delay);
            sleep(delay).await;
        }
    }

    /// Tries each host in turn, and each of its addresses, until a session begins.
    async fn start(&self, time: &Time) -> Result<Opened> {
        let endpoints: Vec<_> = dial::endpoints(&self.config.server).collect();
        let mut last = None;
        for (at, endpoint) in endpoints.iter().enumerate() {
            let hosts = endpoints.len() - at;
            let resolve = timeout_at(time.turn(hosts, TURN), endpoint.targets());
            let targets = match resolve.await {
                Ok(targets) => targets,
                Err(_) => Err(Error::connecting_took(Phase::Resolve, time.whole(), None)),
            };
            let targets = match targets {
                Ok(targets) => targets,
                Err(error) => {
                    last = Some(error);
                    continue;
                }
            };
            for (at, target) in targets.iter().enumerate() {
                let turns = hosts - 1 + targets.len() - at;
                match self.start_at(target, time, turns).await {
                    Ok(opened) => return Ok(opened),
                    Err(error) if retry::may_go_elsewhere(&error) => last = Some(error),
                    Err(error) => return Err(error),
                }
            }
        }
        Err(last.unwrap_or_else(|| Error::configuration("no host is given")))
    }

    /// Dials one of `turns` addresses that are left, and begins a session there.
    async fn start_at(&self, target: &Target, time: &Time, turns: usize) -> Result<Opened> {
        let took = |phase, after| Error::connecting_took(phase, after, Some(target.dialled()));
        let begin = Instant::now();
        let turn = time.turn(turns, TURN);
        // Once it has answered it may take all the time that is left.
        let socket = timeout_at(turn, target.dial())
            .await
            .map_err(|_| took(Phase::Connect, turn - begin))?
            .map_err(|error| Error::not_connected(target.dialled(), error))?;
        let round_trip = begin.elapsed();
        let (transport, binding) = timeout_at(time.until, self.encrypt(target, socket.clone()))
            .await
            .map_err(|_| took(Phase::Tls, time.whole()))??;
        let config = &self.config;
        let unnamed = config.path == Path::TransactionPooler;
        let (wire, stream) = Wire::new(transport, binding, unnamed);

        let mut server = config.server.clone();
        server.ssl_mode(SslMode::Require);
        server.ssl_negotiation(SslNegotiation::Direct);
        if let Some(options) = config.startup_options() {
            server.options(options);
        }
        let goal = Goal {
            target,
            user: server.get_user(),
            database: server.get_dbname(),
        };
        let (client, connection) = timeout_at(time.until, server.connect_raw(stream, AsItIs))
            .await
            .map_err(|_| took(Phase::Authenticate, time.whole()))?
            .map_err(|error| Error::not_started(goal, error))?;
        Ok(Opened {
            client,
            connection,
            wire,
            socket,
            target: target.clone(),
            round_trip,
        })
    }

    /// Reads roots and keys and asks for the server's addresses: what can be done
    /// before a connection is needed.
    pub(crate) async fn prepare(&self) -> Result<()> {
        if self.config.tls.mode != TlsMode::Disable {
            self.tls.config(&self.config.tls)?;
        }
        dial::resolve(&self.config.server).await
    }

    /// Dials `target` once more and encrypts as the session did.
    pub(crate) async fn redial(&self, target: &Target) -> Result<Box<dyn Transport>> {
        let socket = target.dial().await.map_err(|error| {
            Error::new(ErrorKind::Unreachable, "the server does not answer").with_source(error)
        })?;
        let (transport, _) = self.encrypt(target, socket).await?;
        Ok(transport)
    }

    async fn encrypt(
        &self,
        target: &Target,
        mut socket: Socket,
    ) -> Result<(Box<dyn Transport>, Option<Vec<u8>>)> {
        let tls = &self.config.tls;
        let host = match target.host() {
            Some(host) if tls.mode != TlsMode::Disable => host,
            _ => return Ok((Box::new(socket), None)),
        };
        if !tls.direct && !offers_tls(&mut socket).await? {
            if tls.mode == TlsMode::Prefer {
                return Ok((Box::new(socket), None));
            }
            return Err(Error::new(
                ErrorKind::Tls,
                format!(
                    "{host} offers no TLS, and sslmode={} needs it: turn TLS on there, or set \
                     sslmode=disable if the network is yours",
                    tls.mode
                ),
            ));
        }
        let (stream, binding) = self.tls.connect(tls, host, socket).await?;
        Ok((Box::new(stream), binding))
    }
}

/// SSLRequest (manual, "SSL Session Encryption"). No more than the one byte of the
/// answer is read, so nothing can be slipped in before the handshake.
async fn offers_tls(socket: &mut Socket) -> Result<bool> {
    let lost = |error: std::io::Error| {
        Error::new(ErrorKind::Unreachable, "the server hung up before TLS").with_source(error)
    };
    socket
        .write_all(&[0, 0, 0, 8, 4, 210, 22, 47])
        .await
        .map_err(lost)?;
    let mut answer = [0];
    socket.read_exact(&mut answer).await.map_err(lost)?;
    Ok(&answer == b"S")
}

/// The TLS connector of a stream that is encrypted as far as it will be.
struct AsItIs;

impl TlsConnect<Stream> for AsItIs {
    type Stream = Stream;
    type Error = Infallible;
    type Future = Ready<Result<Stream, Infallible>>;

    fn connect(self, stream: Stream) -> Self::Future {
        ready(Ok(stream))
    }
}
