//! Queries of our own, sent between those of the user. Their answers do not reach tokio-postgres.

use std::time::Instant;

use tokio::sync::oneshot;

/// A query of our own that was sent.
#[derive(Debug)]
pub(super) struct Question {
    answer: OwnAnswer,
    sender: oneshot::Sender<OwnAnswer>,
}

/// The answer to a query of our own.
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
    pub(super) fn keep(&mut self, tag: u8, body: &[u8]) {
        if tag == b'D' {
            self.answer.rows.extend(row(body));
        } else {
            let code = body.split(|&byte| byte == 0);
            let code = code.filter_map(|field| field.strip_prefix(b"C")).next();
            let code = String::from_utf8_lossy(code.unwrap_or_default());
            self.answer.error = Some(code.into_owned());
        }
    }

    /// Hands the answer over, now that it is complete.
    pub(super) fn finish(mut self) {
        self.answer.at = Some(Instant::now());
        // The caller may have stopped waiting.
        let _ = self.sender.send(self.answer);
    }
}

/// Reads the columns of a DataRow (manual, "Message Formats"). `None` if it is malformed.
fn row(body: &[u8]) -> Option<Vec<Option<String>>> {
    let (count, mut rest) = body.split_first_chunk()?;
    let column = |_| {
        let (length, behind) = rest.split_first_chunk()?;
        rest = behind;
        let Ok(length) = usize::try_from(i32::from_be_bytes(*length)) else {
            return Some(None);
        };
        let (value, behind) = rest.split_at_checked(length)?;
        rest = behind;
        Some(Some(String::from_utf8_lossy(value).into_owned()))
    };
    (0..u16::from_be_bytes(*count)).map(column).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_and_error_reach_the_caller() {
        let (mut question, mut receiver) = Question::new();
        question.keep(b'D', b"\0\x02\0\0\0\x02ab\xff\xff\xff\xff");
        question.keep(b'D', b"\0\x01\0\0\0\x09short");
        question.keep(b'D', b"");
        question.keep(b'E', b"SERROR\0C42P01\0Mno\0\0");
        question.finish();
        let answer = receiver.try_recv().expect("an answer");
        assert_eq!(answer.rows, [vec![Some("ab".to_owned()), None]]);
        assert_eq!(answer.error.as_deref(), Some("42P01"));
    }
}
