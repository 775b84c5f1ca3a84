//! Follows COPY, in which a server may ignore a Sync or answer it.
//!
//! In COPY mode it ignores one (manual, "Message Flow", "COPY Operations"), and `copy_in` of
//! tokio-postgres sends one with the Execute. But a COPY that has begun may fail before the
//! server reads anything, as it does when a trigger of the table raises: then it answers that
//! Sync, and the one behind CopyDone. Which of them comes cannot be known, so the Sync is
//! withheld until the server has begun the COPY or refused it, with a Flush in its place. In
//! COPY mode none is sent.

use bytes::BufMut;

use super::message::{FLUSH, SYNC};
use super::residue::Residue;
use super::tracker::Tracker;
use super::unit::{Answer, Unit};

impl Tracker {
    /// Returns whether the Sync that comes next has to be withheld, and sends a Flush then.
    pub(super) fn withholds_sync(&mut self) -> bool {
        let open = self.open.as_mut();
        let Some(open) = open.filter(|unit| unit.traits.copies) else {
            return false;
        };
        let withholds = self.expected.copies();
        if withholds {
            open.withheld = true;
            self.out.put_slice(FLUSH);
            if let Some(watched) = &mut self.watched {
                watched.asked();
            }
        }
        withholds
    }

    /// Returns whether a Sync is withheld.
    #[inline]
    pub(super) fn is_withholding(&self) -> bool {
        self.open.as_ref().is_some_and(|unit| unit.withheld)
    }

    /// Sends the Sync that was withheld, unless a COPY can still begin.
    pub(super) fn release(&mut self) -> Option<Answer> {
        if !self.is_withholding() || self.expected.copies() {
            return None;
        }
        self.out.put_slice(SYNC);
        self.sent_sync();
        self.released = true;
        Some(Answer::Described)
    }

    /// Processes CopyInResponse.
    ///
    /// That it asks for the data shows that the BEGIN in front succeeded; the data must not wait
    /// for a ReadyForQuery, which comes only after it.
    pub(super) fn copy_in(&mut self) -> Option<Answer> {
        match self.owed.front_mut() {
            Some(unit) if unit.simple => {
                unit.copy_in = true;
                return unit.holds().then_some(Answer::Begun);
            }
            Some(unit) if unit.copy_ended => {}
            // A COPY of which nothing was known, with a Sync under way.
            Some(_) => self.lose(),
            None => {
                self.expected.copy_begins();
                let open = self.open();
                open.copy_in = true;
                let withheld = std::mem::take(&mut open.withheld);
                return withheld.then_some(Answer::Begun);
            }
        }
        None
    }

    /// Processes CopyOutResponse.
    pub(super) fn copy_out(&mut self) -> Option<Answer> {
        self.expected.copy_begins();
        self.release()
    }

    /// Notes that CopyDone or CopyFail was sent.
    pub(super) fn sent_copy_end(&mut self) {
        if let Some(unit) = self.owed.front_mut().filter(|unit| unit.copy_in) {
            unit.copy_in = false;
            return;
        }
        if self.expected.copies() {
            // The server has not asked for data.
            return self.lose();
        }
        let open = self.open();
        let expected = std::mem::take(&mut open.copy_in);
        open.changes = true;
        open.sent = true;
        if !expected {
            // The server has refused the COPY: one more Sync is answered than tokio-postgres
            // expects.
            match self.owed.back_mut() {
                Some(unit) => unit.ends_early = true,
                None => self.residue.add(Residue::Client),
            }
        }
    }

    /// Ends a COPY whose data will not be sent. The server may not have begun it yet: it reads
    /// CopyFail then in its turn, or skips it, and answers the Sync behind it once.
    pub(super) fn end_copy(&mut self) {
        const COPY_FAIL: &[u8] = b"f\0\0\0\x05\0";
        if let Some(open) = self.open.as_mut().filter(|_| self.expected.copies()) {
            (open.withheld, open.copy_ended) = (false, true);
            self.expected.copy_begins();
            self.out.put_slice(COPY_FAIL);
        } else if self.is_copying_in() {
            self.out.put_slice(COPY_FAIL);
            self.sent_copy_end();
        }
    }

    /// Returns whether the server is in COPY mode in the middle of the open unit.
    pub(super) fn ignores_sync(&self) -> bool {
        let copies = |unit: &Unit| unit.copy_in && !unit.failed;
        self.open.as_ref().is_some_and(copies)
    }

    /// Returns whether the server waits for COPY data that may never be sent.
    pub(super) fn is_copying_in(&self) -> bool {
        self.units().any(|unit| unit.copy_in)
    }
}
