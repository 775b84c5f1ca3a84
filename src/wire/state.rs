//! The state of a wire: both directions, and what is still unsent.

use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::backend::Scanner;
use super::ended::{End, Ended, Goodbye};
use super::frontend::Frontend;
use super::snapshot::{ClientState, ServerState, Snapshot};
use super::tracker::Tracker;

/// What lies below the wire: a socket, or TLS over one.
pub trait Transport: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Transport for T {}

/// From here on the writer has to wait for the socket.
const HIGH_WATER: usize = 64 * 1024;

/// Where bytes lie that tokio-postgres does not see as they are.
pub(super) const SCRATCH: [MaybeUninit<u8>; 8 * 1024] = [MaybeUninit::uninit(); 8 * 1024];

pub(super) struct State {
    pub(super) below: Below,
    pub(super) tracker: Tracker,
    pub(super) frontend: Frontend,
    pub(super) scanner: Scanner,
    /// On its way to the server.
    pub(super) out: BytesMut,
    /// On its way to tokio-postgres: what was filtered, or answered by ourselves.
    pub(super) inject: BytesMut,
    /// The last thing that the writer above did was a completed flush.
    flushed: bool,
    /// The reader above waits for more, and for nothing else.
    pub(super) reads: bool,
    /// An answer is awaited.
    asked: bool,
    pub(super) round_trips: u64,
    pub(super) end: Option<End>,
    /// Who reads above, and waits.
    reader: Option<Waker>,
}

/// What lies below.
pub(super) enum Below {
    Open {
        transport: Box<dyn Transport>,
        /// Our side is shut.
        shut: bool,
    },
    /// Nothing more will come, and the socket is dropped: a holder of the client may
    /// keep it for ever.
    Closed {
        /// The end of file came from the server.
        by_server: bool,
    },
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
            asked: false,
            round_trips: 0,
            end: None,
            reader: None,
        }
    }

    pub(super) fn transport(&mut self) -> io::Result<&mut Box<dyn Transport>> {
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

    pub(super) fn is_closed(&self) -> bool {
        matches!(self.below, Below::Closed { .. })
    }

    pub(super) fn snapshot(&self) -> Snapshot {
        Snapshot {
            status: self.tracker.status,
            server: if self.is_closed() {
                ServerState::Gone
            } else {
                self.server()
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
            residue: self.tracker.residue,
        }
    }

    /// Where the server stands, by all that has been heard from it.
    pub(super) fn server(&self) -> ServerState {
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
        } else if !tracker.owed.is_empty() {
            ServerState::Settled
        } else {
            ServerState::Answered
        }
    }

    /// There is more for the socket than it takes. A little may just not have had its
    /// turn: a task that has read much is not let write before others have run.
    pub(super) fn is_unsent(&self) -> bool {
        self.out.len() >= HIGH_WATER
    }

    /// Reads from below, which is closed when it ends.
    pub(super) fn poll_receive(
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

    pub(super) fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.out.is_empty() {
            let Below::Open { transport, .. } = &mut self.below else {
                return Poll::Ready(Err(io::ErrorKind::NotConnected.into()));
            };
            let sent = ready!(Pin::new(transport).poll_write(cx, &self.out))?;
            if sent == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.out.advance(sent);
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
    pub(super) fn received(&mut self, bytes: &[u8], filtered: bool) -> usize {
        if std::mem::take(&mut self.asked) {
            self.round_trips += 1;
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
        // What comes in after the end is not passed on.
        let mut unseen = BytesMut::new();
        let inject = if end.is_some() { &mut unseen } else { inject };
        let passed = scanner.feed(bytes, tracker, filtered, inject, |end, tracker| {
            let before = out.len();
            frontend.answered(end, tracker, out);
            *flushed &= out.len() == before;
        });
        let farewell = self.tracker.farewell.take();
        if let (Some(error), None) = (farewell, &self.end) {
            self.answered_by(Some(Ended::by_server(error)), Goodbye::Otherwise);
        }
        passed
    }

    pub(super) fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
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

    pub(super) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.end.is_none() {
            ready!(self.poll_drain(cx))?;
            ready!(Pin::new(self.transport()?).poll_flush(cx))?;
        }
        self.flushed = true;
        Poll::Ready(Ok(()))
    }

    pub(super) fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_flush(cx))?;
        match self.end {
            Some(_) => Poll::Ready(Ok(())),
            None => Pin::new(self.transport()?).poll_shutdown(cx),
        }
    }
}
