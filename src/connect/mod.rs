//! Connects: from settings to a session for tokio-postgres.
//!
//! Dialling and the TLS handshake are done here, and tokio-postgres is given the stream
//! ([`connect_raw`](tokio_postgres::Config::connect_raw)): so there is one type of stream, the
//! socket is at hand, and a CancelRequest reaches the server by the same route as the session.

mod abandoned;
mod channel;
mod detection;
mod dial;
mod logins;
mod options;
mod retry;
mod sandbox;
mod schema;

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::sync::Once;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout_at};
use tokio_postgres::config::{self, Host, SslMode, SslNegotiation};
use tokio_postgres::tls::TlsConnect;

use abandoned::CloseOnDrop;
use channel::not_postgres;
use detection::Detection;
pub use dial::Target;
use logins::Logins;
pub use options::{ConnectOptions, Progress};
use retry::Time;
pub(crate) use retry::is_transient;

use crate::config::{ChannelBinding, Pooler, Settings, TlsMode};
use crate::error::{Error, ErrorKind, Goal, Phase, Result};
use crate::net::SocketView;
use crate::observe;
use crate::tls;
use crate::wire::{Guard, Refusal, Stream, Transport, Wire};

/// How long one of several addresses may take to answer before the next is tried: a lost SYN is
/// repeated after 1 s (RFC 6298, section 2).
const SHARE: Duration = Duration::from_secs(3);

/// Opens the sessions of a database, and keeps what they have in common.
#[derive(Debug)]
pub struct Connector {
    config: Settings,
    tls: tls::Client,
    warned: Once,
    /// It was reported that the server does not take its timeouts.
    reported: Once,
    detection: Detection,
    /// A session had the `search_path` of the configured schema.
    schema_holds: AtomicBool,
}

/// A session that has begun, and that no task drives yet.
pub(crate) struct Opened {
    pub(crate) client: tokio_postgres::Client,
    pub(crate) connection: tokio_postgres::Connection<Stream, Stream>,
    pub(crate) wire: Wire,
    pub(crate) socket: SocketView,
    pub(crate) target: Target,
    /// The pooler in between, as configured or detected.
    pub(crate) pooler: Pooler,
    /// The shortest round trip to the server while connecting.
    pub(crate) round_trip: Duration,
}

impl Connector {
    /// Creates a connector with these settings.
    pub fn new(config: Settings) -> Self {
        Connector {
            config,
            tls: tls::Client::default(),
            warned: Once::new(),
            reported: Once::new(),
            detection: Detection::new(),
            schema_holds: AtomicBool::new(false),
        }
    }

    pub(crate) fn settings(&self) -> &Settings {
        &self.config
    }

    /// Returns the mode that a pooler in between has reported to a session, if any has.
    pub fn announced_pooler(&self) -> Option<Pooler> {
        self.detection.announced()
    }

    /// Connects and authenticates, within the configured time and at most three quarters of the
    /// time that is `left`. Retries transient errors.
    pub(crate) async fn open(
        &self,
        left: Option<Duration>,
        options: ConnectOptions<'_>,
    ) -> Result<Opened> {
        let time = Time::new(self.config.connect_timeout, left);
        let mut backoff = retry::backoff();
        let mut logins = Logins::new(&self.config);
        loop {
            let sent = self.detection.takes_settings();
            let error = match self.start(&time, &mut logins, options).await {
                Ok(opened) => return Ok(opened),
                Err(error) => error,
            };
            let detected = || self.detection.refuses_settings(&self.config, &error, sent);
            if !options.strict && detected() {
                continue;
            }
            if let Ok(true) = timeout_at(time.until, logins.renew(&error)).await {
                continue;
            }
            let delay = retry::delay(&error, &time, &mut backoff).filter(|_| !options.once);
            let Some(delay) = delay else {
                return Err(error);
            };
            observe::connecting_again(&error, delay);
            sleep(delay).await;
        }
    }

    /// Tries each address of each host until a session begins.
    async fn start(
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
        let config = &self.config;
        let begin = Instant::now();
        let share = time.share(several, SHARE);
        // A target that has accepted the connection may take all the time that is left.
        let socket = timeout_at(share, target.dial(&config.server))
            .await
            .map_err(|_| took(Phase::Connect, share - begin))?
            .map_err(|error| Error::not_connected(target.dialled(), error))?;
        let round_trip = begin.elapsed();
        (options.watch)(Progress::Dialled { target, round_trip });
        let (view, mut phase) = (socket.view(), Phase::AskTls);
        let encrypt = self.encrypt(target, socket, options, &mut phase);
        let channel = timeout_at(time.until, encrypt).await;
        let channel = channel.map_err(|_| took(phase, time.whole()))??;
        let bound = self.requires_binding(target, &channel)?;
        let safe = channel.verified || target.is_local();
        let unnamed = config.pooler == Pooler::Transaction && !options.named;
        let (wire, stream) = Wire::new(channel.transport, channel.binding, unnamed);
        let abandoned = CloseOnDrop::new(wire.clone(), options.closing);
        let tls = config.tls.clone();
        wire.guard(Guard::new(move |method| tls.permits(method, safe), bound));

        let mut server = config.server.clone();
        timeout_at(time.until, logins.apply(target, &mut server))
            .await
            .map_err(|_| took(Phase::Credentials, time.whole()))??;
        match config.tls.channel_binding {
            ChannelBinding::Disable => server.channel_binding(config::ChannelBinding::Disable),
            ChannelBinding::Require => server.channel_binding(config::ChannelBinding::Require),
            ChannelBinding::Prefer => &mut server,
        };
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
        let (client, mut connection) =
            timeout_at(time.until, server.connect_raw(stream, PassThrough))
                .await
                .map_err(|_| took(Phase::Authenticate, time.whole()))?
                .map_err(|error| match wire.refused() {
                    Some(refusal) => self.not_permitted(target, refusal).with_source(error),
                    None => self.not_started(target, goal, error),
                })?;
        config
            .target_session_attrs
            .check(wire.reported())
            .map_err(|why| Error::new(ErrorKind::Unreachable, format!("{target} {why}")))?;
        let parameter = |name: &str| connection.parameter(name);
        let pooler = self.detection.pooler(config, target, parameter, &wire);
        config.check_schema(pooler)?;
        timeout_at(time.until, self.verify_schema(&client, &mut connection))
            .await
            .map_err(|_| took(Phase::Authenticate, time.whole()))??;
        abandoned.disarm();
        // A proxy or load balancer, which accepts connections, may be nearer than the server.
        let round_trip = round_trip.max(wire.shortest_answer().unwrap_or_default());
        Ok(Opened {
            client,
            connection,
            wire,
            socket: view,
            target: target.clone(),
            pooler,
            round_trip,
        })
    }

    /// Discards secrets, tokens and TLS configurations, which are read again.
    #[cfg(feature = "lambda")]
    pub(crate) fn forget(&self) {
        self.tls.forget();
        if let Some(credentials) = &self.config.credentials {
            credentials.forget();
        }
    }

    /// Reports, once, how an administrator can set the server's timeouts.
    pub(crate) fn report_server_timeouts(&self, report: impl FnOnce(&str)) {
        self.reported
            .call_once(|| report(&self.config.alter_role()));
    }

    /// Reads certificates and keys and resolves the host names, before a connection is needed.
    pub(crate) async fn prepare(&self) -> Result<()> {
        if self.config.tls.mode != TlsMode::Disable {
            for host in self.config.server.get_hosts() {
                #[cfg_attr(not(unix), expect(irrefutable_let_patterns))]
                if let Host::Tcp(host) = host {
                    self.tls.prepare(&self.config.tls, host)?;
                }
            }
        }
        dial::resolve(&self.config.server).await
    }

    /// Dials `target` again and encrypts as for the session, for a CancelRequest.
    pub(crate) async fn redial(&self, target: &Target) -> Result<Box<dyn Transport>> {
        let socket = target.dial(&self.config.server).await.map_err(|error| {
            Error::new(ErrorKind::Unreachable, "the server does not answer").with_source(error)
        })?;
        let mut phase = Phase::AskTls;
        let encrypt = self.encrypt(target, socket, ConnectOptions::DEFAULT, &mut phase);
        Ok(encrypt.await?.transport)
    }

    /// The server requested an authentication that is not permitted.
    fn not_permitted(&self, target: &Target, refusal: Refusal) -> Error {
        let message = match refusal {
            Refusal::Method(method) if self.config.tls.require_auth.is_some() => format!(
                "{target} asks for the authentication \"{method}\", which require_auth does not \
                 permit"
            ),
            Refusal::Method(method) => format!(
                "{target} asks for the authentication \"{method}\", which would reveal the password on the network: set sslmode=verify-full, use scram-sha-256 on the server, or set require_auth={method} if the network is yours"
            ),
            Refusal::Unbound => format!(
                "channel_binding=require, and {target} does not offer it (few poolers do, and \
                 only scram-sha-256 can): set channel_binding=prefer, or take the direct endpoint"
            ),
            Refusal::Unclear => return not_postgres(target),
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
