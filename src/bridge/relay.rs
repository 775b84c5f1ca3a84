//! Lends a session to a driver, and passes messages between both until it is given back.

use std::future::{Future, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};

use bytes::{Buf, Bytes, BytesMut};
use futures_util::future::OptionFuture;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::Mutex;
use tokio::time::{Sleep, sleep};

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
pub(super) enum LoanEnd {
    /// The session is at rest, and was given back.
    AtRest,
    /// The driver has ended its connection, and left something in the session.
    Closed,
    /// The invocation has ended.
    TakenBack(Notice),
    /// The driver has asked for what is not possible here, and may go on.
    Declined(Error),
    /// The same, and its connection has to be ended.
    Refused(Error),
}

/// When a driver gets the error that its session was taken back.
pub(super) enum Notice {
    /// Now: it waits for an answer.
    AtOnce,
    /// It is inside a transaction, and waits for nothing.
    AtNextMessage,
    /// Not at all. A driver outside any transaction finds its connection closed, as pools that do
    /// not test connections notice. In the middle of a message it could not understand an error.
    None,
}

impl Notice {
    fn of(stream: &Diverted, waits: bool) -> Self {
        if !stream.is_whole() || stream.is_ended() {
            Notice::None
        } else if waits {
            Notice::AtOnce
        } else if stream.was_idle() {
            Notice::None
        } else {
            Notice::AtNextMessage
        }
    }
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
        let stream = connection.divert().await.ok_or_else(Error::lost)?;
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

    /// Gives the session back if nothing of the driver is left in it. Inside the invocation's
    /// transaction that is so after each answer; there it is given back at the end of the loan.
    fn give_back(&self) -> Option<Names> {
        match &self.source {
            Source::Connection(connection) => connection.give_back(&self.stream),
            Source::Transaction(_) => {
                let free = self.stream.is_answered() && !self.stream.is_taken_back();
                free.then(Names::default)
            }
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

/// Passes on the messages of the driver and the server, until the session is at rest or the loan
/// ends otherwise.
///
/// The session is given back before the driver is sent the last bytes of the answer: once it
/// has them, the handler may return, and finds nothing in use.
pub(super) async fn relay(
    peer: &mut Peer,
    loan: Loan,
    guards: bool,
    claim: impl FnMut(&str) -> Option<WeakInvocation>,
) -> LoanEnd {
    loan.stream.bring_names(std::mem::take(&mut peer.names));
    let mut relay = Relay {
        peer,
        loan,
        claim,
        up: BytesMut::new(),
        pass: 0,
        skip: 0,
        wants: 0,
        waits: false,
        leaves: None,
        guards,
    };
    let mut end = poll_fn(|cx| relay.poll(cx)).await;
    let Loan { source, stream, .. } = relay.loan;
    if let (Source::Transaction(transaction), LoanEnd::AtRest | LoanEnd::Declined(_)) =
        (&source, &end)
    {
        transaction.end_turn().await;
        match stream.give_back(true) {
            Some(names) => peer.names = names,
            None => {
                let waits = matches!(end, LoanEnd::Declined(_));
                end = LoanEnd::TakenBack(Notice::of(&stream, waits));
            }
        }
    }
    drop(stream);
    match (source, &end) {
        (Source::Connection(connection), LoanEnd::AtRest | LoanEnd::Declined(_)) => {
            drop(connection)
        }
        // Also if it was taken back: by the server, it has to be closed here.
        (Source::Connection(connection), _) => connection.rest().await,
        (Source::Transaction(transaction), LoanEnd::AtRest | LoanEnd::Declined(_)) => {
            transaction.give_back();
        }
        (Source::Transaction(transaction), _) => transaction.cut_off(),
    }
    end
}

/// Passes messages between a driver and a session.
struct Relay<'a, C> {
    peer: &'a mut Peer,
    loan: Loan,
    /// Finds the invocation that claims the connection.
    claim: C,
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
    /// The driver has ended its connection: until then the answers that it is owed are awaited.
    leaves: Option<Pin<Box<Sleep>>>,
    /// Transactions of the driver are refused.
    guards: bool,
}

impl<C: FnMut(&str) -> Option<WeakInvocation>> Relay<'_, C> {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<LoanEnd> {
        loop {
            let mut progress = false;
            // To the driver. While it does not read, nothing is read for it.
            while !self.peer.down.is_empty() {
                match poll_write(&mut self.peer.socket, &mut self.peer.down, cx) {
                    Poll::Ready(Ok(sent)) if sent > 0 => progress = true,
                    Poll::Ready(_) => {
                        self.leave();
                        self.peer.down.clear();
                    }
                    Poll::Pending => break,
                }
            }
            if self.loan.stream.is_taken_back() || self.peer.down.len() < BUFFER {
                match poll_read(&mut self.loan.stream, &mut self.peer.down, cx) {
                    Poll::Ready(Ok(read)) if read > 0 => progress = true,
                    Poll::Ready(_) => {
                        let waits = self.waits || !self.is_between();
                        let notice = Notice::of(&self.loan.stream, waits);
                        return Poll::Ready(LoanEnd::TakenBack(notice));
                    }
                    Poll::Pending => {}
                }
                self.waits &= !self.loan.stream.is_answered();
                if self.gives_back() {
                    return Poll::Ready(LoanEnd::AtRest);
                }
            }
            // To the server. A claim is answered here.
            let before = (self.peer.up.len(), self.peer.down.len());
            let taken = self.take();
            let took = (self.peer.up.len(), self.peer.down.len()) != before;
            progress |= took;
            match taken {
                Ok(()) if took && self.gives_back() => return Poll::Ready(LoanEnd::AtRest),
                Ok(()) => {}
                Err(error) => {
                    let whole = self.up.is_empty() && self.pass == 0;
                    let names = whole.then(|| self.loan.give_back());
                    return Poll::Ready(match names.flatten() {
                        Some(names) => {
                            self.peer.names = names;
                            LoanEnd::Declined(error)
                        }
                        None => LoanEnd::Refused(error),
                    });
                }
            }
            while !self.up.is_empty() {
                match poll_write(&mut self.loan.stream, &mut self.up, cx) {
                    Poll::Ready(Ok(sent)) if sent > 0 => progress = true,
                    _ => break,
                }
            }
            if self.up.is_empty() {
                let _ = Pin::new(&mut self.loan.stream).poll_flush(cx);
            }
            let reads = self.up.is_empty() && self.peer.up.len() < BUFFER.max(self.wants);
            if reads && self.leaves.is_none() {
                match poll_read(&mut self.peer.socket, &mut self.peer.up, cx) {
                    Poll::Ready(Ok(read)) if read > 0 => progress = true,
                    Poll::Ready(_) => self.leave(),
                    Poll::Pending => {}
                }
            }
            if let Some(limit) = &mut self.leaves {
                // What is left of a message that never was whole is nobody's.
                if !progress && self.up.is_empty() && self.loan.stream.is_answered() {
                    let rests = self.loan.give_back().map(|_| LoanEnd::AtRest);
                    return Poll::Ready(rests.unwrap_or(LoanEnd::Closed));
                }
                if limit.as_mut().poll(cx).is_ready() {
                    return Poll::Ready(LoanEnd::Closed);
                }
            }
            if !progress {
                return Poll::Pending;
            }
        }
    }

    /// Notes that the driver has ended its connection. What it has sent is still executed, as
    /// PostgreSQL does.
    fn leave(&mut self) {
        let limit = self.loan.invocation.grace();
        self.peer.has_left = true;
        self.leaves.get_or_insert_with(|| Box::pin(sleep(limit)));
    }

    /// Gives the session back if nothing of the driver is left here or in it.
    fn gives_back(&mut self) -> bool {
        let names = self.is_between().then(|| self.loan.give_back());
        let names = names.flatten().map(|names| self.peer.names = names);
        names.is_some()
    }

    /// Returns whether everything of the driver was passed on, up to the end of a message.
    fn is_between(&self) -> bool {
        self.up.is_empty() && self.pass == 0 && self.skip == 0 && self.peer.up.is_empty()
    }

    /// Takes what can be passed on from what the driver has sent, up to its Terminate, which is not
    /// for the session.
    fn take(&mut self) -> Result<()> {
        let (peer, stream) = (&mut *self.peer, &self.loan.stream);
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
                    self.leave();
                    break;
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
                    let conforming = stream.conforming_strings();
                    if self.guards && message::controls_transaction(message, conforming) {
                        return Err(controls());
                    }
                    // What precedes it may change how literals are read.
                    if self.guards
                        && head.tag == b'Q'
                        && !(self.up.is_empty() && stream.is_answered())
                        && message::controls_transaction(message, None)
                    {
                        break;
                    }
                    if let Some(token) = message::claim(message).map(str::to_owned) {
                        // Its answer comes behind those of the messages in front of it.
                        if !self.up.is_empty() || !stream.is_answered() {
                            break;
                        }
                        // What is left in the session is another invocation's.
                        let claims = (self.claim)(&token);
                        if !claims.is_some_and(|claims| claims.is_same(&self.loan.invocation)) {
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
                let lent = &mut self.loan.source;
                if let (Source::Transaction(lent), b'Q' | b'E' | b'F') = (lent, head.tag) {
                    lent.executes();
                }
            }
            let now = self.pass.min(peer.up.len());
            self.up.unsplit(peer.up.split_to(now));
            self.pass -= now;
        }
        Ok(())
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
