//! A client that speaks the protocol itself: over a connection of its own, or over sessions that
//! are lent to it.

use std::io;
use std::pin::Pin;
use std::task::{Poll, ready};
use std::time::Duration;

use antifreeze::internal::wire::{Diverted, Names, Naming, Stream, Wire};
use bytes::{Buf, BytesMut};
use lab::postgres::{Database, Postgres};
use postgres_protocol::message::frontend;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// A message of the server: its tag and its body.
pub type Message = (u8, Vec<u8>);

/// A session of the server with a wire over it.
pub struct Session {
    pub wire: Wire,
    /// The client that lends it.
    _lender: Stream,
}

impl Session {
    pub async fn open(database: &Database) -> Session {
        let (wire, mut lender) = Wire::new(connected().await, Naming::AsGiven);
        start(&mut lender, database).await;
        Session {
            wire,
            _lender: lender,
        }
    }
}

async fn connected() -> TcpStream {
    let server = Postgres::shared().await.expect("a server");
    let socket = TcpStream::connect(server.address()).await;
    socket.expect("a connection")
}

/// Opens a connection without a wire.
pub async fn plain(database: &Database) -> TcpStream {
    let mut socket = connected().await;
    start(&mut socket, database).await;
    socket
}

async fn start(stream: &mut (impl AsyncRead + AsyncWrite + Unpin), database: &Database) {
    let config: tokio_postgres::Config = database.url.parse().expect("a URL");
    let parameters = [
        ("user", config.get_user().expect("a user")),
        ("database", config.get_dbname().expect("a database")),
    ];
    let mut startup = BytesMut::new();
    frontend::startup_message(parameters, &mut startup).expect("no NUL");
    converse(stream, &startup, 1, 1 << 20).await;
}

/// A client that is lent the sessions.
#[derive(Default)]
pub struct Borrower {
    names: Names,
    /// The session that it could not give back, by its number.
    kept: Option<(usize, Diverted)>,
}

impl Borrower {
    /// Returns the session that the next request has to use, if it keeps one.
    pub fn keeps(&self) -> Option<usize> {
        self.kept.as_ref().map(|(number, _)| *number)
    }

    /// Sends requests to a session, and gives it back if it is at rest.
    pub async fn ask(
        &mut self,
        sessions: &[Session],
        number: usize,
        requests: &[u8],
        syncs: usize,
        cut: usize,
    ) -> Vec<Message> {
        let (number, mut stream) = match self.kept.take() {
            Some(kept) => kept,
            None => {
                let stream = sessions[number].wire.divert().expect("it is idle");
                stream.bring_names(std::mem::take(&mut self.names));
                (number, stream)
            }
        };
        let answers = converse(&mut stream, requests, syncs, cut).await;
        match stream.give_back(false) {
            Some(names) => self.names = names,
            None => self.kept = Some((number, stream)),
        }
        answers
    }
}

/// Sends requests in pieces of `cut` bytes and reads until so many ReadyForQuery have come.
pub async fn converse(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    mut requests: &[u8],
    mut syncs: usize,
    cut: usize,
) -> Vec<Message> {
    let mut read = BytesMut::new();
    let mut messages = Vec::new();
    let all = std::future::poll_fn(|cx| {
        loop {
            while !requests.is_empty() {
                let piece = &requests[..requests.len().min(cut)];
                match Pin::new(&mut *stream).poll_write(cx, piece) {
                    Poll::Ready(sent) => requests = &requests[sent?..],
                    Poll::Pending => break,
                }
            }
            if syncs == 0 && requests.is_empty() {
                return Pin::new(&mut *stream).poll_flush(cx);
            }
            let mut piece = [0; 4_096];
            let mut buf = ReadBuf::new(&mut piece);
            let polled = Pin::new(&mut *stream).poll_read(cx, &mut buf);
            if polled.is_pending() {
                let _ = Pin::new(&mut *stream).poll_flush(cx);
            }
            ready!(polled)?;
            if buf.filled().is_empty() {
                return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
            }
            read.extend_from_slice(buf.filled());
            while let Some(message) = message(&mut read) {
                syncs = syncs.saturating_sub(usize::from(message.0 == b'Z'));
                messages.push(message);
            }
        }
    });
    let limited = tokio::time::timeout(Duration::from_secs(20), all).await;
    let done: io::Result<()> = limited.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
    done.unwrap_or_else(|error| panic!("{error}: {:?}", shown(&messages)));
    messages
}

fn message(read: &mut BytesMut) -> Option<Message> {
    let length = u32::from_be_bytes(read.get(1..5)?.try_into().ok()?) as usize;
    if read.len() < 1 + length {
        return None;
    }
    let mut message = read.split_to(1 + length);
    let tag = message[0];
    message.advance(5);
    Some((tag, message.to_vec()))
}

/// What two servers with the same content say alike: without the texts of errors, and without
/// the numbers of tables.
pub fn shown(messages: &[Message]) -> Vec<String> {
    let told = messages.iter().filter(|(tag, _)| !b"NS".contains(tag));
    told.map(|(tag, body)| match tag {
        b'E' => format!("E {}", error(body)),
        b'T' => format!("T {}", columns(body).escape_ascii()),
        tag => format!("{} {}", char::from(*tag), body.escape_ascii()),
    })
    .collect()
}

/// SQLSTATE and position.
fn error(body: &[u8]) -> String {
    let fields = body.split(|&byte| byte == 0);
    let told = fields.filter(|field| matches!(field.first(), Some(b'C' | b'P')));
    let told: Vec<_> = told
        .map(|field| String::from_utf8_lossy(field).into_owned())
        .collect();
    told.join(" ")
}

/// A RowDescription without the numbers of the tables.
fn columns(body: &[u8]) -> Vec<u8> {
    let mut out = body.to_vec();
    let mut at = 2;
    while let Some(end) = out[at..].iter().position(|&byte| byte == 0) {
        let table = at + end + 1;
        out[table..table + 4].fill(0);
        at = table + 18;
    }
    out
}
