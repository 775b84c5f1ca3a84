//! Decides whether a connection was left open.

use super::remedy::{Remedy, is_outside_transaction, remedy};
use super::report::{Outcome, Step};
use crate::config::Reset;
use crate::pool::Lease;
use crate::wire::Snapshot;

impl Lease {
    /// Returns whether nothing has to be removed from a session in this state.
    pub(crate) fn is_at_rest(&self, snapshot: &Snapshot) -> bool {
        snapshot.is_over() || (is_outside_transaction(snapshot) && !self.has_state(snapshot))
    }

    /// Returns whether another driver has the session, and waits for the answer to its ROLLBACK.
    pub(super) fn ends_for_driver(&self) -> bool {
        let wire = &self.session().link.wire;
        wire.is_diverted() && wire.is_ending()
    }

    /// Returns whether state of the session was left, where it is not removed in any case.
    fn has_state(&self, snapshot: &Snapshot) -> bool {
        let (pooler, reset) = (self.session().link.pooler, self.settings().reset);
        reset != Reset::Always && remedy(snapshot, reset, pooler) != Remedy::None
    }

    /// Returns whether these steps have removed what was left behind. Waiting for the answer to a
    /// ROLLBACK, which the driver sends for a dropped transaction, has not, and neither has the
    /// ROLLBACK that the response decided.
    pub(super) fn removed(&self, outcome: &Outcome, keep: bool) -> bool {
        let wire = &self.session().link.wire;
        let is_closed = outcome.closed().is_some();
        let was_reset = outcome.has(Step::Reset) && self.settings().reset != Reset::Always;
        let state = was_reset || is_closed && self.has_state(&wire.snapshot());
        let unsettled = is_closed && (keep || !wire.terminated_at_rest());
        let open = outcome.has(Step::RolledBack) || unsettled;
        outcome.has(Step::Cancelled) || state || open && !self.rolls_back()
    }
}
