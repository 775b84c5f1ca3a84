//! Ends a connection: detaches it from tokio-postgres, and sends Terminate.

use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};

use bytes::BufMut;
use tokio::io::{AsyncWrite, ReadBuf};

use super::message::SYNC;
use super::stand_in::{Detached, StandIn, Terminate};
use super::state::{SCRATCH, State, TransportState};
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
            // Another driver gets the error without ReadyForQuery, as a server ends a connection.
            answers.put_final_error(&mut self.inject);
        } else if let Some(answers) = &mut answers {
            let requests = |unit: &&Unit| unit.question.is_none();
            let withheld = self.tracker.open.iter().filter(|unit| unit.withheld);
            for _ in self.tracker.owed.iter().filter(requests).chain(withheld) {
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
            return self.tracker.out.clear();
        }
        self.complete();
        // During authentication the server would read it as the password.
        if self.tracker.status.is_some() {
            self.tracker.out.put_slice(b"X\0\0\0\x04");
        }
    }

    /// Completes a request whose rest will not be sent.
    pub(super) fn complete(&mut self) {
        // In the middle of a message it would become a part of that.
        if !self.frontend.is_empty() {
            return;
        }
        self.tracker.end_copy();
        if self.tracker.is_open() {
            self.tracker.out.put_slice(SYNC);
            self.tracker.sent_sync();
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
        if let TransportState::Open { transport, shut } = &mut self.below {
            if drained && !*shut {
                // TLS sends its closing alert before the socket is shut down.
                *shut = Pin::new(transport).poll_shutdown(cx).is_ready();
            }
        }
        let mut scratch = SCRATCH;
        loop {
            if self.is_closed() {
                return Poll::Ready(matches!(self.below, TransportState::Ended));
            }
            let _ = ready!(self.poll_receive(cx, &mut ReadBuf::uninit(&mut scratch)));
        }
    }
}
