//! Decides whether a connection was left open.

use super::report::{Outcome, Step};
use super::rest::{Remedy, is_outside_transaction, remedy};
use crate::config::Reset;
use crate::pool::Lease;

impl Lease {
    /// Returns whether nothing has to be removed from the session.
    pub(super) fn is_at_rest(&self) -> bool {
        let (session, reset) = (self.session(), self.settings().reset);
        let snapshot = session.pump();
        let remedy = remedy(&snapshot, reset, session.link.pooler);
        let asked = reset == Reset::Always || remedy == Remedy::None;
        snapshot.is_over() || (is_outside_transaction(&snapshot) && asked)
    }

    /// Returns whether these steps have removed what was left behind. Waiting for the answer to a
    /// ROLLBACK, which the driver sends for a dropped transaction, has not, and neither has what
    /// the response decided.
    pub(super) fn removed(&self, outcome: &Outcome, keep: bool) -> bool {
        let is_closed = outcome.closed().is_some();
        let at_rest = || self.session().link.wire.terminated_at_rest();
        if outcome.has(Step::Cancelled) {
            return true;
        }
        let removed = outcome.has(Step::RolledBack) || outcome.has(Step::Reset);
        !self.rolls_back() && (removed || is_closed && (keep || !at_rest()))
    }
}
