//! Attaches a new client to a session, after the one before was detached.
//!
//! The session stays: its new client is told at its startup what the server said at the
//! session's. The old client keeps its stream, and a [`StandIn`] at the other end of it.

use std::io;
use std::task::{Context, Poll};

use bytes::{BufMut, BytesMut};
use tokio::io::ReadBuf;

use super::frontend::Frontend;
use super::snapshot::ServerState;
use super::stand_in::{StandIn, Terminate};
use super::state::State;
use super::status::TransactionStatus;

/// The end of the stream of a client that was detached, once another one is attached.
pub(super) struct Retired {
    pub(super) client: u64,
    answers: Option<StandIn>,
    inject: BytesMut,
}

impl State {
    /// Begins to serve a new client, and returns its number, if the session is detached and at rest.
    pub(super) fn attach(&mut self) -> Option<u64> {
        let idle = self.tracker.status == Some(TransactionStatus::Idle);
        let at_rest = idle && !self.is_closed() && self.server() == ServerState::Answered;
        if !at_rest || self.terminate_sent() != Some(Terminate::NotSent) {
            return None;
        }
        let answers = self.detached.take().and_then(|detached| detached.answers);
        self.retired.push(Retired {
            client: self.client,
            answers,
            inject: std::mem::take(&mut self.inject),
        });
        self.client += 1;
        self.tracker.startup_answer(&mut self.inject);
        self.frontend = Frontend::resumed(self.frontend.unnamed);
        self.reads = false;
        self.flushed = true;
        Some(self.client)
    }

    /// Returns the end of the stream of an earlier client.
    pub(super) fn retired(&mut self, client: u64) -> Option<&mut Retired> {
        let mut retired = self.retired.iter_mut();
        retired.find(|retired| retired.client == client)
    }
}

impl Retired {
    pub(super) fn poll_read(&mut self, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.answers.is_some() && self.inject.is_empty() {
            return Poll::Pending;
        }
        let now = self.inject.len().min(buf.remaining());
        buf.put_slice(&self.inject.split_to(now));
        Poll::Ready(Ok(()))
    }

    pub(super) fn poll_write(&mut self, cx: &Context<'_>, bytes: &[u8]) -> usize {
        if let Some(answers) = &mut self.answers {
            answers.accept(bytes, &mut self.inject);
        }
        // The task that writes is the one that reads.
        cx.waker().wake_by_ref();
        bytes.len()
    }
}

impl super::tracker::Tracker {
    /// Writes what the server would answer to the startup packet of a session like this
    /// (manual, "Message Flow", "Start-up").
    fn startup_answer(&self, out: &mut BytesMut) {
        out.put_slice(b"R\0\0\0\x08\0\0\0\0");
        for body in self.reported.values() {
            out.put_u8(b'S');
            out.put_u32(4 + body.len() as u32);
            out.put_slice(body);
        }
        if let Some((process, secret)) = self.facts.key {
            out.put_slice(b"K\0\0\0\x0c");
            out.put_i32(process);
            out.put_i32(secret);
        }
        out.put_slice(b"Z\0\0\0\x05I");
    }
}
