//! Keeps the answers to the wire's own queries, which do not reach the client.

use std::io;
use std::ops::Range;
use std::time::Instant;

use bytes::BytesMut;
use postgres_protocol::message::backend::{DataRowBody, Message};
use tokio::sync::oneshot;
use tokio_postgres::fallible_iterator::FallibleIterator;

/// A query of the wire's own that was sent.
#[derive(Debug)]
pub(super) struct Question {
    answer: OwnAnswer,
    sender: oneshot::Sender<OwnAnswer>,
}

/// The answer to a query of the wire's own.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct OwnAnswer {
    /// The rows of all its statements, as text.
    pub rows: Vec<Vec<Option<String>>>,
    /// The SQLSTATE of the error with which it ended.
    pub error: Option<String>,
    /// When it was complete.
    pub at: Option<Instant>,
}

impl Question {
    pub(super) fn new() -> (Question, oneshot::Receiver<OwnAnswer>) {
        let (sender, receiver) = oneshot::channel();
        let answer = OwnAnswer::default();
        (Question { answer, sender }, receiver)
    }

    /// Keeps a DataRow or an ErrorResponse.
    pub(super) fn keep(&mut self, mut message: BytesMut) {
        match Message::parse(&mut message) {
            Ok(Some(Message::DataRow(row))) => self.answer.rows.extend(columns(&row)),
            Ok(Some(Message::ErrorResponse(error))) => {
                let code = error.fields().find(|field| Ok(field.type_() == b'C'));
                let code = code.ok().flatten();
                let code =
                    code.map(|code| String::from_utf8_lossy(code.value_bytes()).into_owned());
                self.answer.error = Some(code.unwrap_or_default());
            }
            _ => {}
        }
    }

    /// Hands the answer over, now that it is complete.
    pub(super) fn finish(mut self) {
        self.answer.at = Some(Instant::now());
        // The caller may have stopped waiting.
        let _ = self.sender.send(self.answer);
    }
}

/// Reads the columns of a row.
fn columns(row: &DataRowBody) -> io::Result<Vec<Option<String>>> {
    let text = |at: Range<usize>| String::from_utf8_lossy(&row.buffer()[at]).into_owned();
    row.ranges().map(|at| Ok(at.map(text))).collect()
}

#[cfg(test)]
mod tests {
    use super::super::message;
    use super::*;

    #[test]
    fn rows_and_error_reach_the_caller() {
        let (mut question, mut receiver) = Question::new();
        for (tag, body) in [
            (b'D', &b"\0\x02\0\0\0\x02ab\xff\xff\xff\xff"[..]),
            (b'D', b"\0\x01\0\0\0\x09short"),
            (b'D', b""),
            (b'E', b"SERROR\0C42P01\0Mno\0\0"),
        ] {
            let mut message = BytesMut::new();
            message::write(tag, &[body], &mut message);
            question.keep(message);
        }
        question.finish();
        let answer = receiver.try_recv().expect("an answer");
        assert_eq!(answer.rows, [vec![Some("ab".to_owned()), None]]);
        assert_eq!(answer.error.as_deref(), Some("42P01"));
    }
}
