//! Attaches a new client to a session, after the one before was detached.
//!
//! The session stays: the startup packet of its new client is answered as the server answered
//! that of the first. The old client keeps its stream, at whose other end is a
//! [`StandIn`](super::stand_in::StandIn).

use bytes::BytesMut;

use super::frontend::Frontend;
use super::message;
use super::stand_in::{Retired, Terminate};
use super::state::State;
use super::tracker::Tracker;

/// What a client has of a session.
pub(super) enum Attachment<'a> {
    /// The session.
    Present(&'a mut State),
    /// Nothing until another driver gives it back.
    Parked,
    /// Nothing any more: another client is attached.
    Retired(&'a mut Retired),
}

impl State {
    /// Begins to serve a new client, and returns its number, if the session is detached and at
    /// rest.
    pub(super) fn attach(&mut self) -> Option<u64> {
        if !self.is_answered_and_idle() || self.terminate_sent() != Some(Terminate::NotSent) {
            return None;
        }
        let answers = self.detached.take().and_then(|detached| detached.answers);
        self.retired.push(Retired {
            client: self.client,
            answers,
            inject: std::mem::take(&mut self.inject),
        });
        self.deferred = None;
        self.parked = None;
        // None of its statements was left on the server.
        self.tracker.prepared.lose_all();
        self.client += 1;
        self.tracker.write_start(&mut self.inject);
        self.frontend = Frontend::resumed(self.frontend.naming);
        self.reads = false;
        self.flushed = true;
        Some(self.client)
    }

    /// Returns what a client has of the session.
    #[inline]
    pub(super) fn attachment(&mut self, client: u64) -> Attachment<'_> {
        let mut retired = self.retired.iter();
        match retired.position(|retired| retired.client == client) {
            Some(at) => Attachment::Retired(&mut self.retired[at]),
            None if self.is_parked() => Attachment::Parked,
            None => Attachment::Present(self),
        }
    }
}

impl Tracker {
    /// Writes what the server would answer to the startup packet of a session like this.
    fn write_start(&self, out: &mut BytesMut) {
        let mut reported = BytesMut::new();
        self.write_reported(&mut reported);
        message::write_start(&reported, self.facts.key, out);
    }

    /// Writes a ParameterStatus for each parameter that the server has reported.
    pub(super) fn write_reported(&self, out: &mut BytesMut) {
        for (name, value) in &self.reported {
            message::write(b'S', &[name, b"\0", value, b"\0"], out);
        }
    }
}
