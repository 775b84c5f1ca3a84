//! The state of a wire: reads and writes both directions, and keeps what is unsent.

use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::backend::Scanner;
use super::expected::Handling;
use super::frontend::{Frontend, Parked};
use super::question::Question;
use super::residue::Traits;
use super::snapshot::{ClientState, ServerState, Snapshot};
use super::stand_in::{Detached, Retired, StandIn, Terminate, fill};
use super::statements::Naming;
use super::status::TransactionStatus;
use super::tracker::Tracker;
use super::unit::Unit;

/// The transport below the wire: a socket, or TLS over one.
pub trait Transport: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Transport for T {}

/// The number of unsent bytes from which the writer has to wait for the socket.
const HIGH_WATER: usize = 64 * 1024;

/// A buffer for bytes that tokio-postgres does not get as they are.
pub(super) const SCRATCH: [MaybeUninit<u8>; 8 * 1024] = [MaybeUninit::uninit(); 8 * 1024];

/// Both directions of a connection.
#[derive(Default)]
pub(super) struct State {
    pub(super) below: TransportState,
    /// What was read from below before there was a wire.
    pub(super) unread: BytesMut,
    pub(super) tracker: Tracker,
    pub(super) frontend: Frontend,
    pub(super) scanner: Scanner,
    /// Bytes for tokio-postgres: what was filtered, or answered by the wire itself.
    pub(super) inject: BytesMut,
    /// The last operation of the writer above was a completed flush.
    pub(super) flushed: bool,
    /// The reader above waits for more, and for nothing else.
    pub(super) reads: bool,
    /// An answer is awaited.
    asked: bool,
    pub(super) round_trips: u64,
    /// Those before the work that is counted now.
    pub(super) counted_from: u64,
    pub(super) detached: Option<Detached>,
    /// The number of clients that were attached before the present one.
    pub(super) client: u64,
    pub(super) retired: Vec<Retired>,
    /// tokio-postgres, while another driver has the session.
    pub(super) parked: Option<Parked>,
    /// A query of the wire's own that is sent behind the user's next statement, in the same flight
    /// if no transaction can be open then.
    pub(super) deferred: Option<(Box<str>, Question)>,
    /// Wakes the reader above if there is something to read that does not come from below.
    reader: Option<Waker>,
}

/// The transport, until it is closed: then the socket is dropped, since a holder may keep the
/// client for ever.
#[derive(Default)]
pub(super) enum TransportState {
    Open {
        transport: Box<dyn Transport>,
        /// Whether our side is shut down.
        shut: bool,
    },
    /// The server's end of file has come.
    #[default]
    Ended,
    /// The connection broke, with an error that the client has yet to get, or was closed here.
    Closed(Option<io::Error>),
}

impl TransportState {
    pub(super) fn transport(&mut self) -> io::Result<&mut Box<dyn Transport>> {
        match self {
            TransportState::Open { transport, .. } => Ok(transport),
            TransportState::Closed(Some(error)) => {
                Err(std::mem::replace(error, io::ErrorKind::NotConnected.into()))
            }
            TransportState::Ended | TransportState::Closed(None) => {
                Err(io::ErrorKind::NotConnected.into())
            }
        }
    }
}

impl State {
    pub(super) fn new(below: TransportState, naming: Naming) -> Self {
        let mut state = State {
            below,
            flushed: true,
            ..State::default()
        };
        state.frontend.naming = naming;
        state
    }

    pub(super) fn shut_down(&mut self) {
        if !self.is_closed() {
            self.close(TransportState::Closed(None));
        }
    }

    fn close(&mut self, below: TransportState) {
        self.below = below;
        self.deferred = None;
        self.tracker.end();
    }

    /// Sends a query of the wire's own. The answer to a question is not passed on; without one, the
    /// connection is detached, and nothing is.
    pub(super) fn send(&mut self, sql: &str, changes: bool, question: Option<Question>) {
        // Errors arise from NUL bytes in the text alone, and ours has none.
        let _ = postgres_protocol::message::frontend::query(sql, &mut self.tracker.out);
        // The server's timeouts decide nothing about a statement.
        let traits = if changes {
            Traits::of(sql.as_bytes(), Some(true))
        } else {
            Traits::default()
        };
        if traits.deallocates {
            self.tracker.deallocates();
        }
        let unit = Unit {
            changes,
            traits,
            question: question.map(Box::new),
            ..Unit::simple()
        };
        self.tracker.sent_whole(unit, Handling::Swallow);
        self.flushed = false;
    }

    fn send_deferred(&mut self) {
        if self.deferred.is_none()
            || self.detached.is_some()
            || !self.frontend.is_between_requests()
            || !self.tracker.may_follow()
        {
            return;
        }
        if let Some((sql, question)) = self.deferred.take() {
            self.send(&sql, false, Some(question));
        }
    }

    pub(super) fn is_closed(&self) -> bool {
        !matches!(self.below, TransportState::Open { .. })
    }

    pub(super) fn snapshot(&self) -> Snapshot {
        Snapshot {
            status: self.tracker.status,
            server: if self.is_closed() {
                ServerState::Gone
            } else {
                self.server()
            },
            client: match &self.detached {
                Some(Detached {
                    answers: Some(answers),
                    ..
                }) if answers.by_server => ClientState::Dismissed,
                Some(_) => ClientState::Detached,
                None if !self.reads || self.parked.is_some() => ClientState::Stalled,
                None if !self.flushed => ClientState::Writing,
                None => ClientState::Waiting,
            },
            residue: self.tracker.residue,
        }
    }

    pub(super) fn is_answered(&self) -> bool {
        !self.is_closed() && self.server() == ServerState::Answered
    }

    pub(super) fn is_idle(&self) -> bool {
        self.tracker.status == Some(TransactionStatus::Idle)
    }

    pub(super) fn is_answered_and_idle(&self) -> bool {
        self.is_answered() && self.is_idle()
    }

    /// Returns what the server still has to do, by all that it has sent.
    pub(super) fn server(&self) -> ServerState {
        let tracker = &self.tracker;
        let sent = self.frontend.is_empty() && self.tracker.out.is_empty();
        if tracker.is_lost() {
            ServerState::Lost
        } else if sent && !tracker.is_open() && tracker.owed.is_empty() {
            ServerState::Answered
        } else if tracker.is_copying_in() {
            ServerState::CopyingIn
        } else if self.is_unsent() {
            ServerState::Unsent
        } else if !sent || !tracker.is_settled() {
            ServerState::Busy
        } else {
            ServerState::Settled
        }
    }

    /// Returns whether there is more for the socket than it takes. A little may just not have
    /// had its turn: a task that has read much may not write before others have run.
    pub(super) fn is_unsent(&self) -> bool {
        self.tracker.out.len() >= HIGH_WATER
    }

    /// Reads from below, which is closed when it ends.
    #[inline]
    pub(super) fn poll_receive(
        &mut self,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.unread.is_empty() {
            fill(buf, &mut self.unread);
            return Poll::Ready(Ok(()));
        }
        let before = buf.filled().len();
        let read = ready!(Pin::new(self.below.transport()?).poll_read(cx, buf));
        match &read {
            Ok(()) if buf.filled().len() > before => {}
            Ok(()) => self.close(TransportState::Ended),
            // TLS that ended without a closing alert.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                self.close(TransportState::Ended)
            }
            Err(_) => self.close(TransportState::Closed(None)),
        }
        Poll::Ready(read)
    }

    pub(super) fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.tracker.out.is_empty() {
            let sent = ready!(Pin::new(self.below.transport()?).poll_write(cx, &self.tracker.out))?;
            if sent == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.tracker.out.advance(sent);
            self.tracker.work.sent += sent as u64;
            self.asked = true;
        }
        Poll::Ready(Ok(()))
    }

    pub(super) fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            match &self.detached {
                // End of file: tokio-postgres reports a closed connection.
                Some(Detached { answers: None, .. }) => return Poll::Ready(Ok(())),
                _ if !self.inject.is_empty() => {
                    self.reads = false;
                    fill(buf, &mut self.inject);
                    return Poll::Ready(Ok(()));
                }
                Some(_) => {
                    self.reads_on(cx);
                    return Poll::Pending;
                }
                None => {}
            }
            let before = buf.filled().len();
            let Poll::Ready(read) = self.poll_receive(cx, buf) else {
                self.reads_on(cx);
                return Poll::Pending;
            };
            self.reads = false;
            let passed = self.received(&buf.filled()[before..]);
            buf.set_filled(before + passed);
            // To the reader nothing would be the end of file.
            if passed > 0 || self.is_closed() {
                return Poll::Ready(read);
            }
        }
    }

    /// Notes that the reader above waits.
    fn reads_on(&mut self, cx: &Context<'_>) {
        self.reads = true;
        match &mut self.reader {
            Some(reader) => reader.clone_from(cx.waker()),
            reader => *reader = Some(cx.waker().clone()),
        }
    }

    pub(super) fn wake_reader(&self) {
        if let Some(reader) = &self.reader {
            reader.wake_by_ref();
        }
    }

    /// Processes `bytes` from the server, and returns how much of their beginning is for the
    /// reader as it is.
    pub(super) fn received(&mut self, bytes: &[u8]) -> usize {
        if std::mem::take(&mut self.asked) {
            self.round_trips += 1;
        }
        self.tracker.work.received += bytes.len() as u64;
        let State {
            tracker,
            frontend,
            scanner,
            inject,
            detached,
            ..
        } = self;
        let (injected, unsent) = (inject.len(), tracker.out.len());
        let passed = scanner.feed(bytes, tracker, inject, |answer, tracker| {
            frontend.answered(answer, tracker);
        });
        self.flushed &= tracker.out.len() == unsent;
        if detached.is_some() {
            // After the detaching nothing is passed on.
            inject.truncate(injected);
        }
        self.send_deferred();
        if let Some(error) = self.tracker.final_error.take() {
            if self.detached.is_none() {
                self.detach_with(Some(StandIn::for_ended(error)), Terminate::NotAtRest);
            }
            // Behind the detaching, which answers the other requests.
            self.tracker.end();
        }
        passed
    }

    pub(super) fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.flushed = false;
        if let Some(detached) = &mut self.detached {
            if let Some(answers) = &mut detached.answers {
                answers.accept(bytes, &mut self.inject);
            }
            self.wake_reader();
            return Poll::Ready(Ok(bytes.len()));
        }
        if self.tracker.out.len() >= HIGH_WATER {
            ready!(self.poll_drain(cx))?;
        }
        self.frontend.accept(bytes, &mut self.tracker);
        self.send_deferred();
        // Not into the middle of a message.
        if self.scanner.is_between_messages() && self.tracker.has_to_give() {
            self.tracker.give(&mut self.inject);
            self.wake_reader();
        }
        Poll::Ready(Ok(bytes.len()))
    }

    pub(super) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.detached.is_none() {
            ready!(self.poll_drain(cx))?;
            ready!(Pin::new(self.below.transport()?).poll_flush(cx))?;
        }
        self.flushed = true;
        Poll::Ready(Ok(()))
    }

    pub(super) fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_flush(cx))?;
        match self.detached {
            Some(_) => Poll::Ready(Ok(())),
            None => Pin::new(self.below.transport()?).poll_shutdown(cx),
        }
    }
}
