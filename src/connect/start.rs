//! Starts a session at the first address of a database that accepts it.

use std::borrow::Cow;
use std::time::Duration;

use tokio::time::{Instant, timeout_at};
use tokio_postgres::NoTls;
use tokio_postgres::config::{self, SslMode};
use tokio_postgres::tls::NoTlsStream;
use tracing::Instrument;

use super::abandoned::CloseOnDrop;
use super::channel::not_postgres;
use super::logins::Logins;
use super::retry::{self, TimeLimit, is_transient};
use super::startup::{Failure, Guard, Refusal, ScramError, Startup};
use super::{ConnectOptions, Connector, Progress, Target, dial};
use crate::config::{ChannelBinding, Pooler};
use crate::deadline::FAR;
use crate::error::{Error, ErrorKind, LoginTarget, Phase, Result};
use crate::net::{Socket, SocketView};
use crate::observe::span;
use crate::tls;
use crate::wire::{Naming, Stream, Wire};

/// How long one of several hosts may take to answer before the next is tried: a lost SYN is
/// repeated after 1 s (RFC 6298, section 2).
const SHARE: Duration = Duration::from_secs(3);

/// A session that has begun, and that no task drives yet.
pub(crate) struct Opened {
    pub(crate) client: tokio_postgres::Client,
    pub(crate) connection: tokio_postgres::Connection<Stream, NoTlsStream>,
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
    /// The major version of the server; 0 if it has reported none.
    pub(crate) version: u32,
}

/// The opening of a session, retries included.
pub(super) struct Opening<'a> {
    pub(super) connector: &'a Connector,
    pub(super) options: ConnectOptions<'a>,
    pub(super) time: TimeLimit,
    /// The logins of the credentials provider, if there is one.
    pub(super) logins: Option<Logins<'a>>,
}

impl Opening<'_> {
    /// Tries each address of each host until a session begins.
    pub(super) async fn start(&mut self) -> Result<Opened> {
        let time = self.time;
        let endpoints: Vec<_> = dial::endpoints(&self.connector.config.server).collect();
        let mut last: Option<Error> = None;
        let mut note = |error| match &last {
            // Where one host restarts, another one's answer is not the last word.
            Some(known) if is_transient(known) && !is_transient(&error) => {}
            _ => last = Some(error),
        };
        let mut cut = None;
        for (at, endpoint) in endpoints.iter().enumerate() {
            let hosts = endpoints.len() - at;
            let begin = Instant::now();
            let resolve = span::within(span::resolve(), endpoint.targets());
            let resolve = timeout_at(time.share(hosts, SHARE), resolve);
            let took = |_| Error::connecting_took(Phase::Resolve, time.whole(), None);
            let mut targets = match resolve.await.map_err(took).and_then(|targets| targets) {
                Ok(targets) => targets,
                Err(error) => {
                    note(error);
                    continue;
                }
            };
            (self.options.watch)(Progress::Resolved {
                targets: &targets,
                took: begin.elapsed(),
            });
            while !targets.is_empty() {
                let until = time.share(hosts, SHARE);
                let (at, socket) = match self.dial(&targets, until).await {
                    Ok(dialled) => dialled,
                    Err(error) => {
                        note(error);
                        break;
                    }
                };
                let by = match hosts {
                    1 => time.until,
                    _ => time.share(hosts - 1 + targets.len(), FAR),
                };
                let target = targets.remove(at);
                match self.start_at(&target, socket, by).await {
                    Ok(opened) => return Ok(opened),
                    Err(error) if retry::tries_next_address(&error) => note(error),
                    Err(error) => return Err(error),
                }
                cut = cut.or_else(|| (by < time.until && by <= Instant::now()).then_some(target));
            }
        }
        let is_over = time.until <= Instant::now() || last.as_ref().is_some_and(is_transient);
        if let Some(target) = cut.filter(|_| !is_over) {
            // It may only be slow: it has the time that the others have left.
            let again = std::slice::from_ref(&target);
            if let Ok((_, socket)) = self.dial(again, time.until).await {
                return self.start_at(&target, socket, time.until).await;
            }
        }
        Err(last.unwrap_or_else(|| Error::configuration("no host is given")))
    }

    /// Dials several addresses of a host; returns which of them accepted, and how soon.
    async fn dial(&self, targets: &[Target], until: Instant) -> Result<(usize, Socket)> {
        let begin = Instant::now();
        let server = &self.connector.config.server;
        let race = dial::race(targets, server).instrument(span::dial());
        let race = timeout_at(until, race).await;
        let (at, dialled) = race.map_err(|_| {
            let dialled = targets[0].dialled();
            Error::connecting_took(Phase::Connect, until - begin, Some(dialled))
        })?;
        let target = &targets[at];
        let (socket, round_trip) =
            dialled.map_err(|error| Error::not_connected(target.dialled(), error))?;
        (self.options.watch)(Progress::Dialled { target, round_trip });
        Ok((at, socket))
    }

    /// Begins a session at an address that has accepted a connection. The last host may take all
    /// the time that is left.
    async fn start_at(&mut self, target: &Target, socket: Socket, by: Instant) -> Result<Opened> {
        let (time, mut socket) = (self.time, socket);
        let mut guesses = true;
        loop {
            let mut phase = Phase::AskTls;
            let start = self.start_on(socket, target, guesses, &mut phase);
            let started = timeout_at(by, start).await;
            let took = |_| Error::connecting_took(phase, time.whole(), Some(target.dialled()));
            if let Some(opened) = started.map_err(took)?? {
                return Ok(opened);
            }
            guesses = false;
            let again = std::slice::from_ref(target);
            (_, socket) = self.dial(again, by).await?;
        }
    }

    /// Encrypts the connection and authenticates; sets `phase` as it goes. Returns `None` if the
    /// server asks for another authentication than was guessed.
    async fn start_on(
        &mut self,
        socket: Socket,
        target: &Target,
        guesses: bool,
        phase: &mut Phase,
    ) -> Result<Option<Opened>> {
        let (connector, options) = (self.connector, self.options);
        let config = &connector.config;
        let view = socket.view();
        let encrypt = connector.encrypt(target, socket, options, phase);
        let channel = span::within(span::encrypt(), encrypt).await?;
        let bound = connector.requires_binding(target, &channel)?;
        let mut transport = CloseOnDrop::new(channel.transport, options.closing);

        *phase = Phase::Credentials;
        let mut server = config.server.clone();
        if let Some(logins) = &mut self.logins {
            let apply = logins.apply(target, &mut server);
            span::within(span::credentials(), apply).await?;
        }
        *phase = Phase::Authenticate;
        let settings = config.startup_options(config.longest_call(options.granted));
        if let Some(settings) = settings.filter(|_| connector.detection.takes_settings()) {
            server.options(settings);
        }
        let goal = LoginTarget {
            target,
            user: server.get_user(),
            database: server.get_dbname(),
            provided: config.credentials.is_some(),
        };
        let safe = channel.verified || target.is_local();
        let guard = Guard::new(|method| config.tls.permits(method, safe), bound);
        let disabled = config.tls.channel_binding == ChannelBinding::Disable
            || server.get_channel_binding() == config::ChannelBinding::Disable;
        let binding = channel.binding.as_deref().filter(|_| !disabled);
        let startup = Startup {
            server: &server,
            user: &user(&server),
            binding,
            guess: connector
                .guesses
                .guess(config, target, &guard, binding)
                .filter(|_| guesses),
            guard,
            keys: &connector.keys,
        };
        let run = startup.run(transport.get());
        let started = match run.instrument(span::authenticate()).await {
            Err(Failure::WrongGuess) => return Ok(None),
            started => started.map_err(|failure| connector.not_started(target, failure))?,
        };
        if let Some(asked) = started.asked {
            connector.guesses.learn(target, asked);
        }
        // Not the time of the dial: a proxy that accepts connections may be nearer than the
        // server, and a SYN that is lost is repeated after a second.
        let round_trip = started.shortest.unwrap_or_default();
        let naming = match config.pooler {
            Pooler::Transaction if !options.named => Naming::Unnamed,
            Pooler::None if config.reuse_statements => Naming::ByContent {
                answers_sync: false,
            },
            _ => Naming::AsGiven,
        };
        let (wire, stream) = started.resume(transport.disarm(), naming);
        let abandoned = CloseOnDrop::new(wire.clone(), options.closing);

        let mut resumed = server.clone();
        // Both are done.
        resumed.ssl_mode(SslMode::Disable);
        resumed.channel_binding(config::ChannelBinding::Disable);
        let connect = resumed.connect_raw(stream, NoTls).await;
        let (client, mut connection) =
            connect.map_err(|error| connector.rejected(target, goal, error))?;
        config
            .target_session_attrs
            .check(wire.facts().parameters)
            .map_err(|why| Error::new(ErrorKind::Unreachable, format!("{target} {why}")))?;
        let version = connection.parameter("server_version").map_or(0, major);
        let parameter = |name: &str| connection.parameter(name);
        let pooler = connector.detection.pooler(config, target, parameter, &wire);
        config.check_schema(pooler)?;
        connector.verify_schema(&client, &mut connection).await?;
        abandoned.disarm();
        let link = Link {
            wire,
            socket: view,
            target: target.clone(),
            pooler,
            round_trip,
            version,
        };
        Ok(Some(Opened {
            client,
            connection,
            link,
        }))
    }
}

impl Connector {
    /// The session was not started, and the server did not say why.
    fn not_started(&self, target: &Target, failure: Failure) -> Error {
        let (kind, message) = match failure {
            Failure::Refused(refusal) => (ErrorKind::Tls, self.refused(target, refusal)),
            Failure::Scram(ScramError::Signature) => (
                ErrorKind::Authentication,
                format!(
                    "{target} did not prove that it knows the password (its SCRAM signature is \
                     wrong): check the host, and set sslmode=verify-full; if a pooler is in \
                     between, check that it has the current password"
                ),
            ),
            Failure::Scram(ScramError::Iterations) => (
                ErrorKind::Authentication,
                format!(
                    "{target} asks for more than 100000 iterations of SCRAM: check the host, or \
                     lower scram_iterations there and set the password again"
                ),
            ),
            Failure::Scram(ScramError::Random) => (
                ErrorKind::Authentication,
                "the operating system has no random numbers: check the sandbox of the process"
                    .to_owned(),
            ),
            Failure::Encode(error) => {
                let cause = "the startup packet cannot be encoded";
                return Error::configuration(cause)
                    .with_remedy("remove NUL characters from user, database, password and options")
                    .with_source(error);
            }
            Failure::Scram(ScramError::Malformed | ScramError::Nonce) | Failure::Violation => (
                ErrorKind::Database,
                format!(
                    "cannot connect to {target}: the server's answer violates PostgreSQL's \
                     protocol: check the port, and the proxies in between"
                ),
            ),
            _ => return not_postgres(target),
        };
        Error::new(kind, message)
    }

    /// The server requested an authentication that is not permitted.
    fn refused(&self, target: &Target, refusal: Refusal) -> String {
        match refusal {
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
        }
    }

    /// The session was not started, for the reason that tokio-postgres was given.
    fn rejected(
        &self,
        target: &Target,
        goal: LoginTarget<'_>,
        error: tokio_postgres::Error,
    ) -> Error {
        let host = target.host().unwrap_or_default();
        match tls::explain_later(&self.config.tls, host, &error) {
            Some((cause, remedy)) => Error::new(ErrorKind::Tls, cause)
                .with_remedy(remedy)
                .with_source(error),
            None => Error::not_started(goal, error),
        }
    }
}

/// Returns the major version, as in `17.2 (Debian 17.2-1)`, `18beta1`.
fn major(version: &str) -> u32 {
    let digits = version.bytes().take_while(u8::is_ascii_digit).count();
    version[..digits].parse().unwrap_or_default()
}

/// Returns the user to log in as: without one, that of the operating system, as in libpq.
fn user(server: &tokio_postgres::Config) -> Cow<'_, str> {
    match server.get_user() {
        Some(user) => Cow::Borrowed(user),
        None => Cow::Owned(whoami::username().unwrap_or_default()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn major_version_is_read() {
        for (reported, version) in [
            ("17.2 (Debian 17.2-1.pgdg120+1)", 17),
            ("18beta1", 18),
            ("9.6.24", 9),
            ("", 0),
            ("unknown", 0),
        ] {
            assert_eq!(major(reported), version, "{reported}");
        }
    }
}
