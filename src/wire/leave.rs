//! Ends a connection: takes it away from tokio-postgres, and sends Terminate.

use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};

use bytes::BufMut;
use tokio::io::{AsyncWrite, ReadBuf};

use super::ended::{End, Ended, Goodbye};
use super::frontend::SYNC;
use super::snapshot::ServerState;
use super::state::{Below, SCRATCH, State};
use super::status::TransactionStatus;
use super::unit::Unit;

impl State {
    /// The goodbye was said to a server at rest.
    pub(super) fn left_at_rest(&self) -> bool {
        self.goodbye() == Some(Goodbye::AtRest)
    }

    fn goodbye(&self) -> Option<Goodbye> {
        self.end.as_ref().map(|end| end.goodbye)
    }

    /// Takes the connection away from tokio-postgres, which from here on is answered by
    /// [`Ended`]. The server is not told.
    pub(super) fn take_away(&mut self) {
        if self.end.is_none() {
            let whole = self.scanner.is_between_messages();
            let answerable = whole && !self.is_closed() && !self.tracker.is_lost();
            let answers = answerable.then(Ended::default);
            self.answered_by(answers, Goodbye::Unsaid);
        }
    }

    /// [Takes the connection away](State::take_away), and tells the server goodbye.
    pub(super) fn end(&mut self, cx: &mut Context<'_>) {
        self.take_away();
        let idle = self.tracker.status == Some(TransactionStatus::Idle);
        let at_rest = idle && self.server() == ServerState::Answered;
        match &mut self.end {
            Some(end) if end.goodbye == Goodbye::Unsaid => {
                end.goodbye = if at_rest {
                    Goodbye::AtRest
                } else {
                    Goodbye::Otherwise
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
        if self.tracker.status.is_some() {
            self.out.put_slice(b"X\0\0\0\x04");
        }
    }

    /// Completes a request whose rest will not be sent.
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

    /// Asks a question of our own: its answer is swallowed, as the connection was
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
                if self.tracker.owed.is_empty() {
                    return Poll::Ready(true);
                }
            }
            let mut buf = ReadBuf::uninit(&mut scratch);
            let _ = ready!(self.poll_receive(cx, &mut buf));
            self.received(buf.filled(), true);
        }
    }

    /// From here on `answers` stands in the server's place.
    pub(super) fn answered_by(&mut self, mut answers: Option<Ended>, goodbye: Goodbye) {
        let pending = self.frontend.take_pending();
        if let Some(answers) = &mut answers {
            for _ in 0..self.tracker.owed.len() {
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
}
