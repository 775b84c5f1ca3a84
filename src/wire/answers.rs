//! Processes the server's answers for statements by content.

use bytes::{BufMut, BytesMut};

use super::expected::{Entry, Handling, Reply};
use super::message::{self, sqlstate};
use super::status::TransactionStatus;
use super::tracker::Tracker;
use super::unit::Unit;

/// The most bytes of a unit that are kept, to send it again.
const COPY: usize = 64 * 1024;

impl Tracker {
    /// Notes that one message was refused, and those behind it are skipped.
    pub(super) fn refuse(&mut self) {
        self.describes = None;
        // From here on the server skips what was sent of it.
        if let (true, Some(open)) = (self.owed.is_empty(), &mut self.open) {
            open.failed = true;
        }
        let mut skipped = self.expected.skip();
        self.refused = skipped.next();
        let first = self.refused.clone();
        for entry in first.into_iter().chain(skipped) {
            if entry.named > 0 {
                self.unprepared.push(entry.named);
            }
            match (entry.reply, entry.statement) {
                (Reply::Parse, Some(statement)) => self.prepared.lose(&statement),
                (Reply::Close, Some(statement)) => self.prepared.retire(statement),
                _ => {}
            }
        }
        self.release();
    }

    /// Returns whether a Parse and a Describe can be answered here as the server would: no
    /// transaction has failed or may have, and nothing under way changes what it would say.
    pub(super) fn may_answer(&self) -> bool {
        let mut traits = self.units().map(|unit| unit.traits);
        let alters = traits.any(|traits| traits.alters || traits.reports);
        let mut changing = self.owed.iter().filter(|unit| unit.changes);
        let steady = match self.status {
            Some(TransactionStatus::Idle) => changing.all(|unit| !unit.opens() && !unit.begins),
            Some(TransactionStatus::InTransaction) => changing.next().is_none(),
            _ => false,
        };
        let failed = self.open.as_ref().is_some_and(|unit| unit.failed);
        steady && !alters && !failed && self.is_live() && !self.alters_until_end
    }

    /// Returns whether the open unit, in which nothing was sent yet, may be sent again: it is
    /// the first thing outside a transaction, with nothing else under way.
    pub(super) fn may_repeat(&self) -> bool {
        let first = self.open.as_ref().is_none_or(|unit| !unit.sent);
        let idle = self.status == Some(TransactionStatus::Idle);
        first && idle && self.owed.iter().all(|unit| !unit.changes)
    }

    /// Keeps `bytes` of the open unit, as long as it may be sent again.
    pub(super) fn copy(&mut self, bytes: &[u8]) {
        if let Some(unit) = &mut self.open {
            let copy = unit.copy.take();
            unit.copy = copy.filter(|copy| copy.len() + bytes.len() <= COPY);
            if let Some(copy) = &mut unit.copy {
                copy.put_slice(bytes);
            }
        }
    }

    /// Returns whether a unit is about to be sent again.
    pub(super) fn repeats(&self) -> bool {
        self.owed.front().is_some_and(|unit| unit.repeats)
    }

    /// Returns whether the server accepts statements, as far as it has answered.
    pub(super) fn accepts(&self) -> bool {
        !matches!(self.status, None | Some(TransactionStatus::Failed))
    }

    /// Returns whether nothing that the client has sent is under way.
    pub(super) fn is_quiet(&self) -> bool {
        let answered = |unit: &Unit| !unit.sent || unit.question.is_some();
        self.is_live() && self.open.is_none() && self.owed.iter().all(answered)
    }

    /// Returns whether the open unit has failed, so that the server skips the rest of it.
    pub(super) fn skips(&self) -> bool {
        self.open.as_ref().is_some_and(|unit| unit.failed)
    }

    /// Processes a message of the description of a statement.
    pub(super) fn described(&mut self, message: &[u8]) {
        if let Some((statement, mut description)) = self.describes.take() {
            description.put_slice(message);
            if message[0] == b't' {
                self.describes = Some((statement, description));
            } else {
                let _ = statement.description.set(description.freeze());
            }
        }
    }

    /// Processes an error, to a user who may get another one. `None`: the unit is sent again.
    pub(super) fn error(&mut self, message: BytesMut) -> Option<BytesMut> {
        let refused = self.refused.take();
        let executes =
            |entry: &Entry| matches!(entry.reply, Reply::Execute | Reply::Copy | Reply::Ready);
        self.facts.before_execution = refused.as_ref().is_some_and(|entry| !executes(entry));
        let Some(refused) = refused else {
            return Some(message);
        };
        let body = message.get(5..).unwrap_or_default();
        let code = sqlstate(body);
        let missing = code == Some(*b"26000");
        if let Handling::Replace(error) = refused.handling {
            return Some(if missing {
                BytesMut::from(&error[..])
            } else {
                message
            });
        }
        let bound = refused.statement.filter(|_| refused.reply == Reply::Bind);
        let Some(statement) = bound else {
            return Some(message);
        };
        // XX000: the type of a parameter is missed.
        let changed = code == Some(*b"XX000")
            || code == Some(*b"0A000")
                && message::strings(body).any(|field| field == b"RRevalidateCachedQuery");
        if missing {
            self.prepared.lose(&statement);
        } else if changed {
            self.prepared.outdate(&statement);
        }
        // What was sent behind it would be executed before it.
        let users = self.owed.iter().filter(|unit| unit.question.is_none());
        let alone = users.count() == 1 && self.open.is_none();
        let unit = self
            .owed
            .front_mut()
            .filter(|unit| alone && (missing || changed) && unit.copy.is_some());
        let Some(unit) = unit else {
            return Some(message);
        };
        unit.repeats = true;
        self.prepared.lose(&statement);
        self.expected.swallow_ready();
        None
    }
}
