//! Evicts idle connections that are too old, or that the server has no room for.
//!
//! No timer runs in a frozen process, so all idle connections are looked at whenever one is
//! leased and whenever one is given back: the one that was used last is leased first, and
//! the others might never be.

use super::pools::{Idle, Pool};
use crate::observe;

/// Why a connection that did not answer is discarded.
pub(super) const NO_ANSWER: &str = "no answer";

impl Pool {
    /// Ends what was kept for too long.
    pub(super) fn end_old(&self) {
        self.discard(|idle| self.is_old(idle));
    }

    /// Ends what others need more, or was kept for too long.
    pub(super) fn end_stale(&self) {
        let crowded = self.shared.limits.room.is_crowded() && self.waiting.is_empty();
        let crowded = crowded.then_some("the server is crowded");
        self.discard(|idle| self.is_old(idle).or(crowded));
    }

    /// What made one connection fall silent has most likely hit all that were idle for
    /// as long: asking each would take its time.
    pub(super) fn end_forgotten(&self) {
        let limit = self.settings().test_after_idle;
        self.discard(|idle| (self.shared.clock.since(idle.since) > limit).then_some(NO_ANSWER));
    }

    fn is_old(&self, idle: &Idle) -> Option<&'static str> {
        if self.shared.clock.since(idle.session.opened()) >= self.settings().max_age {
            return Some("too old");
        }
        let limit = self.settings().max_idle_time?;
        (self.shared.clock.since(idle.since) >= limit).then_some("idle for too long")
    }

    fn discard(&self, why: impl Fn(&Idle) -> Option<&'static str>) {
        let mut discarded = Vec::new();
        self.retain_idle(|idle| {
            let why = why(idle);
            discarded.extend(why.map(|why| (idle.session.clone(), why)));
            why.is_none()
        });
        for (session, why) in discarded {
            observe::discarded(session.process(), why);
            // Terminate goes out; its answer need not be awaited.
            session.end();
            session.pump();
        }
    }
}
