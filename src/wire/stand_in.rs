//! Answers requests in the server's place once a connection is detached.
//!
//! A task that outlived its invocation may still hold the client. Its requests neither hang nor
//! fail with "connection closed": each is answered with an error that says what happened.
//!
//! The same goes for the holder of a connection that the server ended while none of its requests
//! was pending: tokio-postgres would report that the connection is closed, and not why.

use std::io;
use std::task::{Context, Poll};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use tokio::io::ReadBuf;

use super::message::{self, READY};
use crate::error::{ENDED_MESSAGE, ENDED_SQLSTATE};

/// A connection that was taken from tokio-postgres.
pub(super) struct Detached {
    /// Answers tokio-postgres. `None`: it is in the middle of a message, and could not
    /// understand an answer.
    pub(super) answers: Option<StandIn>,
    pub(super) terminate: Terminate,
}

/// Whether Terminate was sent, and to a server in which state.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Terminate {
    /// It was not: the server can still be asked.
    NotSent,
    /// The server was outside any transaction and owed nothing.
    AtRest,
    /// The server was not at rest, or it has ended the session itself.
    NotAtRest,
}

/// The end of the stream of a client that was detached, once another one is attached.
pub(super) struct Retired {
    pub(super) client: u64,
    pub(super) answers: Option<StandIn>,
    /// Bytes for its client.
    pub(super) inject: BytesMut,
}

/// Reads requests and answers each with the same error.
#[derive(Debug)]
pub(super) struct StandIn {
    pending: BytesMut,
    /// The ErrorResponse.
    error: Bytes,
    /// Whether the server has sent it, at the end of the session.
    pub(super) by_server: bool,
}

impl StandIn {
    /// Answers that the invocation has ended.
    pub(super) fn for_detached() -> Self {
        StandIn {
            pending: BytesMut::new(),
            error: message::error(ENDED_SQLSTATE, ENDED_MESSAGE),
            by_server: false,
        }
    }

    /// Repeats the `error` with which the server ended the session.
    pub(super) fn for_ended(error: Bytes) -> Self {
        StandIn {
            pending: BytesMut::new(),
            error,
            by_server: true,
        }
    }

    /// Processes what tokio-postgres sends; the answers are written to `out`.
    pub(super) fn accept(&mut self, bytes: &[u8], out: &mut BytesMut) {
        self.pending.extend_from_slice(bytes);
        while let Some(request) = message::first(&self.pending) {
            let length = request.len();
            if matches!(request[0], b'Q' | b'S' | b'F') {
                self.answer(out);
            }
            self.pending.advance(length);
        }
    }

    /// Writes the ErrorResponse of a server, which ends the connection.
    pub(super) fn put_final_error(&self, out: &mut BytesMut) {
        if self.by_server {
            out.put_slice(&self.error);
        }
    }

    /// Writes ErrorResponse and ReadyForQuery, which end the answer to one request.
    pub(super) fn answer(&self, out: &mut BytesMut) {
        out.put_slice(&self.error);
        out.put_slice(READY);
    }
}

/// Reads as much as there is room for.
pub(super) fn fill(buf: &mut ReadBuf<'_>, from: &mut BytesMut) {
    let now = from.len().min(buf.remaining());
    buf.put_slice(&from.split_to(now));
}

impl Retired {
    pub(super) fn poll_read(&mut self, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.answers.is_some() && self.inject.is_empty() {
            return Poll::Pending;
        }
        fill(buf, &mut self.inject);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_request_gets_one_answer_however_it_is_cut() {
        let requests = b"Q\0\0\0\x05\0P\0\0\0\x08a\0b\0S\0\0\0\x04d\0\0\0\x05x";
        for cut in 1..requests.len() {
            let (mut stand_in, mut out) = (StandIn::for_detached(), BytesMut::new());
            for chunk in requests.chunks(cut) {
                stand_in.accept(chunk, &mut out);
            }
            let mut expected = BytesMut::new();
            stand_in.answer(&mut expected);
            stand_in.answer(&mut expected);
            assert_eq!(out, expected);
        }
    }

    #[test]
    fn server_message_is_repeated() {
        let mut stand_in = StandIn::for_ended(Bytes::from_static(b"E\0\0\0\x05\0"));
        let mut out = BytesMut::new();
        stand_in.accept(b"S\0\0\0\x04", &mut out);
        assert_eq!(out, &b"E\0\0\0\x05\0Z\0\0\0\x05I"[..]);
    }
}
