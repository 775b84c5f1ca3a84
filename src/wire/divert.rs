//! Diverts a session from tokio-postgres to another driver, and back.
//!
//! While it is diverted, tokio-postgres is parked: its stream has nothing to read. What it had
//! armed is carried over, and what the wire knows of the session stays.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::Wire;
use super::frontend::Parked;
use super::residue::Residue;
use super::snapshot::ServerState;
use super::stand_in::Terminate;
use super::state::State;
use super::statements::Names;
use super::status::TransactionStatus;

impl Wire {
    /// Diverts the session: another driver speaks through the returned stream until it is
    /// [given back](Diverted::give_back), or [restored](Wire::restore). `None`: an answer to
    /// tokio-postgres is still owed, or the connection has ended.
    pub fn divert(&self) -> Option<Diverted> {
        let key = Arc::default();
        self.present()?.divert(&key)?;
        let wire = self.clone();
        Some(Diverted {
            wire,
            key,
            whole: true,
            idle: false,
        })
    }

    /// Returns a [detached](Wire::detach) session that is at rest to tokio-postgres. Returns
    /// false if it is not diverted, or not at rest.
    pub(crate) fn restore(&self) -> bool {
        let mut state = self.state();
        let not_sent = state.terminate_sent() == Some(Terminate::NotSent);
        let at_rest = not_sent && state.is_answered_and_idle();
        at_rest && state.parked.is_some() && {
            state.detached = None;
            state.return_to_parked();
            true
        }
    }

    /// Returns whether another driver has the session.
    pub(crate) fn is_diverted(&self) -> bool {
        self.state().parked.is_some()
    }
}

impl State {
    fn divert(&mut self, key: &Arc<()>) -> Option<()> {
        let free = self.detached.is_none() && !self.is_closed() && self.parked.is_none();
        if !free || !self.owes_nothing() {
            return None;
        }
        let (frontend, unnamed) = (self.frontend.divert(), self.frontend.is_unnamed());
        self.parked = Some(Parked {
            key: Arc::clone(key),
            frontend: std::mem::replace(&mut self.frontend, frontend),
            reported: unnamed.then(|| self.tracker.reported.clone()),
        });
        self.flushed = true;
        self.reads = false;
        Some(())
    }

    /// Returns whether nothing is under way between the server and its present client. An answer
    /// to a query of the wire's own may be.
    fn owes_nothing(&self) -> bool {
        self.frontend.is_between_requests()
            && self.scanner.is_between_messages()
            && self.tracker.is_owed_to_wire()
            && self.inject.is_empty()
            && !self.is_closed()
    }

    pub(super) fn return_to_parked(&mut self) {
        if let Some(parked) = self.parked.take() {
            let diverted = std::mem::replace(&mut self.frontend, parked.frontend);
            self.frontend.resume(diverted);
        }
        self.inject.clear();
        self.flushed = true;
        self.reads = false;
    }

    /// Returns whether tokio-postgres waits until the session is given back. Not once the
    /// connection has ended, which it has to find out.
    pub(super) fn is_parked(&self) -> bool {
        self.parked.is_some() && self.detached.is_none() && !self.is_closed()
    }

    /// Returns whether the session is still diverted to the stream with this key.
    fn is_diverted_to(&self, key: &Arc<()>) -> bool {
        let parked = self.parked.as_ref();
        parked.is_some_and(|parked| Arc::ptr_eq(&parked.key, key))
    }
}

/// The stream of the driver to which a session is diverted. Its end of file means that the
/// session was taken back.
pub struct Diverted {
    wire: Wire,
    key: Arc<()>,
    whole: bool,
    idle: bool,
}

impl Diverted {
    /// Returns whether the session was taken back. What was answered before can still be read.
    pub fn is_taken_back(&self) -> bool {
        let state = self.wire.state();
        state.detached.is_some() || !state.is_diverted_to(&self.key)
    }

    /// Returns whether the server has ended the session.
    pub fn is_ended(&self) -> bool {
        let snapshot = self.wire.state().snapshot();
        snapshot.server == ServerState::Gone || snapshot.is_dismissed()
    }

    /// Brings the names that the driver has for its prepared statements, from another session or
    /// from this one.
    pub fn bring_names(&self, names: Names) {
        let mut state = self.wire.state();
        if state.is_diverted_to(&self.key) {
            state.frontend.statements = names;
        }
    }

    /// Returns whether the server has answered all that was sent.
    pub fn is_answered(&self) -> bool {
        self.wire.state().owes_nothing()
    }

    /// Returns the session's transaction status, if it [is answered](Diverted::is_answered).
    pub fn status(&self) -> TransactionStatus {
        let status = self.wire.state().tracker.status;
        status.unwrap_or(TransactionStatus::Idle)
    }

    /// Returns what the server has reported as `standard_conforming_strings`.
    pub fn conforming_strings(&self) -> Option<bool> {
        self.wire.facts().parameters.conforming
    }

    /// Returns whether what was read ends with a whole message.
    pub fn is_whole(&self) -> bool {
        self.whole
    }

    /// Returns whether what was read says that the session is outside any transaction, with
    /// nothing under way.
    pub fn was_idle(&self) -> bool {
        self.idle
    }

    /// Returns the session to tokio-postgres if the driver has had all answers, nothing of it
    /// was left in the session, and it is outside any transaction or `in_transaction` is allowed.
    /// Returns the names that the driver has for its prepared statements, to
    /// [bring](Diverted::bring_names) them with it.
    pub fn give_back(&self, in_transaction: bool) -> Option<Names> {
        let mut state = self.wire.state();
        let state = &mut *state;
        let ours = state.detached.is_none() && state.is_diverted_to(&self.key);
        // Behind a transaction pooler only parameters that are reported follow the client; other
        // state is not ours to remove.
        let reported = state
            .parked
            .as_ref()
            .and_then(|parked| parked.reported.as_ref());
        let clean = match state.tracker.residue {
            Residue::None => true,
            Residue::State => reported == Some(&state.tracker.reported),
            Residue::Client => false,
        };
        let clean = in_transaction || (state.is_idle() && clean);
        let gives = ours && state.owes_nothing() && clean;
        gives.then(|| {
            let names = std::mem::take(&mut state.frontend.statements);
            state.return_to_parked();
            names
        })
    }
}

impl AsyncRead for Diverted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let wire = self.wire.clone();
        let mut state = wire.state();
        if !state.is_diverted_to(&self.key) {
            return Poll::Ready(Ok(()));
        }
        // What was taken back ends here, behind the answers that are still owed.
        if state.detached.is_some() && state.inject.is_empty() {
            return Poll::Ready(Ok(()));
        }
        let read = state.poll_read(cx, buf);
        let (whole, idle) = (
            state.scanner.is_between_messages() && state.inject.is_empty(),
            state.is_answered_and_idle(),
        );
        drop(state);
        if read.is_ready() {
            (self.whole, self.idle) = (whole, idle);
        }
        read
    }
}

impl AsyncWrite for Diverted {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let mut state = self.wire.state();
        if state.is_diverted_to(&self.key) {
            state.poll_write(cx, bytes)
        } else {
            Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()))
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut state = self.wire.state();
        if state.is_diverted_to(&self.key) {
            state.poll_flush(cx)
        } else {
            Poll::Ready(Ok(()))
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_flush(cx)
    }
}
