//! Begins a transaction with its first statement.

use super::expected::{Handling, Reply};
use super::frontend::{Begin, Frontend};
use super::rewrite;
use super::tracker::Tracker;

impl Frontend {
    /// Puts BEGIN in front of the next statement that is sent outside a transaction.
    pub(super) fn arm(&mut self, sql: &str) {
        self.begin = Some(Begin {
            sql: sql.into(),
            armed: true,
            failed: false,
        });
    }

    /// Ends the lazily begun transaction. Returns whether a statement of it failed without
    /// leaving a failed transaction behind.
    pub(super) fn disarm(&mut self) -> bool {
        self.begin.take().is_some_and(|begin| begin.failed)
    }

    /// Returns whether a lazily begun transaction is open, or is still to be begun.
    pub(super) fn begins(&self) -> bool {
        self.begin.is_some()
    }

    /// Puts in front of a unit what has to precede its first message that is sent.
    #[inline]
    pub(super) fn lead(&mut self, tracker: &mut Tracker) {
        if self.is_by_content() && !tracker.open().sent {
            self.close_retired(tracker);
        }
        if self.begins() {
            self.begin_under_sync(tracker);
        }
    }

    /// Puts BEGIN in front of the unit whose first effective message comes now.
    fn begin_under_sync(&mut self, tracker: &mut Tracker) {
        if let Some(begin) = self.begin.as_mut().filter(|begin| begin.armed) {
            begin.armed = false;
            tracker.prepared.unnamed = None;
            rewrite::begin(&begin.sql, &mut tracker.out);
            tracker.open().begins = true;
            for reply in [Reply::Parse, Reply::Bind, Reply::Execute] {
                tracker.expect(reply, Handling::Swallow);
            }
        }
    }
}
