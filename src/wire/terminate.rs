//! Ends a connection: detaches it from tokio-postgres, and sends Terminate.

use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};

use bytes::BufMut;
use tokio::io::{AsyncWrite, ReadBuf};

use super::expected::Handling;
use super::frontend::SYNC;
use super::residue::Traits;
use super::stand_in::{Detached, StandIn, Terminate};
use super::state::{Below, SCRATCH, State};
use super::unit::Unit;

impl State {
    /// Whether Terminate was sent; `None` while the connection is attached.
    pub(super) fn terminate_sent(&self) -> Option<Terminate> {
        self.detached.as_ref().map(|detached| detached.terminate)
    }

    /// Detaches the connection from tokio-postgres, whose requests are answered by a
    /// [`StandIn`] from here on. Sends nothing to the server.
    pub(super) fn detach(&mut self) {
        if self.detached.is_none() {
            let whole = self.scanner.is_between_messages();
            let answerable = whole && !self.is_closed() && !self.tracker.is_lost();
            let answers = answerable.then(StandIn::for_detached);
            self.detach_with(answers, Terminate::NotSent);
        }
    }

    /// Has `answers` answer all requests from here on.
    pub(super) fn detach_with(&mut self, mut answers: Option<StandIn>, terminate: Terminate) {
        let pending = std::mem::take(&mut self.frontend.pending);
        if let (Some(answers), true) = (&answers, self.parked.is_some()) {
            // The driver of a socket is told as the server does, at the end of its connection.
            answers.tell(&mut self.inject);
        } else if let Some(answers) = &mut answers {
            let requests = |unit: &&Unit| unit.question.is_none();
            for _ in self.tracker.owed.iter().filter(requests) {
                answers.answer(&mut self.inject);
            }
            answers.accept(&pending, &mut self.inject);
        }
        self.detached = Some(Detached { answers, terminate });
        self.wake_reader();
    }

    /// [Detaches](State::detach) the connection and sends Terminate, as far as that goes
    /// without waiting.
    pub(super) fn terminate(&mut self, cx: &mut Context<'_>) {
        self.detach();
        let at_rest = self.is_answered_and_idle();
        match &mut self.detached {
            Some(detached) if detached.terminate == Terminate::NotSent => {
                detached.terminate = if at_rest {
                    Terminate::AtRest
                } else {
                    Terminate::NotAtRest
                };
            }
            _ => return,
        }
        let _ = self.poll_drain(cx);
        if self.is_unsent() {
            // The end of file comes instead, in the middle of a message, which the server
            // then does not execute.
            return self.out.clear();
        }
        self.complete();
        // During authentication it would be taken for the password.
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

    /// Sends a query of our own. Its answer is swallowed, as the connection is
    /// [detached](State::detach).
    pub(super) fn ask(&mut self, sql: &str) {
        self.detach();
        self.complete();
        if self.frontend.is_empty() {
            // Errors arise from NUL bytes in the text alone, and ours has none.
            let _ = postgres_protocol::message::frontend::query(sql, &mut self.out);
            let traits = Traits::of(sql.as_bytes(), Some(true));
            if traits.deallocates {
                self.tracker.deallocates();
            }
            let unit = Unit {
                alters: traits.alters,
                ..Unit::simple()
            };
            self.tracker.sent_whole(unit, Handling::Pass);
        }
    }

    /// [Detaches](State::detach) the connection and waits until the server has answered all
    /// requests. `Ready(false)`: it never will.
    pub(super) fn poll_answered(&mut self, cx: &mut Context<'_>) -> Poll<bool> {
        self.detach();
        let mut scratch = SCRATCH;
        loop {
            if self.terminate_sent() != Some(Terminate::NotSent)
                || self.is_closed()
                || self.tracker.is_lost()
                || !self.frontend.is_empty()
            {
                return Poll::Ready(false);
            }
            self.complete();
            // While the server waits for us to read, it does not read itself.
            if self.poll_drain(cx).is_ready() {
                if let Ok(transport) = self.below.transport() {
                    let _ = Pin::new(transport).poll_flush(cx);
                }
                if self.tracker.owed.is_empty() {
                    return Poll::Ready(true);
                }
            }
            let mut buf = ReadBuf::uninit(&mut scratch);
            let _ = ready!(self.poll_receive(cx, &mut buf));
            self.received(buf.filled());
        }
    }

    /// Closes the socket, after [Terminate](State::terminate) if nothing awaits the server's
    /// end of file.
    pub(super) fn abandon(&mut self) {
        if self.detached.is_none() {
            let mut cx = Context::from_waker(Waker::noop());
            self.terminate(&mut cx);
            let _ = self.poll_drain(&mut cx);
            self.shut_down();
        }
    }

    /// Sends [Terminate](State::terminate) and waits for the server's end of file.
    /// `Ready(false)`: the connection broke, and it is unknown whether the session has ended.
    pub(super) fn poll_closed(&mut self, cx: &mut Context<'_>) -> Poll<bool> {
        self.terminate(cx);
        let drained = self.poll_drain(cx).is_ready();
        if let Below::Open { transport, shut } = &mut self.below {
            if drained && !*shut {
                // TLS sends its closing alert before the socket is shut down.
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
