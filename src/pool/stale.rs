//! Connections that are kept and had better not be.
//!
//! No timer runs in a frozen process, so it is looked at whenever a connection is leased
//! and whenever one comes back, and at all that are kept: the one that was used last is
//! leased first, and the others might never be.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::{Idle, Pool, lock};
use crate::observe;

/// Why a connection is not kept that did not answer.
pub(super) const NO_ANSWER: &str = "no answer";

/// Somebody who waits for the server, and whom another's connection would serve as well.
pub(super) struct Wanting<'a>(&'a AtomicUsize);

impl Pool {
    /// Ends what was kept for too long.
    pub(super) fn end_old(&self) {
        self.discard(|idle| self.is_old(idle));
    }

    /// Ends what others need more, or was kept for too long.
    pub(super) fn end_stale(&self) {
        let crowded = self.limits.room.is_crowded() && self.wanted() == 0;
        let crowded = crowded.then_some("the server is crowded");
        self.discard(|idle| self.is_old(idle).or(crowded));
    }

    /// What made one connection fall silent has most likely hit all that were idle for
    /// as long: asking each would take its time.
    pub(super) fn end_forgotten(&self) {
        let limit = self.config().probe_after;
        self.discard(|idle| (self.clock.since(idle.since) > limit).then_some(NO_ANSWER));
    }

    /// How many wait for the server.
    pub(super) fn wanted(&self) -> usize {
        self.wanting.load(Ordering::Relaxed)
    }

    pub(super) fn want(&self) -> Wanting<'_> {
        self.wanting.fetch_add(1, Ordering::Relaxed);
        Wanting(&self.wanting)
    }

    fn is_old(&self, idle: &Idle) -> Option<&'static str> {
        if self.clock.since(idle.session.opened()) >= self.config().max_age {
            return Some("too old");
        }
        let limit = self.config().max_idle_time?;
        (self.clock.since(idle.since) >= limit).then_some("idle for too long")
    }

    fn discard(&self, why: impl Fn(&Idle) -> Option<&'static str>) {
        let mut discarded = Vec::new();
        lock(&self.kept).idle.retain(|idle| {
            let why = why(idle);
            discarded.extend(why.map(|why| (idle.session.clone(), why)));
            why.is_none()
        });
        for (session, why) in discarded {
            observe::discarded(session.process(), why);
            // Terminate goes out; nobody needs to wait for the answer.
            session.end();
            session.pump();
        }
    }
}

impl Drop for Wanting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
