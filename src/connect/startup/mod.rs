//! Starts a session: the startup packet and authentication (manual, "Start-up").
//!
//! tokio-postgres waits for the server's request before it begins SCRAM. Here the first SCRAM
//! message leaves together with the startup packet, which saves a round trip if the server does
//! ask for SCRAM. tokio-postgres is then given a connection that is [authenticated](Resumed)
//! already, or the error that the server sent.
//!
//! - [`guess`] remembers what a server asked for last;
//! - [`guard`] restricts what the server may ask for;
//! - [`scram`] proves the password, with the [`keys`] derived from it;
//! - [`messages`] reads and writes the messages;
//! - [`resumed`] hands the connection on.

#[cfg(fuzzing)]
pub mod fuzzing;
mod guard;
mod guess;
mod keys;
mod messages;
mod resumed;
mod scram;
#[cfg(test)]
mod tests;

use std::io;
use std::time::Duration;

use bytes::{BufMut, BytesMut};
use postgres_protocol::authentication::md5_hash;
use postgres_protocol::message::frontend;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::config::Method;
use crate::provider;
pub(super) use guard::{Guard, Refusal};
pub(super) use guess::Guesses;
pub use keys::Keys;
use messages::{Message, Messages};
pub use resumed::Resumed;
use scram::Exchange;
pub use scram::Mechanism;
pub(super) use scram::ScramError;

/// The kinds of authentication messages: AuthenticationOk, AuthenticationSASLContinue,
/// AuthenticationSASLFinal.
const OK: i32 = 0;
const SASL_CONTINUE: i32 = 11;
const SASL_FINAL: i32 = 12;

/// AuthenticationOk.
const AUTHENTICATED: &[u8] = b"R\0\0\0\x08\0\0\0\0";

/// `protocol_violation`: some poolers report a message that they did not expect.
const PROTOCOL_VIOLATION: &[u8] = b"C08P01";

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
    Final(Message),
}

/// What the server asks for.
enum Request {
    /// Nothing: the client is let in.
    Nothing,
    Password,
    Md5([u8; 4]),
    /// SASL, with these mechanisms.
    Sasl {
        scram: bool,
        plus: bool,
    },
    /// A method that tokio-postgres does not support either.
    Unsupported,
}

impl Started {
    /// Hands the connection on.
    pub(super) fn resume<T>(self, transport: T) -> Resumed<T> {
        Resumed::new(transport, self.answer, self.error)
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
            Err(Failure::Final(message)) => answer.put_slice(&message.bytes),
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
        if first.tag == b'E' {
            return Err(if guessed.is_some() && is_unexpected(first.body()) {
                Failure::WrongGuess
            } else {
                Failure::Final(first)
            });
        }
        let request = Request::parse(first.body())?;
        self.check(&request).map_err(Failure::Refused)?;
        let answer = match (request, password) {
            (Request::Sasl { scram, plus }, Some(password)) if scram || plus => {
                let mechanism = match self.binding {
                    Some(_) if plus => Mechanism::ScramPlus,
                    _ => Mechanism::Scram,
                };
                self.scram(messages, mechanism, guessed, password).await?;
                return Ok(Some(mechanism));
            }
            (Request::Unsupported | Request::Sasl { .. }, _) => return Err(Failure::Final(first)),
            _ if guessed.is_some() => return Err(Failure::WrongGuess),
            (Request::Nothing, _) => return Ok(None),
            (Request::Password, Some(password)) => password.to_owned(),
            (Request::Md5(salt), Some(password)) => {
                md5_hash(self.user.as_bytes(), password, salt).into_bytes()
            }
            (Request::Password | Request::Md5(_), None) => return Err(Failure::Final(first)),
        };
        out.clear();
        frontend::password_message(&answer, &mut out).map_err(Failure::Encode)?;
        let answered = messages.exchange(&out).await?;
        expect(answered, OK)?;
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
        let server_first = expect(server_first, SASL_CONTINUE)?;
        let proven = exchange.prove(&server_first.body()[4..], password, self.keys);
        let (last, proven) = proven.map_err(Failure::Scram)?;
        out.clear();
        frontend::sasl_response(last.as_bytes(), &mut out).map_err(Failure::Encode)?;
        let server_final = expect(messages.exchange(&out).await?, SASL_FINAL)?;
        let verified = proven.verify(&server_final.body()[4..]);
        verified.map_err(Failure::Scram)?;
        expect(messages.receive().await?, OK)?;
        Ok(())
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

    fn check(&self, request: &Request) -> Result<(), Refusal> {
        match request {
            Request::Nothing => self.guard.check(Method::None),
            Request::Password => self.guard.check(Method::Password),
            Request::Md5(_) => self.guard.check(Method::Md5),
            Request::Sasl { plus, .. } => match self.guard.check(Method::Scram) {
                Ok(()) if self.guard.bound && !plus => Err(Refusal::Unbound),
                checked => checked,
            },
            Request::Unsupported => Ok(()),
        }
    }
}

impl Request {
    /// Parses the body of an authentication request.
    fn parse(body: &[u8]) -> Result<Self, Failure> {
        let (kind, rest) = body.split_first_chunk().ok_or(Failure::Unclear)?;
        Ok(match i32::from_be_bytes(*kind) {
            OK => Request::Nothing,
            3 => Request::Password,
            5 => Request::Md5(rest.try_into().map_err(|_| Failure::Unclear)?),
            10 => {
                let offers = |mechanism: Mechanism| {
                    let mut names = rest.split(|&byte| byte == 0);
                    names.any(|name| name == mechanism.name().as_bytes())
                };
                Request::Sasl {
                    scram: offers(Mechanism::Scram),
                    plus: offers(Mechanism::ScramPlus),
                }
            }
            1..=9 => Request::Unsupported,
            _ => return Err(Failure::Unclear),
        })
    }
}

/// Returns whether an error says that the server did not expect the message that was guessed.
/// PgBouncer refuses the parameters of a startup packet with the same SQLSTATE.
fn is_unexpected(error: &[u8]) -> bool {
    let mut fields = error.split(|&byte| byte == 0);
    let text = fields.clone().find_map(|field| field.strip_prefix(b"M"));
    let text = String::from_utf8_lossy(text.unwrap_or_default());
    fields.any(|field| field == PROTOCOL_VIOLATION) && !provider::refuses_settings(&text)
}

/// Expects an authentication message of this kind.
fn expect(message: Message, kind: i32) -> Result<Message, Failure> {
    match message.tag {
        b'E' => Err(Failure::Final(message)),
        _ if message.body().starts_with(&kind.to_be_bytes()) => Ok(message),
        _ => Err(Failure::Violation),
    }
}

/// Writes SASLInitialResponse.
fn put_first(exchange: &Exchange<'_>, out: &mut BytesMut) -> Result<(), Failure> {
    let (mechanism, first) = (exchange.mechanism.name(), exchange.first());
    frontend::sasl_initial_response(mechanism, first.as_bytes(), out).map_err(Failure::Encode)
}
