//! Starts a session at the first address of a database that accepts it.

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::time::Duration;

use tokio::time::{Instant, timeout_at};
use tokio_postgres::config::{self, SslMode, SslNegotiation};
use tokio_postgres::tls::TlsConnect;

use super::abandoned::CloseOnDrop;
use super::channel::not_postgres;
use super::logins::Logins;
use super::retry::{self, Time};
use super::{ConnectOptions, Connector, Progress, Target, dial};
use crate::config::{ChannelBinding, Pooler};
use crate::error::{Error, ErrorKind, Goal, Phase, Result};
use crate::net::{Socket, SocketView};
use crate::tls;
use crate::wire::{Guard, Refused, Stream, Wire};

/// How long one of several addresses may take to answer before the next is tried: a lost SYN is
/// repeated after 1 s (RFC 6298, section 2).
const SHARE: Duration = Duration::from_secs(3);

/// A session that has begun, and that no task drives yet.
pub(crate) struct Opened {
    pub(crate) client: tokio_postgres::Client,
    pub(crate) connection: tokio_postgres::Connection<Stream, Stream>,
    pub(crate) link: Link,
}

/// The connection below a session, and its way to the server.
pub(crate) struct Link {
    pub(crate) wire: Wire,
    pub(crate) socket: SocketView,
    pub(crate) target: Target,
    /// The pooler in between, as configured or detected.
    pub(crate) pooler: Pooler,
    /// The shortest round trip to the server while connecting.
    pub(crate) round_trip: Duration,
}

impl Connector {
    /// Tries each address of each host until a session begins.
    pub(super) async fn start(
        &self,
        time: &Time,
        logins: &mut Logins<'_>,
        options: ConnectOptions<'_>,
    ) -> Result<Opened> {
        let endpoints: Vec<_> = dial::endpoints(&self.config.server).collect();
        let mut last = None;
        for (at, endpoint) in endpoints.iter().enumerate() {
            let hosts = endpoints.len() - at;
            let begin = Instant::now();
            let resolve = timeout_at(time.share(hosts, SHARE), endpoint.targets());
            let took = |_| Error::connecting_took(Phase::Resolve, time.whole(), None);
            let targets = match resolve.await.map_err(took).and_then(|targets| targets) {
                Ok(targets) => targets,
                Err(error) => {
                    last = Some(error);
                    continue;
                }
            };
            (options.watch)(Progress::Resolved {
                targets: &targets,
                took: begin.elapsed(),
            });
            for (at, target) in targets.iter().enumerate() {
                let several = hosts - 1 + targets.len() - at;
                match self.start_at(target, time, several, logins, options).await {
                    Ok(opened) => return Ok(opened),
                    Err(error) if retry::tries_next_address(&error) => last = Some(error),
                    Err(error) => return Err(error),
                }
            }
        }
        Err(last.unwrap_or_else(|| Error::configuration("no host is given")))
    }

    /// Dials one of `several` addresses that are left, and begins a session there.
    async fn start_at(
        &self,
        target: &Target,
        time: &Time,
        several: usize,
        logins: &mut Logins<'_>,
        options: ConnectOptions<'_>,
    ) -> Result<Opened> {
        let took = |phase, after| Error::connecting_took(phase, after, Some(target.dialled()));
        let begin = Instant::now();
        let share = time.share(several, SHARE);
        // A target that has accepted the connection may take all the time that is left.
        let socket = timeout_at(share, target.dial(&self.config.server))
            .await
            .map_err(|_| took(Phase::Connect, share - begin))?
            .map_err(|error| Error::not_connected(target.dialled(), error))?;
        let round_trip = begin.elapsed();
        (options.watch)(Progress::Dialled { target, round_trip });
        let mut phase = Phase::AskTls;
        let start = self.start_on(socket, target, logins, options, &mut phase);
        let started = timeout_at(time.until, start).await;
        let mut opened = started.map_err(|_| took(phase, time.whole()))??;
        // A proxy or load balancer, which accepts connections, may be nearer than the server.
        opened.link.round_trip = opened.link.round_trip.max(round_trip);
        Ok(opened)
    }

    /// Encrypts the connection and authenticates; sets `phase` as it goes.
    async fn start_on(
        &self,
        socket: Socket,
        target: &Target,
        logins: &mut Logins<'_>,
        options: ConnectOptions<'_>,
        phase: &mut Phase,
    ) -> Result<Opened> {
        let config = &self.config;
        let view = socket.view();
        let channel = self.encrypt(target, socket, options, phase).await?;
        let bound = self.requires_binding(target, &channel)?;
        let safe = channel.verified || target.is_local();
        let unnamed = config.pooler == Pooler::Transaction && !options.named;
        let (wire, stream) = Wire::new(channel.transport, channel.binding, unnamed);
        let abandoned = CloseOnDrop::new(wire.clone(), options.closing);
        let tls = config.tls.clone();
        wire.guard(Guard::new(move |method| tls.permits(method, safe), bound));

        *phase = Phase::Credentials;
        let mut server = config.server.clone();
        logins.apply(target, &mut server).await?;
        *phase = Phase::Authenticate;
        if config.tls.channel_binding == ChannelBinding::Disable {
            server.channel_binding(config::ChannelBinding::Disable);
        } else if bound {
            server.channel_binding(config::ChannelBinding::Require);
        }
        server.ssl_mode(SslMode::Require);
        server.ssl_negotiation(SslNegotiation::Direct);
        let settings = config.startup_options();
        if let Some(settings) = settings.filter(|_| self.detection.takes_settings()) {
            server.options(settings);
        }
        let goal = Goal {
            target,
            user: server.get_user(),
            database: server.get_dbname(),
            provided: config.credentials.is_some(),
        };
        let connect = server.connect_raw(stream, PassThrough).await;
        let (client, mut connection) = connect.map_err(|error| match wire.refused() {
            Some(refusal) => self.not_permitted(target, refusal).with_source(error),
            None => self.not_started(target, goal, error),
        })?;
        config
            .target_session_attrs
            .check(wire.facts().parameters)
            .map_err(|why| Error::new(ErrorKind::Unreachable, format!("{target} {why}")))?;
        let parameter = |name: &str| connection.parameter(name);
        let pooler = self.detection.pooler(config, target, parameter, &wire);
        config.check_schema(pooler)?;
        self.verify_schema(&client, &mut connection).await?;
        abandoned.disarm();
        let link = Link {
            round_trip: wire.shortest_answer().unwrap_or_default(),
            wire,
            socket: view,
            target: target.clone(),
            pooler,
        };
        Ok(Opened {
            client,
            connection,
            link,
        })
    }

    /// The server requested an authentication that is not permitted.
    fn not_permitted(&self, target: &Target, refusal: Refused) -> Error {
        let message = match refusal {
            Refused::Method(method) if self.config.tls.require_auth.is_some() => format!(
                "{target} asks for the authentication \"{method}\", which require_auth does not \
                 permit"
            ),
            Refused::Method(method) => format!(
                "{target} asks for the authentication \"{method}\", which would reveal the password on the network: set sslmode=verify-full, use scram-sha-256 on the server, or set require_auth={method} if the network is yours"
            ),
            Refused::Unbound => format!(
                "channel_binding=require, and {target} does not offer it (few poolers do, and \
                 only scram-sha-256 can): set channel_binding=prefer, or take the direct endpoint"
            ),
            Refused::Unclear => return not_postgres(target),
        };
        Error::new(ErrorKind::Tls, message)
    }

    /// The session was not started.
    fn not_started(&self, target: &Target, goal: Goal<'_>, error: tokio_postgres::Error) -> Error {
        let host = target.host().unwrap_or_default();
        match tls::explain_later(&self.config.tls, host, &error) {
            Some((cause, remedy)) => Error::new(ErrorKind::Tls, cause)
                .with_remedy(remedy)
                .with_source(error),
            None => Error::not_started(goal, error),
        }
    }
}

/// A TLS connector that returns the stream, which is encrypted already if it is to be.
struct PassThrough;

impl TlsConnect<Stream> for PassThrough {
    type Stream = Stream;
    type Error = Infallible;
    type Future = Ready<Result<Stream, Infallible>>;

    fn connect(self, stream: Stream) -> Self::Future {
        ready(Ok(stream))
    }
}
