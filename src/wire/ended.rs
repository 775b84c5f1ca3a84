//! Answers in the server's place once a connection has been taken away.
//!
//! A task that outlived its invocation may still hold the client. It is not left
//! hanging, nor told "connection closed" without a reason: whatever it asks is
//! answered with an error that says what happened.
//!
//! So is the holder of a connection that the server ended while nothing was asked of it, or
//! while it was asked something else: tokio-postgres would tell its caller that the
//! connection is closed, and not why.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use crate::error::{ENDED_MESSAGE as MESSAGE, ENDED_SQLSTATE as SQLSTATE};

/// The connection was taken away from tokio-postgres.
pub(super) struct End {
    /// What tokio-postgres is answered. `None`: it stands in the middle of a message, and
    /// no answer could be understood.
    pub(super) answers: Option<Ended>,
    pub(super) goodbye: Goodbye,
}

/// What the server was told.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Goodbye {
    /// Nothing: it can still be asked.
    Unsaid,
    /// That we go, when it was outside any transaction and owed nothing.
    AtRest,
    /// That we go, and it was not; or it has ended the session itself.
    Otherwise,
}

/// Reads requests and answers each with the same error.
#[derive(Debug, Default)]
pub(super) struct Ended {
    pending: BytesMut,
    /// The server's own last ErrorResponse, if it was the server who ended it.
    farewell: Option<Bytes>,
}

impl Ended {
    /// Answers with what the server said at the end.
    pub(super) fn by_server(farewell: Bytes) -> Self {
        Ended {
            farewell: Some(farewell),
            ..Ended::default()
        }
    }

    pub(super) fn is_by_server(&self) -> bool {
        self.farewell.is_some()
    }

    /// Takes in what tokio-postgres sends; the answers go to `out`.
    pub(super) fn accept(&mut self, bytes: &[u8], out: &mut BytesMut) {
        self.pending.extend_from_slice(bytes);
        while let Some(field) = self.pending.get(1..5) {
            let length = field
                .iter()
                .fold(0, |sum, &byte| sum << 8 | usize::from(byte));
            if self.pending.len() < 1 + length {
                break;
            }
            if matches!(self.pending[0], b'Q' | b'S' | b'F') {
                self.answer(out);
            }
            self.pending.advance(1 + length.max(4));
        }
    }

    /// ErrorResponse and ReadyForQuery: what ends the answer to one request.
    pub(super) fn answer(&self, out: &mut BytesMut) {
        match &self.farewell {
            Some(error) => out.put_slice(error),
            None => put_error(out),
        }
        out.put_slice(b"Z\0\0\0\x05I");
    }
}

fn put_error(out: &mut BytesMut) {
    let start = out.len();
    out.put_slice(b"E\0\0\0\0");
    for (field, value) in [
        (b'S', "ERROR"),
        (b'V', "ERROR"),
        (b'C', SQLSTATE),
        (b'M', MESSAGE),
    ] {
        out.put_u8(field);
        out.put_slice(value.as_bytes());
        out.put_u8(0);
    }
    out.put_u8(0);
    let length = (out.len() - start - 1) as u32;
    out[start + 1..start + 5].copy_from_slice(&length.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_request_gets_one_answer_however_it_is_cut() {
        let requests = b"Q\0\0\0\x05\0P\0\0\0\x08a\0b\0S\0\0\0\x04d\0\0\0\x05x";
        for cut in 1..requests.len() {
            let (mut ended, mut out) = (Ended::default(), BytesMut::new());
            for chunk in requests.chunks(cut) {
                ended.accept(chunk, &mut out);
            }
            let mut expected = BytesMut::new();
            ended.answer(&mut expected);
            ended.answer(&mut expected);
            assert_eq!(out, expected);
        }
    }

    #[test]
    fn server_message_is_repeated() {
        let mut ended = Ended::by_server(Bytes::from_static(b"E\0\0\0\x05\0"));
        let mut out = BytesMut::new();
        ended.accept(b"S\0\0\0\x04", &mut out);
        assert_eq!(out, &b"E\0\0\0\x05\0Z\0\0\0\x05I"[..]);
    }
}
