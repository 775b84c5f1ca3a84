//! Lends a session to a driver, and passes on what both say until it is given back.

use std::future::{Future, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};

use bytes::{Buf, Bytes, BytesMut};
use futures_util::future::OptionFuture;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::Mutex;

use super::Parameters;
use super::answer;
use super::message::{self, Head};
use super::peer::Peer;
use crate::error::{Error, ErrorKind, Result};
use crate::invocation::{
    CancelToken, Connection, DivertedTransaction, HasEnded, Invocation, WeakInvocation,
};
use crate::wire::{Diverted, Names};

/// How much is read before it is passed on.
const BUFFER: usize = 64 * 1024;

/// The least space to read into.
const READ: usize = 8 * 1024;

/// How a loan ends.
pub(super) enum End {
    /// The session is at rest, and was given back.
    AtRest,
    /// The driver has ended its connection.
    Closed,
    /// The invocation has ended.
    TakenBack {
        /// The driver was given whole messages only, and can be told why.
        answerable: bool,
        /// It waits for an answer.
        waits: bool,
        /// It was in no transaction.
        idle: bool,
    },
    /// The driver has asked for what is not possible here, and may go on.
    Declined(Error),
    /// The same, and its connection has to be ended.
    Refused(Error),
}

/// A session that is lent to a driver.
pub(super) struct Loan {
    invocation: WeakInvocation,
    source: Source,
    stream: Diverted,
}

enum Source {
    Connection(Connection),
    Transaction(DivertedTransaction),
}

impl Loan {
    /// Lends the session of a connection of the invocation.
    pub(super) async fn of_connection(
        invocation: &Invocation,
        parameters: &Parameters,
    ) -> Result<Loan> {
        let mut connection = invocation.lease_for_driver(&"another driver").await?;
        connection.prepare(parameters).await?;
        let stream = connection.divert().await.ok_or_else(lost)?;
        Ok(Loan {
            invocation: invocation.downgrade(),
            source: Source::Connection(connection),
            stream,
        })
    }

    /// Lends the session of the invocation's transaction, which is given back after each answer.
    pub(super) async fn of_transaction(
        invocation: &Invocation,
        parameters: &Parameters,
    ) -> Result<Loan> {
        let (transaction, stream) = invocation.divert_transaction(parameters).await?;
        Ok(Loan {
            invocation: invocation.downgrade(),
            source: Source::Transaction(transaction),
            stream,
        })
    }

    /// Returns what the server reports at the start of a session with these parameters.
    pub(super) async fn reported(
        invocation: &Invocation,
        parameters: &Parameters,
    ) -> Result<Bytes> {
        let connection = invocation.lease_for_driver(&"another driver").await?;
        connection.prepare(parameters).await?;
        Ok(connection.reported())
    }

    pub(super) fn cancel_token(&self) -> Cancel {
        match &self.source {
            Source::Connection(connection) => Cancel {
                token: connection.cancel_token(),
                has_ended: None,
            },
            Source::Transaction(transaction) => Cancel {
                token: transaction.cancel_token(),
                has_ended: Some(transaction.has_ended()),
            },
        }
    }

    /// Returns the process id of the server's backend, if the session is no transaction's.
    pub(super) fn process(&self) -> Option<i32> {
        match &self.source {
            Source::Connection(connection) => Some(connection.process_id()),
            Source::Transaction(_) => None,
        }
    }

    /// Returns what the server reports at the start of a session like this one.
    pub(super) fn reports(&self) -> Bytes {
        match &self.source {
            Source::Connection(connection) => connection.reported(),
            Source::Transaction(_) => Bytes::new(),
        }
    }
}

/// Cancels the statement that a driver executes.
#[derive(Clone)]
pub(super) struct Cancel {
    token: CancelToken,
    /// Of the turn in the invocation's transaction.
    has_ended: Option<HasEnded>,
}

impl Cancel {
    /// Sends a CancelRequest, unless the session was given back.
    pub(super) async fn send(&self) -> Result<()> {
        let has_ended = self.has_ended.as_deref().map(Mutex::lock);
        let has_ended = OptionFuture::from(has_ended).await;
        if has_ended.as_deref() == Some(&true) {
            return Ok(());
        }
        self.token.cancel().await
    }
}

impl Source {
    /// Gives the session back if nothing of the driver is left in it. Inside the invocation's
    /// transaction that is so after each answer; there it is given back at the end of the loan.
    fn give_back(&self, stream: &Diverted) -> Option<Names> {
        match self {
            Source::Connection(connection) => connection.give_back(stream),
            Source::Transaction(_) => {
                let free = stream.is_answered() && !stream.is_taken_back();
                free.then(Names::default)
            }
        }
    }
}

/// Passes on what the driver and the server say, until the session is at rest or the loan
/// ends otherwise.
///
/// The session is given back before the driver is sent the last bytes of the answer: once it
/// has them, the handler may return, and finds nothing in use.
pub(super) async fn relay(
    peer: &mut Peer,
    loan: Loan,
    guards: bool,
    mut claim: impl FnMut(&str) -> Option<WeakInvocation>,
) -> End {
    let Loan {
        invocation,
        source,
        mut stream,
    } = loan;
    let mut relay = Relay {
        invocation,
        up: BytesMut::new(),
        pass: 0,
        skip: 0,
        wants: 0,
        waits: false,
        guards,
    };
    stream.bring_names(std::mem::take(&mut peer.names));
    let mut end = poll_fn(|cx| relay.poll(peer, &source, &mut stream, &mut claim, cx)).await;
    if let (Source::Transaction(transaction), End::AtRest | End::Declined(_)) = (&source, &end) {
        transaction.end_turn().await;
        match stream.give_back(true) {
            Some(names) => peer.names = names,
            None => {
                end = End::TakenBack {
                    answerable: stream.is_whole() && !stream.is_ended(),
                    waits: matches!(end, End::Declined(_)),
                    idle: stream.was_idle(),
                }
            }
        }
    }
    drop(stream);
    match (source, &end) {
        (Source::Connection(connection), End::AtRest | End::Declined(_)) => drop(connection),
        // Also if it was taken back: by the server, it has to be closed here.
        (Source::Connection(connection), _) => connection.rest().await,
        (Source::Transaction(transaction), End::AtRest | End::Declined(_)) => {
            transaction.give_back();
        }
        (Source::Transaction(transaction), _) => transaction.cut_off(),
    }
    end
}

/// Passes messages between a driver and a session.
struct Relay {
    invocation: WeakInvocation,
    /// What the session has yet to be sent.
    up: BytesMut,
    /// Bytes of the current message that are passed on unread.
    pass: usize,
    /// Bytes of the current message that are ignored.
    skip: usize,
    /// The length of a message that has to be whole before it is passed on.
    wants: usize,
    /// The last request has not had all its answers.
    waits: bool,
    /// Transactions of the driver are refused.
    guards: bool,
}

impl Relay {
    fn poll(
        &mut self,
        peer: &mut Peer,
        source: &Source,
        stream: &mut Diverted,
        claim: &mut impl FnMut(&str) -> Option<WeakInvocation>,
        cx: &mut Context<'_>,
    ) -> Poll<End> {
        loop {
            let mut progress = false;
            // To the driver. While it does not read, nothing is read for it.
            while !peer.down.is_empty() {
                match poll_write(&mut peer.socket, &mut peer.down, cx) {
                    Poll::Ready(Ok(sent)) if sent > 0 => progress = true,
                    Poll::Ready(_) => return Poll::Ready(End::Closed),
                    Poll::Pending => break,
                }
            }
            if stream.is_taken_back() || peer.down.len() < BUFFER {
                match poll_read(stream, &mut peer.down, cx) {
                    Poll::Ready(Ok(read)) if read > 0 => progress = true,
                    Poll::Ready(_) => {
                        return Poll::Ready(End::TakenBack {
                            answerable: stream.is_whole() && !stream.is_ended(),
                            waits: self.waits || !self.is_between(peer),
                            idle: stream.was_idle(),
                        });
                    }
                    Poll::Pending => {}
                }
                self.waits &= !stream.is_answered();
                if self.gives_back(peer, source, stream) {
                    return Poll::Ready(End::AtRest);
                }
            }
            // To the server. A claim is answered here.
            let before = (peer.up.len(), peer.down.len());
            match self.take(peer, stream, claim) {
                Ok(true) if (peer.up.len(), peer.down.len()) != before => {
                    if self.gives_back(peer, source, stream) {
                        return Poll::Ready(End::AtRest);
                    }
                    progress = true;
                }
                Ok(true) => {}
                Ok(false) => return Poll::Ready(End::Closed),
                Err(error) => {
                    let whole = self.up.is_empty() && self.pass == 0;
                    let names = whole.then(|| source.give_back(stream));
                    return Poll::Ready(match names.flatten() {
                        Some(names) => {
                            peer.names = names;
                            End::Declined(error)
                        }
                        None => End::Refused(error),
                    });
                }
            }
            while !self.up.is_empty() {
                match poll_write(stream, &mut self.up, cx) {
                    Poll::Ready(Ok(sent)) if sent > 0 => progress = true,
                    _ => break,
                }
            }
            if self.up.is_empty() {
                let _ = Pin::new(&mut *stream).poll_flush(cx);
            }
            if self.up.is_empty() && peer.up.len() < BUFFER.max(self.wants) {
                match poll_read(&mut peer.socket, &mut peer.up, cx) {
                    Poll::Ready(Ok(read)) if read > 0 => progress = true,
                    Poll::Ready(_) => return Poll::Ready(End::Closed),
                    Poll::Pending => {}
                }
            }
            if !progress {
                return Poll::Pending;
            }
        }
    }

    /// Gives the session back if nothing of the driver is left here or in it.
    fn gives_back(&self, peer: &mut Peer, source: &Source, stream: &Diverted) -> bool {
        let names = self.is_between(peer).then(|| source.give_back(stream));
        let names = names.flatten().map(|names| peer.names = names);
        names.is_some()
    }

    /// Returns whether everything of the driver was passed on, up to the end of a message.
    fn is_between(&self, peer: &Peer) -> bool {
        self.up.is_empty() && self.pass == 0 && self.skip == 0 && peer.up.is_empty()
    }

    /// Takes what can be passed on from what the driver has sent. Returns false at its Terminate,
    /// which is not for the session.
    fn take(
        &mut self,
        peer: &mut Peer,
        stream: &Diverted,
        claim: &mut impl FnMut(&str) -> Option<WeakInvocation>,
    ) -> Result<bool> {
        while !peer.up.is_empty() && self.up.len() < BUFFER {
            if self.skip > 0 {
                let now = self.skip.min(peer.up.len());
                peer.up.advance(now);
                self.skip -= now;
                continue;
            }
            if self.pass == 0 {
                let Some(head) = Head::read(&peer.up)? else {
                    break;
                };
                if head.tag == b'X' {
                    return Ok(false);
                }
                if self.guards && head.tag == b'F' {
                    return Err(function_call());
                }
                // Whether the server still waits for it is known behind what precedes it.
                if matches!(head.tag, b'c' | b'f') && !self.up.is_empty() {
                    break;
                }
                // What a driver still sends of a COPY that has failed, which the server ignores.
                let ignored = matches!(head.tag, b'd' | b'c' | b'f');
                if ignored && self.up.is_empty() && stream.is_answered() {
                    self.skip = head.length;
                    continue;
                }
                let looks = (head.tag == b'Q' && head.is_short())
                    || (self.guards && matches!(head.tag, b'Q' | b'P'));
                if looks {
                    self.wants = head.length;
                    let Some(message) = peer.up.get(..head.length) else {
                        break;
                    };
                    if self.guards && message::controls_transaction(message) {
                        return Err(controls());
                    }
                    if let Some(token) = message::claim(message).map(str::to_owned) {
                        // Its answer comes behind those of the messages in front of it.
                        if !self.up.is_empty() || !stream.is_answered() {
                            break;
                        }
                        // What is left in the session is another invocation's.
                        if !claim(&token).is_some_and(|claims| claims.is_same(&self.invocation)) {
                            return Err(Error::invocation_ended());
                        }
                        peer.up.advance(head.length);
                        peer.down.extend_from_slice(answer::SET);
                        answer::ready(stream.status(), &mut peer.down);
                        continue;
                    }
                }
                self.pass = head.length;
                self.wants = 0;
                self.waits = true;
            }
            let now = self.pass.min(peer.up.len());
            self.up.unsplit(peer.up.split_to(now));
            self.pass -= now;
        }
        Ok(true)
    }
}

fn poll_read(
    from: &mut (impl AsyncRead + Unpin),
    to: &mut BytesMut,
    cx: &mut Context<'_>,
) -> Poll<io::Result<usize>> {
    to.reserve(READ);
    pin!(from.read_buf(to)).poll(cx)
}

fn poll_write(
    to: &mut (impl AsyncWrite + Unpin),
    from: &mut BytesMut,
    cx: &mut Context<'_>,
) -> Poll<io::Result<usize>> {
    pin!(to.write_buf(from)).poll(cx)
}

/// A driver begins or ends a transaction inside that of the invocation.
fn controls() -> Error {
    Error::new(
        ErrorKind::TransactionInUse,
        "this URL's statements are part of the invocation's transaction, which the response ends: \
         a COMMIT of the driver would store nothing",
    )
    .with_remedy(
        "use SAVEPOINT here, or take `Invocation::url` for transactions of the driver's own",
    )
}

/// BEGIN cannot be put in front of a FunctionCall.
fn function_call() -> Error {
    Error::configuration("large objects by libpq's own functions are no part of the transaction")
        .with_remedy("use their SQL functions (lo_create, lo_put), or `Invocation::url`")
}

fn lost() -> Error {
    Error::caused(ErrorKind::Closed, "the connection was lost")
}
