//! Negotiates TLS on a socket, as configuration and server require.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_postgres::config;

use super::{ConnectOptions, Connector, Progress, Target};
use crate::config::{ChannelBinding, TlsMode};
use crate::error::{Error, ErrorKind, Phase, Result};
use crate::net::Socket;
use crate::observe;
use crate::wire::Transport;

/// SSLRequest (manual, "SSL Session Encryption").
const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 4, 210, 22, 47];

/// The channel to the server, below the wire: a socket, or TLS over one.
pub(super) struct Channel {
    pub(super) transport: Box<dyn Transport>,
    /// The hash for SCRAM's channel binding.
    pub(super) binding: Option<Vec<u8>>,
    /// The server's certificate was signed by a trusted authority.
    pub(super) verified: bool,
}

impl Connector {
    /// Encrypts as far as configuration and server require; sets `phase` as it goes.
    pub(super) async fn encrypt(
        &self,
        target: &Target,
        mut socket: Socket,
        options: ConnectOptions<'_>,
        phase: &mut Phase,
    ) -> Result<Channel> {
        let tls = &self.config.tls;
        let host = target.host().filter(|_| tls.mode != TlsMode::Disable);
        let offered = match host {
            Some(_) if !tls.direct => offers_tls(target, &mut socket).await?,
            host => host.is_some(),
        };
        let Some(host) = host.filter(|_| offered || tls.mode != TlsMode::Prefer) else {
            (options.watch)(Progress::InTheClear { target });
            return Ok(Channel {
                transport: Box::new(socket),
                binding: None,
                verified: false,
            });
        };
        if !offered {
            let mode = tls.mode;
            let remedy = without_tls(host);
            let message = format!("{host} offers no TLS, and sslmode={mode} needs it: {remedy}");
            return Err(Error::new(ErrorKind::Tls, message));
        }
        *phase = Phase::Tls;
        let encrypted = self.tls.connect(tls, host, socket).await?;
        (options.watch)(Progress::Encrypted {
            encrypted: &encrypted,
        });
        if tls.mode == TlsMode::Encrypt && !encrypted.is_verified() && !target.is_local() {
            self.warned.call_once(|| observe::unverified(host));
        }
        Ok(Channel {
            verified: encrypted.is_verified(),
            transport: Box::new(encrypted.stream),
            binding: encrypted.binding,
        })
    }

    /// Returns whether authentication has to be bound to the TLS connection. Fails if it cannot
    /// be, before anything is sent to the server.
    pub(super) fn requires_binding(&self, target: &Target, channel: &Channel) -> Result<bool> {
        let required = match self.config.tls.channel_binding {
            ChannelBinding::Require => true,
            // For settings of tokio-postgres itself.
            ChannelBinding::Prefer => {
                self.config.server.get_channel_binding() == config::ChannelBinding::Require
            }
            ChannelBinding::Disable => false,
        };
        if required && channel.binding.is_none() {
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

/// The remedy for a server without TLS. A name without a dot is that of a service in a compose
/// file or a cluster.
fn without_tls(host: &str) -> &'static str {
    if host.contains(['.', ':']) {
        "turn TLS on there, or set sslmode=disable if the network is yours"
    } else {
        "for a service of your own compose file or cluster add ?sslmode=disable to the URL; \
             else turn TLS on there"
    }
}

/// Requests TLS. Reads only the one byte of the answer, so that nothing can be injected before
/// the handshake.
async fn offers_tls(target: &Target, socket: &mut Socket) -> Result<bool> {
    let mut answer = [0];
    let asked = async {
        socket.write_all(&SSL_REQUEST).await?;
        socket.read_exact(&mut answer).await
    };
    asked.await.map_err(|error| {
        let cause = format!("{target} closed the connection before TLS");
        Error::new(ErrorKind::Unreachable, cause)
            .with_remedy(
                "check the port, and that a tunnel or load balancer in between reaches its server; see the logs of both",
            )
            .with_source(error)
    })?;
    match &answer {
        b"S" => Ok(true),
        b"N" => Ok(false),
        // An ErrorResponse, as of a server that cannot start a process. Its text cannot be
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
