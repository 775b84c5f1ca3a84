//! Attaches a new client to a session, after the one before was detached.
//!
//! The session stays: its new client is told at its startup what the server said at the
//! session's. The old client keeps its stream, and a [`StandIn`](super::stand_in::StandIn) at the other end of it.

use bytes::{BufMut, BytesMut};

use super::frontend::Frontend;
use super::stand_in::{Retired, Terminate};
use super::state::State;
use super::tracker::Tracker;

impl State {
    /// Begins to serve a new client, and returns its number, if the session is detached and at rest.
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
        self.withdraw();
        self.parked = None;
        // None of its statements was left on the server.
        self.tracker.prepared.lose_all();
        self.client += 1;
        self.tracker.startup_answer(&mut self.inject);
        self.frontend = Frontend::resumed(self.frontend.naming);
        self.reads = false;
        self.flushed = true;
        Some(self.client)
    }

    /// Returns whether this client is the present one, and no other driver has the session.
    #[inline]
    pub(super) fn has_present(&self, client: u64) -> bool {
        client == self.client && self.parked.is_none()
    }

    /// Returns the end of the stream of an earlier client.
    pub(super) fn retired(&mut self, client: u64) -> Option<&mut Retired> {
        if client == self.client {
            return None;
        }
        let mut retired = self.retired.iter_mut();
        retired.find(|retired| retired.client == client)
    }
}

impl Tracker {
    /// Writes what the server would answer to the startup packet of a session like this
    /// (manual, "Message Flow", "Start-up").
    fn startup_answer(&self, out: &mut BytesMut) {
        out.put_slice(b"R\0\0\0\x08\0\0\0\0");
        self.write_reported(out);
        if let Some((process, secret)) = self.facts.key {
            out.put_slice(b"K\0\0\0\x0c");
            out.put_i32(process);
            out.put_i32(secret);
        }
        out.put_slice(b"Z\0\0\0\x05I");
    }

    /// Writes a ParameterStatus for each parameter that the server has reported.
    pub(super) fn write_reported(&self, out: &mut BytesMut) {
        for body in self.reported.values() {
            out.put_u8(b'S');
            out.put_u32(4 + body.len() as u32);
            out.put_slice(body);
        }
    }
}
