//! Evicts idle connections that are too old, or whose slots others need.
//!
//! No timer runs in a frozen process, so all idle connections are examined whenever one is
//! leased or given back: the one used last is leased first, and the others might never be.

use std::time::SystemTime;

use super::pools::{Idle, Pool};
use crate::clock::between;
use crate::observe;

/// The reason for discarding a connection that did not answer.
pub(super) const NO_ANSWER: &str = "no answer";

impl Pool {
    /// Ends idle connections that are too old.
    pub(super) fn end_old(&self) {
        let now = self.shared.clock.now();
        self.discard(|idle| self.expired(idle, now));
    }

    /// Ends idle connections that are too old, and all of them if the server is crowded. Returns
    /// whether it is.
    pub(super) fn end_stale(&self, now: SystemTime) -> bool {
        let is_crowded = self.shared.limits.room.is_crowded();
        let ends_all = is_crowded && self.waiting.is_empty();
        let crowded = ends_all.then_some("the server is crowded");
        self.discard(|idle| self.expired(idle, now).or(crowded));
        is_crowded
    }

    /// Ends all connections that were idle for long, after one of them did not answer: most
    /// likely the others are dead too, and testing each would take a timeout.
    pub(super) fn end_forgotten(&self) {
        let limit = self.settings().test_after_idle;
        self.discard(|idle| (self.shared.clock.since(idle.since) > limit).then_some(NO_ANSWER));
    }

    /// Returns why a connection is too old to be kept, if it is.
    pub(super) fn expired(&self, idle: &Idle, now: SystemTime) -> Option<&'static str> {
        if between(idle.session.opened, now) >= self.settings().max_age {
            return Some("too old");
        }
        let limit = self.settings().max_idle_time?;
        (between(idle.since, now) >= limit).then_some("idle for too long")
    }

    /// Ends the idle connections for which `reason` has one.
    fn discard(&self, reason: impl Fn(&Idle) -> Option<&'static str>) {
        let mut discarded = Vec::new();
        self.retain_idle(|idle| {
            let reason = reason(idle);
            discarded.extend(reason.map(|reason| (idle.session.clone(), reason)));
            reason.is_none()
        });
        for (session, reason) in discarded {
            observe::discarded(session.process(), reason);
            self.shared.meters.discarded(reason);
            // Sends Terminate; the end of the session need not be awaited.
            session.terminate();
            session.pump();
        }
    }
}
