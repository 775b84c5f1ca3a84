//! Connects: from settings to a session that tokio-postgres can use.
//!
//! We dial and shake hands ourselves and give tokio-postgres a stream that is
//! ready ([`connect_raw`](tokio_postgres::Config::connect_raw)): so there is one
//! type of stream, the socket stays at hand, and a CancelRequest takes the same
//! way as the session did.

mod dial;
mod encrypt;
mod found;
mod half_open;
mod login;
mod place;
mod progress;
mod retry;
mod schema;

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::sync::Once;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout_at};
use tokio_postgres::config::{self, Host, SslMode, SslNegotiation};
use tokio_postgres::tls::TlsConnect;

pub use dial::Target;
use encrypt::{is_here, not_postgres};
use found::Found;
use half_open::HalfOpen;
use login::Logins;
pub use progress::{Manner, Progress};

use crate::config::{ChannelBinding, Pooler, Settings, TlsMode};
use crate::error::{Error, ErrorKind, Goal, Phase, Result};
use crate::net::SocketView;
use crate::observe;
use crate::provider;
use crate::tls;
use crate::wire::{Guard, Refused, Stream, Transport, Wire};
use retry::Time;
pub(crate) use retry::heals;

/// How long one of several addresses may take to answer before the next has its turn: a
/// lost SYN is repeated after 1 s (RFC 6298, section 2).
const TURN: Duration = Duration::from_secs(3);

/// How a database is dialled: what stays the same from one session to the next.
#[derive(Debug)]
pub struct Connector {
    config: Settings,
    tls: tls::Client,
    warned: Once,
    /// The server does not take its timeouts, and that was said.
    refused: Once,
    /// What the path turned out to be.
    found: Found,
    /// A session had the `search_path` that was asked for.
    schema_holds: AtomicBool,
}

/// A session that has been started and is not driven yet.
pub(crate) struct Opened {
    pub(crate) client: tokio_postgres::Client,
    pub(crate) connection: tokio_postgres::Connection<Stream, Stream>,
    pub(crate) link: Link,
}

/// The connection below a session, and what is known of the way to the server.
pub(crate) struct Link {
    pub(crate) wire: Wire,
    pub(crate) socket: SocketView,
    pub(crate) target: Target,
    /// What lies in between, as the configuration says or the server has shown.
    pub(crate) pooler: Pooler,
    /// What a pooler in between says of itself, if it says anything.
    pub(crate) announced: Option<Pooler>,
    /// How long the TCP handshake took: the distance to the server.
    pub(crate) round_trip: Duration,
}

impl Connector {
    /// A connector by these settings.
    pub fn new(config: Settings) -> Self {
        Connector {
            config,
            tls: tls::Client::default(),
            warned: Once::new(),
            refused: Once::new(),
            found: Found::default(),
            schema_holds: AtomicBool::new(false),
        }
    }

    pub(crate) fn settings(&self) -> &Settings {
        &self.config
    }

    /// Connects and authenticates, within the configured time and at most three
    /// quarters of what is `left`. What can heal is tried again, unless it is to be tried
    /// `once`.
    pub(crate) async fn open(
        &self,
        left: Option<Duration>,
        once: bool,
        manner: Manner<'_>,
    ) -> Result<Opened> {
        let time = Time::new(self.config.connect_timeout, left);
        let mut backoff = retry::backoff();
        let mut logins = Logins::new(&self.config);
        loop {
            let sent = self.found.takes_settings();
            let error = match self.start(&time, &mut logins, manner).await {
                Ok(opened) => return Ok(opened),
                Err(error) => error,
            };
            if !manner.strict && self.found.a_pooler(&self.config, &error, sent) {
                continue;
            }
            // Another password may do better.
            if let Ok(true) = timeout_at(time.until, logins.renew(&error)).await {
                continue;
            }
            let delay = retry::delay(&error, &time, &mut backoff).filter(|_| !once);
            let Some(delay) = delay else {
                return Err(error);
            };
            observe::connecting_again(&error, delay);
            sleep(delay).await;
        }
    }

    /// Tries each host in turn, and each of its addresses, until a session begins.
    async fn start(
        &self,
        time: &Time,
        logins: &mut Logins<'_>,
        manner: Manner<'_>,
    ) -> Result<Opened> {
        let endpoints: Vec<_> = dial::endpoints(&self.config.server).collect();
        let mut last = None;
        for (at, endpoint) in endpoints.iter().enumerate() {
            let hosts = endpoints.len() - at;
            let begin = Instant::now();
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
            (manner.watch)(Progress::Resolved {
                targets: &targets,
                took: begin.elapsed(),
            });
            for (at, target) in targets.iter().enumerate() {
                let turns = hosts - 1 + targets.len() - at;
                match self.start_at(target, time, turns, logins, manner).await {
                    Ok(opened) => return Ok(opened),
                    Err(error) if retry::may_go_elsewhere(&error) => last = Some(error),
                    Err(error) => return Err(error),
                }
            }
        }
        Err(last.unwrap_or_else(|| Error::configuration("no host is given")))
    }

    /// Dials one of `turns` addresses that are left, and begins a session there.
    async fn start_at(
        &self,
        target: &Target,
        time: &Time,
        turns: usize,
        logins: &mut Logins<'_>,
        manner: Manner<'_>,
    ) -> Result<Opened> {
        let took = |phase, after| Error::connecting_took(phase, after, Some(target.dialled()));
        let begin = Instant::now();
        let turn = time.turn(turns, TURN);
        // Once it has answered it may take all the time that is left.
        let socket = timeout_at(turn, target.dial())
            .await
            .map_err(|_| took(Phase::Connect, turn - begin))?
            .map_err(|error| Error::not_connected(target.dialled(), error))?;
        let round_trip = begin.elapsed();
        (manner.watch)(Progress::Dialled { target, round_trip });
        let (view, mut phase) = (socket.view(), Phase::AskTls);
        let encrypt = self.encrypt(target, socket, manner, &mut phase);
        let way = timeout_at(time.until, encrypt).await;
        let way = way.map_err(|_| took(phase, time.whole()))??;
        let config = &self.config;
        let bound = self.bound(target, &way)?;
        let safe = way.verified || is_here(target);
        let unnamed = config.pooler == Pooler::Transaction && !manner.named;
        let (wire, stream) = Wire::new(way.transport, way.binding, unnamed);
        let half_open = HalfOpen::new(wire.clone(), manner.leaving);
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
        if let Some(options) = config.startup_options() {
            if self.found.takes_settings() {
                server.options(options);
            }
        }
        let goal = Goal {
            target,
            user: server.get_user(),
            database: server.get_dbname(),
            provided: config.credentials.is_some(),
        };
        let (client, mut connection) = timeout_at(time.until, server.connect_raw(stream, AsItIs))
            .await
            .map_err(|_| took(Phase::Authenticate, time.whole()))?
            .map_err(|error| match wire.refused() {
                Some(refusal) => self.distrusted(target, refusal).with_source(error),
                None => self.not_started(target, goal, error),
            })?;
        config
            .target_session_attrs
            .check(wire.facts().parameters)
            .map_err(|why| Error::new(ErrorKind::Unreachable, format!("{target} {why}")))?;
        let parameter = |name: &str| connection.parameter(name);
        let pooler = self.found.pooler(config, target, parameter, &wire);
        let announced = provider::pool_mode(parameter);
        config.check_schema(pooler)?;
        timeout_at(time.until, self.prove_schema(&client, &mut connection))
            .await
            .map_err(|_| took(Phase::Authenticate, time.whole()))??;
        half_open.done();
        // What took the connection may be nearer than the server: a proxy, a load balancer.
        let round_trip = round_trip.max(wire.shortest_answer().unwrap_or_default());
        let link = Link {
            wire,
            socket: view,
            target: target.clone(),
            pooler,
            announced,
            round_trip,
        };
        Ok(Opened {
            client,
            connection,
            link,
        })
    }

    /// Forgets what was fetched or negotiated: secrets, tokens, TLS sessions.
    #[cfg(feature = "lambda")]
    pub(crate) fn forget(&self) {
        self.tls.forget();
        if let Some(credentials) = &self.config.credentials {
            credentials.forget();
        }
    }

    /// Has what an administrator can do reported, once.
    pub(crate) fn report_server_timeouts(&self, report: impl FnOnce(&str)) {
        self.refused.call_once(|| report(&self.config.alter_role()));
    }

    /// Reads roots and keys and asks for the server's addresses: what can be done
    /// before a connection is needed.
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

    /// Dials `target` once more and encrypts as the session did.
    pub(crate) async fn redial(&self, target: &Target) -> Result<Box<dyn Transport>> {
        let socket = target.dial().await.map_err(|error| {
            Error::new(ErrorKind::Unreachable, "the server does not answer").with_source(error)
        })?;
        let mut phase = Phase::AskTls;
        let encrypt = self.encrypt(target, socket, Manner::USUAL, &mut phase);
        Ok(encrypt.await?.transport)
    }

    /// The server asked for what we do not give it.
    fn distrusted(&self, target: &Target, refusal: Refused) -> Error {
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

    /// The session did not begin.
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
