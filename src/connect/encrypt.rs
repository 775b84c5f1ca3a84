//! Negotiates TLS on a socket, as configuration and server require.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_postgres::config;

use super::{Connector, Manner, Progress, Target};
use crate::config::{ChannelBinding, TlsMode};
use crate::error::{Error, ErrorKind, Phase, Result};
use crate::net::Socket;
use crate::observe;
use crate::wire::Transport;

/// What lies between the wire and the server.
pub(super) struct Way {
    pub(super) transport: Box<dyn Transport>,
    /// The hash that binds SCRAM to it.
    pub(super) binding: Option<Vec<u8>>,
    pub(super) verified: bool,
}

impl Way {
    fn in_the_clear(socket: Socket) -> Self {
        Way {
            transport: Box::new(socket),
            binding: None,
            verified: false,
        }
    }
}

impl Connector {
    /// Encrypts as far as the configuration and the server have it; `phase` is what it is at.
    pub(super) async fn encrypt(
        &self,
        target: &Target,
        mut socket: Socket,
        manner: Manner<'_>,
        phase: &mut Phase,
    ) -> Result<Way> {
        let in_the_clear = |socket| {
            (manner.watch)(Progress::InTheClear { target });
            Way::in_the_clear(socket)
        };
        let tls = &self.config.tls;
        let host = match target.host() {
            Some(host) if tls.mode != TlsMode::Disable => host,
            _ => return Ok(in_the_clear(socket)),
        };
        if !tls.direct && !offers_tls(target, &mut socket).await? {
            if tls.mode == TlsMode::Prefer {
                return Ok(in_the_clear(socket));
            }
            return Err(Error::new(
                ErrorKind::Tls,
                format!(
                    "{host} offers no TLS, and sslmode={} needs it: {}",
                    tls.mode,
                    without_tls(host)
                ),
            ));
        }
        *phase = Phase::Tls;
        let encrypted = self.tls.connect(tls, host, socket).await?;
        (manner.watch)(Progress::Encrypted {
            encrypted: &encrypted,
        });
        if tls.mode == TlsMode::Encrypt && !encrypted.verified && !is_here(target) {
            self.warned.call_once(|| observe::unverified(host));
        }
        Ok(Way {
            transport: Box::new(encrypted.stream),
            binding: encrypted.binding,
            verified: encrypted.verified,
        })
    }

    /// Whether the password's proof has to be bound to the TLS connection. Fails if it
    /// cannot be, before the server is told anything.
    pub(super) fn bound(&self, target: &Target, way: &Way) -> Result<bool> {
        let required = match self.config.tls.channel_binding {
            ChannelBinding::Require => true,
            // For settings of tokio-postgres itself.
            ChannelBinding::Prefer => {
                self.config.server.get_channel_binding() == config::ChannelBinding::Require
            }
            ChannelBinding::Disable => false,
        };
        if required && way.binding.is_none() {
            return Err(Error::new(
                ErrorKind::Tls,
                format!(
                    "channel_binding=require, and {target} was reached without TLS or has a \
                     certificate that cannot be bound to: set sslmode=verify-full, or \
                     channel_binding=prefer"
                ),
            ));
        }
        Ok(required)
    }
}

/// It never leaves this machine.
pub(super) fn is_here(target: &Target) -> bool {
    match target {
        Target::Tcp { address, .. } => address.ip().to_canonical().is_loopback(),
        #[cfg(unix)]
        Target::Unix(_) => true,
    }
}

/// What to do about a server without TLS. A name without a dot is one that a compose
/// file, or a cluster, gave to a service.
fn without_tls(host: &str) -> &'static str {
    if host.contains(['.', ':']) {
        "turn TLS on there, or set sslmode=disable if the network is yours"
    } else {
        "for a service of your own compose file or cluster add ?sslmode=disable to the URL; \
             else turn TLS on there"
    }
}

/// SSLRequest (manual, "SSL Session Encryption"). No more than the one byte of the
/// answer is read, so nothing can be slipped in before the handshake.
async fn offers_tls(target: &Target, socket: &mut Socket) -> Result<bool> {
    let lost = |error: std::io::Error| {
        let hung_up = format!("{target} closed the connection before TLS");
        Error::new(ErrorKind::Unreachable, hung_up)
            .with_remedy(
                "check the port, and that a tunnel or load balancer in between reaches its server; see the logs of both",
            )
            .with_source(error)
    };
    socket
        .write_all(&[0, 0, 0, 8, 4, 210, 22, 47])
        .await
        .map_err(lost)?;
    let mut answer = [0];
    socket.read_exact(&mut answer).await.map_err(lost)?;
    match &answer {
        b"S" => Ok(true),
        b"N" => Ok(false),
        // An ErrorResponse, as of a server that cannot start a process. Its text is not to be
        // trusted before TLS, and is not read.
        b"E" => Err(Error::new(
            ErrorKind::Unreachable,
            format!("{target} answered the TLS request (SSLRequest) with an error"),
        )
        .with_remedy("see its log; check the port")),
        _ => Err(not_postgres(target)),
    }
}

pub(super) fn not_postgres(target: &Target) -> Error {
    let message = format!("{target} does not speak PostgreSQL's protocol: check the port");
    Error::new(ErrorKind::Tls, message)
}
