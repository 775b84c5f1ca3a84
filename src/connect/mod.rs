//! Opens sessions: dials, encrypts, authenticates, and hands the stream to tokio-postgres.
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
mod start;
pub(crate) mod startup;

use std::sync::Once;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::time::{Instant, sleep, timeout_at};
use tokio_postgres::config::Host;

use detection::Detection;
pub use dial::Target;
use logins::Logins;
pub use options::{ConnectOptions, Progress};
use retry::TimeLimit;
pub(crate) use retry::is_transient;
use start::Opening;
pub(crate) use start::{Link, Opened};

use crate::config::{CLIENT_CHECK, Pooler, ServerTimeout, Settings, TlsMode, since};
use crate::error::{Error, ErrorKind, Phase, Result};
use crate::observe::{self, Peer, span};
use crate::tls;
use crate::wire::Transport;

/// Opens the sessions of a database, and keeps what they have in common.
#[derive(Debug)]
pub struct Connector {
    config: Settings,
    peer: Peer,
    tls: tls::Client,
    warned: Once,
    /// It was reported that the server does not take its timeouts.
    reported: Once,
    /// The server cannot check whether its client is there.
    no_client_check: AtomicBool,
    detection: Detection,
    /// The keys of SCRAM.
    keys: startup::Keys,
    guesses: startup::Guesses,
    /// A session had the `search_path` of the configured schema.
    schema_holds: AtomicBool,
}

impl Connector {
    /// Creates a connector with these settings.
    pub fn new(config: Settings) -> Self {
        let peer = dial::peer(&config.server);
        Connector {
            config,
            peer,
            tls: tls::Client::default(),
            warned: Once::new(),
            reported: Once::new(),
            no_client_check: AtomicBool::new(false),
            detection: Detection::default(),
            keys: startup::Keys::default(),
            guesses: startup::Guesses::default(),
            schema_holds: AtomicBool::new(false),
        }
    }

    /// Returns the server as spans and metrics name it.
    pub(crate) fn peer(&self) -> &Peer {
        &self.peer
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
    ///
    /// Boxed by a function that is not async: the compiler would follow and compile all of it
    /// again wherever a user's future contains a connect.
    pub(crate) fn open<'a>(
        &'a self,
        left: Option<Duration>,
        options: ConnectOptions<'a>,
    ) -> BoxFuture<'a, Result<Opened>> {
        Box::pin(async move {
            span::within(span::connect(&self.peer), self.try_open(left, options)).await
        })
    }

    async fn try_open(
        &self,
        left: Option<Duration>,
        options: ConnectOptions<'_>,
    ) -> Result<Opened> {
        let mut opening = Opening {
            connector: self,
            options,
            time: TimeLimit::new(self.config.connect_timeout, left),
            logins: Logins::new(&self.config),
        };
        let mut backoff = retry::backoff();
        let mut last: Option<Error> = None;
        loop {
            let sent = self.detection.takes_settings();
            let error = match opening.start().await {
                Ok(opened) => return Ok(opened),
                Err(error) => error,
            };
            // A timeout is not an answer: what the server last said still holds.
            if error.kind() == ErrorKind::ConnectTimeout {
                if let Some(answer) = last.take_if(|last| last.sqlstate().is_some()) {
                    return Err(answer);
                }
            }
            let detected = || self.detection.refuses_settings(&self.config, &error, sent);
            if !options.strict && detected() {
                continue;
            }
            if let Some(logins) = &mut opening.logins {
                let renew = logins.renew(&error);
                if let Ok(true) = timeout_at(opening.time.until, renew).await {
                    continue;
                }
            }
            let delay = retry::delay(&error, &opening.time, &mut backoff).filter(|_| !options.once);
            let Some(delay) = delay else {
                return Err(error);
            };
            observe::connecting_again(&error, delay);
            sleep(delay).await;
            // After a freeze, or on a busy machine: it could only time out.
            if opening.time.until <= Instant::now() {
                return Err(error);
            }
            last = Some(error);
        }
    }

    /// Discards secrets, tokens and TLS configurations, which are read again.
    #[cfg(feature = "lambda")]
    pub(crate) fn forget(&self) {
        self.tls.forget();
        self.keys.clear();
        if let Some(credentials) = &self.config.credentials {
            credentials.forget();
        }
    }

    /// Reports, once, how an administrator can set the server's timeouts.
    pub(crate) fn report_server_timeouts(&self, report: impl FnOnce(&str)) {
        self.reported
            .call_once(|| report(&self.config.alter_role()));
    }

    /// Notes that the server cannot check whether its client is there, as on Windows.
    pub(crate) fn refuses_client_check(&self) {
        self.no_client_check.store(true, Ordering::Release);
    }

    /// Returns the timeouts that are set in a session for calls of at most `longest` seconds, on
    /// a server of this `version`.
    pub(crate) fn server_timeouts(&self, longest: u64, version: u32) -> Vec<ServerTimeout> {
        let mut timeouts = self.config.server_timeouts(longest);
        let checks = !self.no_client_check.load(Ordering::Acquire);
        timeouts
            .retain(|timeout| since(timeout.0) <= version && (checks || *timeout != CLIENT_CHECK));
        timeouts
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
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    #[test]
    fn server_is_sent_what_its_version_knows() {
        let settings = Config::from_url("postgres://db.example.com/x").expect("a URL");
        let connector = Connector::new(settings.in_force());
        let sent = |version| {
            let all = connector.server_timeouts(u64::MAX, version).into_iter();
            all.map(|(name, _)| name).collect::<Vec<_>>()
        };
        let [idle, check] = ["idle_session_timeout", CLIENT_CHECK.0];
        let old = ["statement_timeout", "idle_in_transaction_session_timeout"];
        assert_eq!(sent(0), old);
        assert_eq!(sent(13), old);
        assert_eq!(sent(14)[2..], [idle, check]);
        assert_eq!(sent(17)[2..], ["transaction_timeout", idle, check]);
        connector.refuses_client_check();
        assert_eq!(sent(18)[2..], ["transaction_timeout", idle]);
    }
}
