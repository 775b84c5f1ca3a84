//! Starts a session: the startup packet and authentication (manual, "Start-up").
//!
//! tokio-postgres waits for the server's request before it begins SCRAM. Here the first SCRAM
//! message is sent together with the startup packet, which saves a round trip if the server does
//! ask for SCRAM. tokio-postgres is then given a connection that is
//! [authenticated](Wire::authenticated) already, or the error that the server sent.
//!
//! - [`guess`] remembers what a server asked for last;
//! - [`guard`] restricts what the server may ask for;
//! - [`scram`] proves the password, with the [`keys`] derived from it;
//! - [`messages`] reads and writes the messages.

#[cfg(fuzzing)]
pub mod fuzzing;
mod guard;
mod guess;
mod keys;
mod messages;
mod scram;
#[cfg(test)]
mod tests;

use std::io;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use postgres_protocol::authentication::md5_hash;
use postgres_protocol::message::backend::{AuthenticationSaslBody, Message};
use postgres_protocol::message::frontend;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_postgres::fallible_iterator::FallibleIterator;

use crate::config::Method;
use crate::provider;
use crate::wire::message::{AUTHENTICATED, field};
use crate::wire::{Naming, Stream, Transport, Wire};
pub(super) use guard::{Guard, Refusal};
pub(super) use guess::Guesses;
pub use keys::Keys;
use messages::Messages;
use scram::Exchange;
pub use scram::Mechanism;
pub(super) use scram::ScramError;

/// `protocol_violation`: some poolers report a message that they did not expect.
const PROTOCOL_VIOLATION: &[u8] = b"08P01";

/// The start of one session.
pub(super) struct Startup<'a> {
    pub(super) server: &'a tokio_postgres::Config,
    pub(super) user: &'a str,
    /// The channel binding `tls-server-end-point`, if there is one and it is not disabled.
    pub(super) binding: Option<&'a [u8]>,
    pub(super) guard: Guard<'a>,
    /// The mechanism that the server is expected to ask for.
    pub(super) guess: Option<Mechanism>,
    pub(super) keys: &'a Keys,
}

/// The start of a session as far as tokio-postgres does not see it, and the rest.
#[derive(Debug)]
pub(super) struct Started {
    /// The server's messages.
    answer: BytesMut,
    /// The error that the connection broke with.
    error: Option<io::Error>,
    /// What the server asked for, if it let the client in: a mechanism, or something else.
    pub(super) asked: Option<Option<Mechanism>>,
    /// The shortest time in which the server answered.
    pub(super) shortest: Option<Duration>,
}

/// Why a session was not started, if not by an error that the server sent.
#[derive(Debug)]
pub(super) enum Failure {
    /// The server does not ask for what was guessed.
    WrongGuess,
    /// The server asks for what is not permitted.
    Refused(Refusal),
    /// SCRAM failed on this side.
    Scram(ScramError),
    /// The answer is not a message of PostgreSQL's protocol.
    Unclear,
    /// A message of PostgreSQL came out of order.
    Violation,
    /// The server closed the connection.
    Closed,
    /// The connection broke.
    Io(io::Error),
    /// The startup packet cannot be encoded.
    Encode(io::Error),
    /// The message that tokio-postgres is to judge: an error of the server, or a request that
    /// cannot be answered.
    Final(Bytes),
}

impl Started {
    /// Hands the connection on.
    pub(super) fn resume(
        self,
        transport: impl Transport + 'static,
        naming: Naming,
    ) -> (Wire, Stream) {
        let transport = self.error.map_or(Ok(transport), Err);
        Wire::authenticated(transport, naming, self.answer)
    }
}

impl Startup<'_> {
    /// Starts the session, up to AuthenticationOk.
    pub(super) async fn run<T>(&self, transport: &mut T) -> Result<Started, Failure>
    where
        T: AsyncRead + AsyncWrite + Unpin,
    {
        let mut messages = Messages::new(transport);
        let mut answer = BytesMut::new();
        let (mut error, mut asked) = (None, None);
        match self.authenticate(&mut messages).await {
            Ok(mechanism) => {
                asked = Some(mechanism);
                answer.put_slice(AUTHENTICATED);
                answer.unsplit(messages.notices);
                answer.unsplit(messages.received);
            }
            Err(Failure::Final(message)) => answer.put_slice(&message),
            Err(Failure::Io(broken)) => error = Some(broken),
            Err(Failure::Closed) => {}
            Err(failure) => return Err(failure),
        }
        Ok(Started {
            answer,
            error,
            asked,
            shortest: messages.shortest,
        })
    }

    /// Returns the SASL mechanism that the server asked for, if it did.
    async fn authenticate<T>(
        &self,
        messages: &mut Messages<'_, T>,
    ) -> Result<Option<Mechanism>, Failure>
    where
        T: AsyncRead + AsyncWrite + Unpin,
    {
        let mut out = BytesMut::new();
        self.put_startup_packet(&mut out)?;
        let password = self.server.get_password();
        let guess = self.guess.filter(|_| password.is_some());
        let guessed = guess.and_then(|mechanism| Exchange::new(mechanism, self.binding));
        if let Some(exchange) = &guessed {
            put_first(exchange, &mut out)?;
        }
        let first = match messages.exchange(&out).await {
            // Some poolers and proxies close the connection on a message that they do not expect.
            Err(Failure::Io(_) | Failure::Closed) if guessed.is_some() => {
                return Err(Failure::WrongGuess);
            }
            first => first?,
        };
        let method = match &first.message {
            Message::ErrorResponse(_) if guessed.is_some() && is_unexpected(&first.bytes[5..]) => {
                return Err(Failure::WrongGuess);
            }
            Message::AuthenticationOk => Method::None,
            Message::AuthenticationCleartextPassword => Method::Password,
            Message::AuthenticationMd5Password(_) => Method::Md5,
            Message::AuthenticationSasl(_) => Method::Scram,
            Message::AuthenticationSaslContinue(_) | Message::AuthenticationSaslFinal(_) => {
                return Err(Failure::Unclear);
            }
            // An error, or a method that tokio-postgres does not support either.
            _ => return Err(Failure::Final(first.bytes)),
        };
        self.guard.check(method).map_err(Failure::Refused)?;
        let answer = match (&first.message, password) {
            (Message::AuthenticationSasl(body), password) => {
                let offered = mechanisms(body);
                let plus = offered.contains(&Mechanism::ScramPlus);
                if self.guard.bound && !plus {
                    return Err(Failure::Refused(Refusal::Unbound));
                }
                let Some(password) = password.filter(|_| !offered.is_empty()) else {
                    return Err(Failure::Final(first.bytes));
                };
                let mechanism = match self.binding {
                    Some(_) if plus => Mechanism::ScramPlus,
                    _ => Mechanism::Scram,
                };
                self.scram(messages, mechanism, guessed, password).await?;
                return Ok(Some(mechanism));
            }
            _ if guessed.is_some() => return Err(Failure::WrongGuess),
            (Message::AuthenticationOk, _) => return Ok(None),
            (_, None) => return Err(Failure::Final(first.bytes)),
            (Message::AuthenticationMd5Password(body), Some(password)) => {
                md5_hash(self.user.as_bytes(), password, body.salt()).into_bytes()
            }
            (_, Some(password)) => password.to_owned(),
        };
        out.clear();
        frontend::password_message(&answer, &mut out).map_err(Failure::Encode)?;
        messages.exchange(&out).await?.expect_ok()?;
        Ok(None)
    }

    /// Proves the password by SCRAM, and has the server prove that it knows it.
    async fn scram<T>(
        &self,
        messages: &mut Messages<'_, T>,
        mechanism: Mechanism,
        guessed: Option<Exchange<'_>>,
        password: &[u8],
    ) -> Result<(), Failure>
    where
        T: AsyncRead + AsyncWrite + Unpin,
    {
        let mut out = BytesMut::new();
        let (exchange, server_first) = match guessed {
            Some(exchange) if exchange.mechanism == mechanism => {
                (exchange, messages.receive().await?)
            }
            Some(_) => return Err(Failure::WrongGuess),
            None => {
                let exchange = Exchange::new(mechanism, self.binding);
                let exchange = exchange.ok_or(Failure::Scram(ScramError::Random))?;
                put_first(&exchange, &mut out)?;
                (exchange, messages.exchange(&out).await?)
            }
        };
        let Message::AuthenticationSaslContinue(body) = &server_first.message else {
            return Err(server_first.unexpected());
        };
        let proven = exchange.prove(body.data(), password, self.keys);
        let (last, proven) = proven.map_err(Failure::Scram)?;
        out.clear();
        frontend::sasl_response(last.as_bytes(), &mut out).map_err(Failure::Encode)?;
        let server_final = messages.exchange(&out).await?;
        let Message::AuthenticationSaslFinal(body) = &server_final.message else {
            return Err(server_final.unexpected());
        };
        proven.verify(body.data()).map_err(Failure::Scram)?;
        messages.receive().await?.expect_ok()
    }

    /// Writes the startup packet, with the parameters of tokio-postgres.
    fn put_startup_packet(&self, out: &mut BytesMut) -> Result<(), Failure> {
        let optional = [
            ("database", self.server.get_dbname()),
            ("options", self.server.get_options()),
            ("application_name", self.server.get_application_name()),
        ];
        let optional = optional
            .into_iter()
            .filter_map(|(name, value)| Some((name, value?)));
        let parameters = [("client_encoding", "UTF8"), ("user", self.user)];
        frontend::startup_message(parameters.into_iter().chain(optional), out)
            .map_err(Failure::Encode)
    }
}

/// Returns those SASL mechanisms that a server offers and that are known here.
fn mechanisms(body: &AuthenticationSaslBody) -> Vec<Mechanism> {
    let known = |name: &str| {
        let all = [Mechanism::Scram, Mechanism::ScramPlus];
        Ok(all.into_iter().find(|known| known.name() == name))
    };
    let mut names = body.mechanisms().filter_map(known);
    std::iter::from_fn(|| names.next().ok().flatten()).collect()
}

/// Returns whether an error says that the server did not expect the message that was guessed.
/// PgBouncer refuses the parameters of a startup packet with the same SQLSTATE.
fn is_unexpected(error: &[u8]) -> bool {
    let text = String::from_utf8_lossy(field(error, b'M').unwrap_or_default());
    field(error, b'C') == Some(PROTOCOL_VIOLATION) && !provider::refuses_settings(&text)
}

/// Writes SASLInitialResponse.
fn put_first(exchange: &Exchange<'_>, out: &mut BytesMut) -> Result<(), Failure> {
    let (mechanism, first) = (exchange.mechanism.name(), exchange.first());
    frontend::sasl_initial_response(mechanism, first.as_bytes(), out).map_err(Failure::Encode)
}
