//! From a configuration to a session that tokio-postgres can use.
//!
//! We dial and shake hands ourselves and give tokio-postgres a stream that is
//! ready ([`connect_raw`](tokio_postgres::Config::connect_raw)): so there is one
//! type of stream, the socket stays at hand, and a CancelRequest takes the same
//! way as the session did.

mod dial;
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

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, sleep, timeout_at};
use tokio_postgres::config::{self, Host, SslMode, SslNegotiation};
use tokio_postgres::tls::TlsConnect;

pub(crate) use dial::Target;
use found::Found;
#[cfg(feature = "doctor")]
pub(crate) use found::pool_mode;
use half_open::HalfOpen;
use login::Logins;
pub(crate) use progress::{Manner, Progress};

use crate::config::{ChannelBinding, Path, Settings, TlsMode};
use crate::error::{Error, ErrorKind, Goal, Phase, Result};
use crate::net::{Socket, SocketView};
use crate::observe;
use crate::tls;
use crate::wire::{Guard, Refusal, Stream, Transport, Wire};
use retry::Time;
pub(crate) use retry::heals;

/// How long one of several addresses may take to answer before the next has its turn: a
/// lost SYN is repeated after 1 s (RFC 6298, section 2).
const TURN: Duration = Duration::from_secs(3);

/// How a database is dialled: what stays the same from one session to the next.
#[derive(Debug)]
pub(crate) struct Connector {
    config: Settings,
    tls: tls::Client,
    warned: Once,
    /// The server does not take its time-outs, and that was said.
    refused: Once,
    /// What the path turned out to be.
    found: Found,
    /// A session had the `search_path` that was asked for.
    schema_holds: AtomicBool,
}

/// A session that has been started and that nobody drives yet.
pub(crate) struct Opened {
    pub(crate) client: tokio_postgres::Client,
    pub(crate) connection: tokio_postgres::Connection<Stream, Stream>,
    pub(crate) wire: Wire,
    pub(crate) socket: SocketView,
    pub(crate) target: Target,
    /// What lies in between, as the configuration says or the server has shown.
    pub(crate) path: Path,
    /// How long the TCP handshake took: the distance to the server.
    pub(crate) round_trip: Duration,
}

impl Connector {
    pub(crate) fn new(config: Settings) -> Self {
        Connector {
            config,
            tls: tls::Client::default(),
            warned: Once::new(),
            refused: Once::new(),
            found: Found::default(),
            schema_holds: AtomicBool::new(false),
        }
    }

    pub(crate) fn config(&self) -> &Settings {
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
            if self.found.a_pooler(&self.config, &error, sent) {
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

    /// Connects as [`open`](Connector::open) does, in another manner, and only once: that
    /// settings are refused is told, too.
    #[cfg(feature = "doctor")]
    pub(crate) async fn open_once(&self, manner: Manner<'_>) -> Result<Opened> {
        let time = Time::new(self.config.connect_timeout, None);
        let mut logins = Logins::new(&self.config);
        let error = match self.start(&time, &mut logins, manner).await {
            Ok(opened) => return Ok(opened),
            Err(error) => error,
        };
        match timeout_at(time.until, logins.renew(&error)).await {
            Ok(true) => self.start(&time, &mut logins, manner).await,
            _ => Err(error),
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
        let unnamed = config.path == Path::TransactionPooler && !manner.named;
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
            .check(wire.reported())
            .map_err(|why| Error::new(ErrorKind::Unreachable, format!("{target} {why}")))?;
        let parameter = |name: &str| connection.parameter(name);
        let path = self.found.path(config, target, parameter, &wire);
        config.check_schema(path)?;
        timeout_at(time.until, self.prove_schema(&client, &mut connection))
            .await
            .map_err(|_| took(Phase::Authenticate, time.whole()))??;
        half_open.done();
        // What took the connection may be nearer than the server: a proxy, a load balancer.
        let round_trip = round_trip.max(wire.shortest_answer().unwrap_or_default());
        Ok(Opened {
            client,
            connection,
            wire,
            socket: view,
            target: target.clone(),
            path,
            round_trip,
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
    pub(crate) fn report_backstops(&self, report: impl FnOnce(&str)) {
        self.refused.call_once(|| report(&self.config.alter_role()));
    }

    /// Reads roots and keys and asks for the server's addresses: what can be done
    /// before a connection is needed.
    pub(crate) async fn prepare(&self) -> Result<()> {
        if self.config.tls.mode != TlsMode::Disable {
            for host in self.config.server.get_hosts() {
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

    /// Encrypts as far as the configuration and the server have it; `phase` is what it is at.
    async fn encrypt(
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
    fn bound(&self, target: &Target, way: &Way) -> Result<bool> {
        let required = match self.config.tls.channel_binding {
            ChannelBinding::Require => true,
            // For who sets tokio-postgres's own.
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

    /// The server asked for what we do not give it.
    fn distrusted(&self, target: &Target, refusal: Refusal) -> Error {
        let message = match refusal {
            Refusal::Method(method) if self.config.tls.require_auth.is_some() => format!(
                "{target} asks for the authentication \"{method}\", which require_auth does not \
                 permit"
            ),
            Refusal::Method(method) => format!(
                "{target} asks for the authentication \"{method}\", which would give the password \
                 to whoever listens: set sslmode=verify-full, have the server ask for \
                 scram-sha-256, or set require_auth={method} if the network is yours"
            ),
            Refusal::Unbound => format!(
                "channel_binding=require, and {target} does not offer it (few poolers do, and \
                 only scram-sha-256 can): set channel_binding=prefer, or take the direct endpoint"
            ),
            Refusal::Unclear => return not_postgres(target),
        };
        Error::new(ErrorKind::Tls, message)
    }

    /// The session did not begin.
    fn not_started(&self, target: &Target, goal: Goal<'_>, error: tokio_postgres::Error) -> Error {
        let host = target.host().unwrap_or_default();
        match tls::explain_later(&self.config.tls, host, &error) {
            Some(message) => Error::new(ErrorKind::Tls, message).with_source(error),
            None => Error::not_started(goal, error),
        }
    }
}

/// What lies between the wire and the server.
struct Way {
    transport: Box<dyn Transport>,
    /// The hash that binds SCRAM to it.
    binding: Option<Vec<u8>>,
    verified: bool,
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

/// It never leaves this machine.
fn is_here(target: &Target) -> bool {
    match target {
        Target::Tcp { address, .. } => address.ip().to_canonical().is_loopback(),
        #[cfg(unix)]
        Target::Unix(_) => true,
    }
}

/// What to do about a server without TLS. A name without a dot is one that a compose
/// file, or a cluster, gave to a service.
fn without_tls(host: &str) -> &'static str {
    match host.contains(['.', ':']) {
        true => "turn TLS on there, or set sslmode=disable if the network is yours",
        false => {
            "for a service of your own compose file or cluster add ?sslmode=disable to the URL; \
             else turn TLS on there"
        }
    }
}

/// SSLRequest (manual, "SSL Session Encryption"). No more than the one byte of the
/// answer is read, so nothing can be slipped in before the handshake.
async fn offers_tls(target: &Target, socket: &mut Socket) -> Result<bool> {
    let lost = |error: std::io::Error| {
        let hung_up = format!("{target} hung up before TLS");
        Error::new(ErrorKind::Unreachable, hung_up)
            .with_remedy(
                "is it the right port, and does what lies in between, such as a tunnel or a load \
                 balancer, reach its server? the log of either says why",
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
            format!("{target} answered with an error when it was asked for TLS"),
        )
        .with_remedy("its log says which; is it the right port?")),
        _ => Err(not_postgres(target)),
    }
}

fn not_postgres(target: &Target) -> Error {
    let message = format!("{target} does not speak PostgreSQL: is it the right port?");
    Error::new(ErrorKind::Tls, message)
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
