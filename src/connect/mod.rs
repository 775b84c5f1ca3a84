//! From a configuration to a session that tokio-postgres can use.
//!
//! We dial and shake hands ourselves and give tokio-postgres a stream that is
//! ready ([`connect_raw`](tokio_postgres::Config::connect_raw)): so there is one
//! type of stream, the socket stays at hand, and a CancelRequest takes the same
//! way as the session did.

mod dial;

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;
use tokio_postgres::config::{SslMode, SslNegotiation};
use tokio_postgres::tls::TlsConnect;

pub(crate) use dial::Target;

use crate::config::{Config, Path, TlsMode};
use crate::error::{Error, ErrorKind, Result};
use crate::net::Socket;
use crate::tls;
use crate::wire::{Stream, Transport, Wire};

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

    /// Connects and authenticates, within the configured time and at most `left`.
    pub(crate) async fn open(&self, left: Option<Duration>) -> Result<Opened> {
        let limit = self.config.connect_timeout;
        let limit = left.map_or(limit, |left| left.min(limit));
        match timeout(limit, self.start()).await {
            Ok(opened) => opened,
            Err(_) => Err(Error::new(
                ErrorKind::ConnectTimeout,
                format!("connecting to the database took longer than {limit:.1?}"),
            )),
        }
    }

    async fn start(&self) -> Result<Opened> {
        let config = &self.config;
        let (socket, target, round_trip) = dial::any(&config.server).await?;
        let (transport, binding) = self.encrypt(&target, socket.clone()).await?;
        let unnamed = config.path == Path::TransactionPooler;
        let (wire, stream) = Wire::new(transport, binding, unnamed);

        let mut server = config.server.clone();
        server.ssl_mode(SslMode::Require);
        server.ssl_negotiation(SslNegotiation::Direct);
        if let Some(options) = config.startup_options() {
            server.options(options);
        }
        let (client, connection) = server
            .connect_raw(stream, AsItIs)
            .await
            .map_err(|error| refused(&target, error))?;
        config
            .target_session_attrs
            .check(|name| connection.parameter(name))
            .map_err(|why| Error::new(ErrorKind::Unreachable, format!("{target} {why}")))?;
        Ok(Opened {
            client,
            connection,
            wire,
            socket,
            target,
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

fn refused(target: &Target, error: tokio_postgres::Error) -> Error {
    let kind = match error.as_db_error() {
        Some(_) => ErrorKind::Database,
        None => ErrorKind::Closed,
    };
    let code = error.code().map(|code| format!(" ({})", code.code()));
    let code = code.unwrap_or_default();
    Error::new(kind, format!("{target} refused the connection{code}")).with_source(error)
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
