//! The queue of expected answers: which answer comes next, and what to do with it.
//!
//! Each request puts into it what the server will answer. So several messages of the wire's own
//! fit under one Sync, between those of the user.

use std::collections::VecDeque;

/// The answer to one message of the frontend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reply {
    Parse,
    Bind,
    Describe,
    Execute,
    Close,
    /// ReadyForQuery, with all that precedes it in the answer to a simple query.
    Ready,
}

/// What to do with an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Handling {
    /// It answers the user.
    Pass,
    /// It answers a message of the wire's own.
    Swallow,
    /// It answers a message that was not sent: the wire gives it in its turn.
    Give,
}

/// The answers to come, in order.
#[derive(Debug, Default)]
pub(super) struct Expected(VecDeque<(Reply, Handling)>);

impl Reply {
    /// Returns the messages that end it (manual, "Extended Query").
    fn ends(self) -> &'static [u8] {
        match self {
            Reply::Parse => b"1",
            Reply::Bind => b"2",
            Reply::Describe => b"Tn",
            Reply::Execute => b"CIs",
            Reply::Close => b"3",
            Reply::Ready => b"Z",
        }
    }

    /// Returns the first byte of the message, of those without a body.
    pub(super) fn tag(self) -> u8 {
        self.ends()[0]
    }
}

impl Expected {
    pub(super) fn push(&mut self, reply: Reply, handling: Handling) {
        self.0.push_back((reply, handling));
    }

    /// Processes the tag of the message that now begins, unless it is an error. A
    /// ReadyForQuery [is taken](Expected::take_ready) when it is complete.
    pub(super) fn begin(&mut self, tag: u8) -> Handling {
        let Some(&(reply, handling)) = self.0.front() else {
            return Handling::Pass;
        };
        // Sent at any time: notices, parameters, notifications.
        if b"NSA".contains(&tag) {
            return Handling::Pass;
        }
        if reply == Reply::Ready {
            return handling;
        }
        if !reply.ends().contains(&tag) {
            return Handling::Pass;
        }
        self.0.pop_front();
        handling
    }

    /// Skips the answers that do not come after an error: up to the next ReadyForQuery.
    pub(super) fn skip(&mut self) {
        while self
            .0
            .front()
            .is_some_and(|(reply, _)| *reply != Reply::Ready)
        {
            self.0.pop_front();
        }
    }

    /// Takes the next ReadyForQuery and what precedes it.
    pub(super) fn take_ready(&mut self) {
        self.skip();
        self.0.pop_front();
    }

    /// Removes the next ReadyForQuery, and not what precedes it.
    pub(super) fn void_ready(&mut self) {
        let ready = self.0.iter().position(|(reply, _)| *reply == Reply::Ready);
        ready.map(|at| self.0.remove(at));
    }

    /// Returns the next answer if the wire has to give it.
    pub(super) fn to_give(&self) -> Option<Reply> {
        let given =
            |(reply, handling): &(Reply, Handling)| (*handling == Handling::Give).then_some(*reply);
        self.0.front().and_then(given)
    }
}

#[cfg(test)]
mod tests {
    use super::Handling::{Give, Pass, Swallow};
    use super::Reply::{Bind, Close, Describe, Execute, Parse, Ready};
    use super::*;

    fn expected(answers: &[(Reply, Handling)]) -> Expected {
        Expected(answers.iter().copied().collect())
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
        let swallowed = |tag| expected.begin(tag) == Swallow;
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
        let mut expected = expected(&[
            (Parse, Swallow),
            (Bind, Pass),
            (Ready, Pass),
            (Close, Give),
            (Ready, Give),
        ]);
        assert_eq!(expected.to_give(), None);
        expected.skip();
        assert_eq!(expected.begin(b'Z'), Pass);
        expected.take_ready();
        assert_eq!(expected.to_give(), Some(Close));
    }

    #[test]
    fn void_sync_leaves_what_precedes_it() {
        let mut expected = expected(&[(Execute, Swallow), (Ready, Pass), (Ready, Pass)]);
        expected.void_ready();
        assert_eq!(expected.begin(b'G'), Pass);
        assert_eq!(expected.begin(b'C'), Swallow);
        expected.take_ready();
        assert!(expected.0.is_empty());
    }
}
