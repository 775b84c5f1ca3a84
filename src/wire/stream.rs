//! The stream that tokio-postgres reads and writes.

use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};
use std::time::{Duration, Instant};

use bytes::{Buf, BufMut, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::backend::Scanner;
use super::ended::Ended;
use super::frontend::{Frontend, SYNC};
use super::snapshot::{ClientState, ServerState, Snapshot};
use super::status::{Tracker, TransactionStatus, Unit};

/// What lies below the wire: a socket, or TLS over one.
pub trait Transport: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Transport for T {}

/// From here on the writer has to wait for the socket.
const HIGH_WATER: usize = 64 * 1024;

/// Where bytes lie that tokio-postgres does not see as they are.
const SCRATCH: [MaybeUninit<u8>; 8 * 1024] = [MaybeUninit::uninit(); 8 * 1024];

pub(super) struct State {
    below: Below,
    pub(super) tracker: Tracker,
    pub(super) frontend: Frontend,
    scanner: Scanner,
    /// On its way to the server.
    out: BytesMut,
    /// On its way to tokio-postgres: what was filtered, or answered by ourselves.
    inject: BytesMut,
    /// The last thing that the writer above did was a completed flush.
    flushed: bool,
    /// The reader above waits for more, and for nothing else.
    pub(super) reads: bool,
    /// Since when an answer is awaited.
    asked: Option<Instant>,
    pub(super) round_trips: u64,
    /// The shortest time after which something was answered.
    pub(super) shortest: Option<Duration>,
    end: Option<End>,
    /// Who reads above, and waits.
    reader: Option<Waker>,
}

/// What lies below.
enum Below {
    Open {
        transport: Box<dyn Transport>,
        /// Our side is shut.
        shut: bool,
    },
    /// Nothing more will come, and the socket is dropped: whoever still has the client may
    /// keep it for ever.
    Closed {
        /// The end of file came from the server.
        by_server: bool,
    },
}

/// The connection was taken away from tokio-postgres.
struct End {
    /// What tokio-postgres is answered. `None`: it stands in the middle of a message, and
    /// no answer could be understood.
    answers: Option<Ended>,
    goodbye: Goodbye,
}

/// What the server was told.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Goodbye {
    /// Nothing: it can still be asked.
    Unsaid,
    /// That we go, when it was outside any transaction and owed nothing.
    AtRest,
    /// That we go, and it was not; or it has ended the session itself.
    Otherwise,
}

impl State {
    pub(super) fn new(transport: Box<dyn Transport>, unnamed: bool) -> Self {
        State {
            below: Below::Open {
                transport,
                shut: false,
            },
            tracker: Tracker::default(),
            frontend: Frontend::new(unnamed),
            scanner: Scanner::default(),
            out: BytesMut::new(),
            inject: BytesMut::new(),
            flushed: true,
            reads: false,
            asked: None,
            round_trips: 0,
            shortest: None,
            end: None,
            reader: None,
        }
    }

    fn transport(&mut self) -> io::Result<&mut Box<dyn Transport>> {
        match &mut self.below {
            Below::Open { transport, .. } => Ok(transport),
            Below::Closed { .. } => Err(io::ErrorKind::NotConnected.into()),
        }
    }

    pub(super) fn give_up(&mut self) {
        if !self.is_closed() {
            self.below = Below::Closed { by_server: false };
        }
    }

    fn is_closed(&self) -> bool {
        matches!(self.below, Below::Closed { .. })
    }

    pub(super) fn snapshot(&self) -> Snapshot {
        Snapshot {
            status: self.tracker.status(),
            server: match self.is_closed() {
                true => ServerState::Gone,
                false => self.server(),
            },
            client: match &self.end {
                Some(End {
                    answers: Some(answers),
                    ..
                }) if answers.is_by_server() => ClientState::Dismissed,
                Some(_) => ClientState::Severed,
                None if !self.reads => ClientState::Stalled,
                None if !self.flushed => ClientState::Writing,
                None => ClientState::Waiting,
            },
            residue: self.tracker.residue(),
        }
    }

    /// Where the server stands, by all that has been heard from it.
    fn server(&self) -> ServerState {
        let tracker = &self.tracker;
        let sent = self.frontend.is_empty() && self.out.is_empty();
        if tracker.is_lost() {
            ServerState::Lost
        } else if tracker.is_copying_in() {
            ServerState::CopyingIn
        } else if self.is_unsent() {
            ServerState::Unsent
        } else if !sent || !tracker.is_settled() {
            ServerState::Busy
        } else if tracker.owed() > 0 {
            ServerState::Settled
        } else {
            ServerState::Answered
        }
    }

    /// There is more for the socket than it takes. A little may just not have had its
    /// turn: a task that has read much is not let write before others have run.
    fn is_unsent(&self) -> bool {
        self.out.len() >= HIGH_WATER
    }

    /// The goodbye was said to a server at rest.
    pub(super) fn left_at_rest(&self) -> bool {
        self.goodbye() == Some(Goodbye::AtRest)
    }

    fn goodbye(&self) -> Option<Goodbye> {
        self.end.as_ref().map(|end| end.goodbye)
    }

    /// Takes the connection away from tokio-postgres, which from here on is answered by
    /// [`Ended`]. The server is not told.
    fn take_away(&mut self) {
        if self.end.is_none() {
            let whole = self.scanner.is_between_messages();
            let answerable = whole && !self.is_closed() && !self.tracker.is_lost();
            let answers = answerable.then(Ended::default);
            self.answered_by(answers, Goodbye::Unsaid);
        }
    }

    /// [Takes the connection away](State::take_away), and tells the server goodbye.
    fn end(&mut self, cx: &mut Context<'_>) {
        self.take_away();
        let idle = self.tracker.status() == Some(TransactionStatus::Idle);
        let at_rest = idle && self.server() == ServerState::Answered;
        match &mut self.end {
            Some(end) if end.goodbye == Goodbye::Unsaid => {
                end.goodbye = match at_rest {
                    true => Goodbye::AtRest,
                    false => Goodbye::Otherwise,
                };
            }
            _ => return,
        }
        let _ = self.poll_drain(cx);
        if self.is_unsent() {
            // The end of file comes instead, in the middle of a message, which is then
            // carried out by nobody.
            return self.out.clear();
        }
        self.complete();
        // In the middle of logging in it would be taken for the password.
        if self.tracker.status().is_some() {
            self.out.put_slice(b"X\0\0\0\x04");
        }
    }

    /// Completes a request of which nobody will send the rest.
    fn complete(&mut self) {
        // In the middle of a message it would become a part of that.
        if !self.frontend.is_empty() {
            return;
        }
        if self.tracker.is_copying_in() {
            self.out.put_slice(b"f\0\0\0\x05\0");
            self.tracker.sent_copy_end();
        }
        if self.tracker.is_open() {
            self.out.put_slice(SYNC);
            self.tracker.sent_sync();
        }
    }

    /// Asks a question of our own: nobody above sees its answer, as the connection was
    /// [taken away](State::take_away).
    pub(super) fn ask(&mut self, sql: &str) {
        self.take_away();
        self.complete();
        if !self.frontend.is_empty() {
            return;
        }
        // Errors arise from NUL bytes in the text alone, and ours holds none.
        let _ = postgres_protocol::message::frontend::query(sql, &mut self.out);
        self.tracker.sent_whole(Unit {
            simple: true,
            changes: true,
            ..Unit::default()
        });
    }

    /// [Takes the connection away](State::take_away) and waits until the server has
    /// answered all that it was asked. `Ready(false)`: it never will.
    pub(super) fn poll_answered(&mut self, cx: &mut Context<'_>) -> Poll<bool> {
        self.take_away();
        let mut scratch = SCRATCH;
        loop {
            if self.goodbye() != Some(Goodbye::Unsaid)
                || self.is_closed()
                || self.tracker.is_lost()
                || !self.frontend.is_empty()
            {
                return Poll::Ready(false);
            }
            self.complete();
            // While it waits for us to read, it does not read itself.
            if self.poll_drain(cx).is_ready() {
                if let Ok(transport) = self.transport() {
                    let _ = Pin::new(transport).poll_flush(cx);
                }
                if self.tracker.owed() == 0 {
                    return Poll::Ready(true);
                }
            }
            let mut buf = ReadBuf::uninit(&mut scratch);
            let _ = ready!(self.poll_receive(cx, &mut buf));
            self.received(buf.filled(), true);
        }
    }

    /// From here on `answers` stands in the server's place.
    fn answered_by(&mut self, mut answers: Option<Ended>, goodbye: Goodbye) {
        let pending = self.frontend.take_pending();
        if let Some(answers) = &mut answers {
            for _ in 0..self.tracker.owed() {
                answers.answer(&mut self.inject);
            }
            answers.accept(&pending, &mut self.inject);
        }
        self.end = Some(End { answers, goodbye });
    }

    pub(super) fn cut(&mut self) {
        if self.end.is_none() {
            let mut cx = Context::from_waker(Waker::noop());
            self.end(&mut cx);
            let _ = self.poll_drain(&mut cx);
            self.give_up();
        }
    }

    /// Says goodbye and waits for the server's end of file. `Ready(false)`: the
    /// connection broke, and what the server made of it is not known.
    pub(super) fn poll_closed(&mut self, cx: &mut Context<'_>) -> Poll<bool> {
        self.end(cx);
        let drained = self.poll_drain(cx).is_ready();
        if let Below::Open { transport, shut } = &mut self.below {
            if drained && !*shut {
                // TLS says so to its peer before the socket is shut.
                *shut = Pin::new(transport).poll_shutdown(cx).is_ready();
            }
        }
        let mut scratch = SCRATCH;
        loop {
            if let Below::Closed { by_server } = self.below {
                return Poll::Ready(by_server);
            }
            let _ = ready!(self.poll_receive(cx, &mut ReadBuf::uninit(&mut scratch)));
        }
    }

    /// Reads from below, which is closed when it ends.
    fn poll_receive(
        &mut self,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = ready!(Pin::new(self.transport()?).poll_read(cx, buf));
        let by_server = match &read {
            Ok(()) => buf.filled().len() == before,
            // TLS that ended without a closing alert.
            Err(error) => error.kind() == io::ErrorKind::UnexpectedEof,
        };
        if by_server || read.is_err() {
            self.below = Below::Closed { by_server };
        }
        Poll::Ready(read)
    }

    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.out.is_empty() {
            let Below::Open { transport, .. } = &mut self.below else {
                return Poll::Ready(Err(io::ErrorKind::NotConnected.into()));
            };
            let sent = ready!(Pin::new(transport).poll_write(cx, &self.out))?;
            if sent == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.out.advance(sent);
            self.asked.get_or_insert_with(Instant::now);
        }
        Poll::Ready(Ok(()))
    }

    fn poll_read(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        loop {
            match &self.end {
                // End of file: tokio-postgres reports a closed connection.
                Some(End { answers: None, .. }) => return Poll::Ready(Ok(())),
                _ if !self.inject.is_empty() => {
                    let now = self.inject.len().min(buf.remaining());
                    buf.put_slice(&self.inject[..now]);
                    self.inject.advance(now);
                    return Poll::Ready(Ok(()));
                }
                Some(_) => {
                    self.waits(cx);
                    self.reads = true;
                    return Poll::Pending;
                }
                None => {}
            }
            if self.tracker.filters() || self.scanner.withholds() {
                let mut scratch = SCRATCH;
                let mut aside = ReadBuf::uninit(&mut scratch);
                ready!(self.poll_heard(cx, &mut aside))?;
                self.received(aside.filled(), true);
                if self.is_closed() {
                    return Poll::Ready(Ok(()));
                }
                continue;
            }
            let before = buf.filled().len();
            let read = ready!(self.poll_heard(cx, buf));
            let passed = self.received(&buf.filled()[before..], false);
            if let Some(refusal) = self.tracker.authentication.refused() {
                buf.set_filled(before);
                return Poll::Ready(Err(io::Error::other(refusal)));
            }
            buf.set_filled(before + passed);
            // Nothing, for whoever reads, is the end of the file.
            if passed > 0 || self.is_closed() {
                return Poll::Ready(read);
            }
        }
    }

    /// Reads for tokio-postgres.
    fn poll_heard(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let read = self.poll_receive(cx, buf);
        self.waits(cx);
        self.reads = read.is_pending();
        read
    }

    /// Says how much of the beginning of `bytes` is for the reader as it is.
    fn received(&mut self, bytes: &[u8], filtered: bool) -> usize {
        if let Some(asked) = self.asked.take() {
            let took = asked.elapsed();
            self.round_trips += 1;
            self.shortest = Some(self.shortest.map_or(took, |shortest| shortest.min(took)));
        }
        let State {
            tracker,
            frontend,
            scanner,
            out,
            inject,
            flushed,
            end,
            ..
        } = self;
        // Nobody above sees what comes in after the end.
        let mut unseen = BytesMut::new();
        let inject = if end.is_some() { &mut unseen } else { inject };
        let passed = scanner.feed(bytes, tracker, filtered, inject, |end, tracker| {
            let before = out.len();
            frontend.answered(end, tracker, out);
            *flushed &= out.len() == before;
        });
        let farewell = self.tracker.take_farewell();
        if let (Some(error), None) = (farewell, &self.end) {
            self.answered_by(Some(Ended::by_server(error)), Goodbye::Otherwise);
        }
        passed
    }

    fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.flushed = false;
        if let Some(end) = &mut self.end {
            if let Some(answers) = &mut end.answers {
                answers.accept(bytes, &mut self.inject);
            }
            self.wake();
            return Poll::Ready(Ok(bytes.len()));
        }
        if self.out.len() >= HIGH_WATER {
            ready!(self.poll_drain(cx))?;
        }
        self.frontend
            .accept(bytes, &mut self.tracker, &mut self.out);
        // Not into the middle of a message.
        if self.scanner.is_between_messages() && self.tracker.answer_here(&mut self.inject) {
            self.wake();
        }
        Poll::Ready(Ok(bytes.len()))
    }

    fn waits(&mut self, cx: &Context<'_>) {
        match &mut self.reader {
            Some(reader) => reader.clone_from(cx.waker()),
            None => self.reader = Some(cx.waker().clone()),
        }
    }

    /// There is something to read that does not come from below.
    fn wake(&mut self) {
        if let Some(reader) = self.reader.take() {
            reader.wake();
        }
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.end.is_none() {
            ready!(self.poll_drain(cx))?;
            ready!(Pin::new(self.transport()?).poll_flush(cx))?;
        }
        self.flushed = true;
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_flush(cx))?;
        match self.end {
            Some(_) => Poll::Ready(Ok(())),
            None => Pin::new(self.transport()?).poll_shutdown(cx),
        }
    }
}

/// The stream handed to tokio-postgres. Its state is shared with the
/// [`Wire`](super::Wire) that watches it.
pub struct Stream {
    pub(super) state: Arc<Mutex<State>>,
    /// The hash of the server's certificate, for SCRAM-SHA-256-PLUS.
    pub(super) channel_binding: Option<Vec<u8>>,
}

impl Stream {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.state().poll_read(cx, buf)
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.state().poll_write(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.state().poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.state().poll_shutdown(cx)
    }
}

impl tokio_postgres::tls::TlsStream for Stream {
    fn channel_binding(&self) -> tokio_postgres::tls::ChannelBinding {
        match &self.channel_binding {
            Some(hash) => tokio_postgres::tls::ChannelBinding::tls_server_end_point(hash.clone()),
            None => tokio_postgres::tls::ChannelBinding::none(),
        }
    }
}
