//! Queues the expected answers: which comes next, and what to do with it.
//!
//! Each request puts into it what the server will answer. So several messages of the wire's own
//! fit under one Sync, between those of the user.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;

use super::statements::ServerStatement;

/// The answer to one message of the frontend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reply {
    Parse,
    Bind,
    Describe,
    Execute,
    /// To an Execute of COPY, until the server has begun that.
    Copy,
    Close,
    /// ReadyForQuery, with all that precedes it in the answer to a simple query.
    Ready,
}

/// What to do with an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Handling {
    /// It answers the user.
    Pass,
    /// It answers a message of the wire's own.
    Swallow,
    /// It answers a message that was not sent: the wire gives this in its turn.
    Give(Bytes),
    /// It is an error, in the place of which the user gets this one.
    Replace(Bytes),
}

/// An answer to come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) reply: Reply,
    pub(super) handling: Handling,
    /// The statement that the message prepared, described, bound or closed.
    pub(super) statement: Option<Arc<ServerStatement>>,
    /// When the client named the statement that the message prepared, or 0.
    pub(super) named: u64,
}

impl Entry {
    pub(super) fn new(reply: Reply, handling: Handling) -> Self {
        Entry {
            reply,
            handling,
            statement: None,
            named: 0,
        }
    }

    /// The answer to a message that was sent about a statement.
    pub(super) fn about(
        reply: Reply,
        handling: Handling,
        statement: &Arc<ServerStatement>,
    ) -> Self {
        Entry {
            statement: Some(Arc::clone(statement)),
            ..Entry::new(reply, handling)
        }
    }
}

/// The answers to come, in order.
#[derive(Debug, Default)]
pub(super) struct Expected(VecDeque<Entry>);

impl Reply {
    /// Returns whether this message ends it (manual, "Extended Query").
    fn is_ended_by(self, tag: u8) -> bool {
        match self {
            Reply::Parse => tag == b'1',
            Reply::Bind => tag == b'2',
            Reply::Describe => matches!(tag, b'T' | b'n'),
            Reply::Execute | Reply::Copy => matches!(tag, b'C' | b'I' | b's'),
            Reply::Close => tag == b'3',
            Reply::Ready => tag == b'Z',
        }
    }
}

impl Expected {
    pub(super) fn push(&mut self, entry: Entry) {
        self.0.push_back(entry);
    }

    /// Processes the tag of the message that now begins, unless it is an error. A
    /// ReadyForQuery [is taken](Expected::take_ready) when it is complete. Returns what to do
    /// with the message, and the statement that it is about.
    pub(super) fn begin(&mut self, tag: u8) -> (Handling, Option<Arc<ServerStatement>>) {
        // Sent at any time: notices, parameters, notifications.
        let Some(next) = self.0.front().filter(|_| !b"NSA".contains(&tag)) else {
            return (Handling::Pass, None);
        };
        if next.reply == Reply::Ready || (next.reply == Reply::Describe && tag == b't') {
            return (next.handling.clone(), next.statement.clone());
        }
        if !next.reply.is_ended_by(tag) {
            return (Handling::Pass, None);
        }
        let ended = self.0.pop_front();
        ended.map_or((Handling::Pass, None), |entry| {
            (entry.handling, entry.statement)
        })
    }

    /// [Processes](Expected::begin) the tag if there is nothing to do but to pass the message on,
    /// as there is with most. Returns false if there may be more to do.
    #[inline]
    pub(super) fn passes(&mut self, tag: u8) -> bool {
        let Some(next) = self.0.front() else {
            return true;
        };
        if !matches!(next.handling, Handling::Pass) || next.statement.is_some() {
            return false;
        }
        if next.reply != Reply::Ready && next.reply.is_ended_by(tag) {
            self.0.pop_front();
        }
        true
    }

    /// Skips the answers that do not come after an error: up to the next ReadyForQuery.
    /// Returns them.
    pub(super) fn skip(&mut self) -> impl Iterator<Item = Entry> {
        let end = self.0.iter().position(|next| next.reply == Reply::Ready);
        self.0.drain(..end.unwrap_or(self.0.len()))
    }

    /// Takes the next ReadyForQuery and what precedes it.
    pub(super) fn take_ready(&mut self) {
        let is_next = |next: &Entry| next.reply == Reply::Ready;
        if !self.0.front().is_some_and(is_next) {
            drop(self.skip());
        }
        self.0.pop_front();
    }

    /// Returns whether a COPY is to come that the server has neither begun nor refused.
    pub(super) fn copies(&self) -> bool {
        self.0.iter().any(|next| next.reply == Reply::Copy)
    }

    /// Notes that the server has begun a COPY.
    pub(super) fn copy_begins(&mut self) {
        let copies = |next: &&mut Entry| next.reply == Reply::Copy;
        for next in self.0.iter_mut().filter(copies) {
            next.reply = Reply::Execute;
        }
    }

    /// Keeps the next ReadyForQuery from the user.
    pub(super) fn swallow_ready(&mut self) {
        if let Some(next) = self.0.front_mut() {
            next.handling = Handling::Swallow;
        }
    }

    /// Returns whether the answer is to come to the Parse that named a statement then.
    pub(super) fn names(&self, since: u64) -> bool {
        self.0.iter().any(|entry| entry.named == since)
    }

    /// Takes the next answer if the wire has to give it.
    pub(super) fn take_given(&mut self) -> Option<(Reply, Bytes)> {
        let Some(Handling::Give(bytes)) = self.0.front().map(|next| &next.handling) else {
            return None;
        };
        let bytes = bytes.clone();
        self.0.pop_front().map(|next| (next.reply, bytes))
    }

    /// Returns whether the wire has to give the next answer.
    pub(super) fn has_to_give(&self) -> bool {
        let next = self.0.front();
        next.is_some_and(|next| matches!(next.handling, Handling::Give(_)))
    }
}

#[cfg(test)]
mod tests {
    use super::Handling::{Pass, Swallow};
    use super::Reply::{Bind, Close, Describe, Execute, Parse, Ready};
    use super::*;

    fn expected(answers: &[(Reply, Handling)]) -> Expected {
        let entries = answers.iter().cloned();
        Expected(
            entries
                .map(|(reply, handling)| Entry::new(reply, handling))
                .collect(),
        )
    }

    #[test]
    fn only_answers_to_own_messages_are_swallowed() {
        let begin = [(Parse, Swallow), (Bind, Swallow), (Execute, Swallow)];
        let user = [
            (Parse, Pass),
            (Bind, Pass),
            (Describe, Pass),
            (Execute, Pass),
        ];
        // Two statements that were prepared again, under the same Sync.
        let again = [(Parse, Swallow), (Bind, Pass), (Execute, Pass)];
        let all = [&begin[..], &user, &again, &again, &[(Ready, Pass)]].concat();
        let mut expected = expected(&all);
        let swallowed = |tag| expected.begin(tag).0 == Swallow;
        let tags = *b"1N2SC12tTDDC12DC12IZ";
        assert_eq!(
            tags.map(swallowed).map(u8::from),
            [1, 0, 1, 0, 1, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0]
        );
        expected.take_ready();
        assert!(expected.0.is_empty());
    }

    #[test]
    fn error_skips_to_ready_for_query() {
        let given = || Handling::Give(Bytes::from_static(b"3\0\0\0\x04"));
        let mut expected = expected(&[
            (Parse, Swallow),
            (Bind, Pass),
            (Ready, Pass),
            (Close, given()),
            (Ready, given()),
        ]);
        assert!(!expected.has_to_give());
        assert_eq!(expected.skip().count(), 2);
        assert_eq!(expected.begin(b'Z').0, Pass);
        expected.take_ready();
        assert_eq!(expected.take_given().map(|(reply, _)| reply), Some(Close));
    }
}
