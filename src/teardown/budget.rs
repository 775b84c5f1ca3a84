//! Limits the time of each step of a teardown.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use crate::deadline::FAR;
use crate::wire::Wire;

/// How long teardown waits for a pending answer before it cancels the statement.
const GRACE: Duration = Duration::from_millis(50);

/// With long round trips the grace is longer: the last statement is answered after one of them.
const GRACE_ROUND_TRIPS: u32 = 2;

/// The maximum time of any other step, however much is left: a response is not held back for
/// minutes because the network is down.
const STEP: Duration = Duration::from_millis(500);

/// What a step gets at least in tests, which are not about how soon a busy machine takes it;
/// milliseconds.
static PATIENCE: AtomicU32 = AtomicU32::new(0);

/// Has each step of this process get at least so many milliseconds.
pub fn be_patient(least: u32) {
    PATIENCE.store(least, Ordering::Relaxed);
}

/// With long round trips a step gets more: connecting again with TLS takes four of them.
const STEP_ROUND_TRIPS: u32 = 10;

/// The time that is left for a teardown.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Budget {
    end: Option<Instant>,
    grace: Duration,
    step: Duration,
}

impl Budget {
    /// Makes a budget that ends at `end`, for connections with this round-trip time.
    pub(crate) fn new(end: Option<Instant>, round_trip: Duration) -> Self {
        let patience = Duration::from_millis(PATIENCE.load(Ordering::Relaxed).into());
        Budget {
            end,
            grace: GRACE.max(round_trip.saturating_mul(GRACE_ROUND_TRIPS)),
            step: STEP
                .max(round_trip.saturating_mul(STEP_ROUND_TRIPS))
                .max(patience),
        }
    }

    /// Returns the same without a limit for a step of its own: no response waits for it.
    pub(crate) fn unhurried(self) -> Budget {
        Budget { step: FAR, ..self }
    }

    /// Returns the part that several teardowns may share before another step: the time of that
    /// step, or half of what is left, is reserved.
    pub(crate) fn before_a_step(&self) -> Budget {
        let end = self.end.zip(self.left());
        Budget {
            end: end.map(|(end, left)| end - self.step.min(left / 2)),
            ..*self
        }
    }

    /// Returns the part that several teardowns may share which together take one step.
    pub(crate) fn one_step(&self) -> Budget {
        Budget {
            end: Some(Instant::now() + self.step()),
            ..*self
        }
    }

    /// Returns the limit for an answer that comes without further requests.
    pub(crate) fn grace(&self) -> Duration {
        self.part(self.grace)
    }

    /// Returns how long an answer is waited for before a CancelRequest is sent, which hastens
    /// neither the end of a transaction nor what cannot change the status.
    pub(super) fn patience(&self, wire: &Wire) -> Duration {
        if wire.is_ending() || wire.snapshot().is_settled() {
            self.step()
        } else {
            self.grace()
        }
    }

    /// Returns the limit for a step that others follow: at most half of what is left.
    pub(crate) fn step(&self) -> Duration {
        self.part(self.step)
    }

    /// Returns the limit for the last step.
    pub(crate) fn last(&self) -> Duration {
        self.left().map_or(self.step, |left| left.min(self.step))
    }

    /// Returns all the time that is left, for COMMIT, which must not be abandoned early.
    pub(crate) fn left(&self) -> Option<Duration> {
        let now = Instant::now();
        self.end.map(|end| end.saturating_duration_since(now))
    }

    fn part(&self, most: Duration) -> Duration {
        self.left().map_or(most, |left| most.min(left / 2))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn each_step_leaves_half_of_the_time() {
        let near = Duration::from_micros(100);
        let budget = |left| Budget::new(Some(Instant::now() + left), near);
        let plenty = budget(Duration::from_secs(20));
        assert_eq!((plenty.grace(), plenty.step()), (GRACE, STEP));
        assert_eq!(plenty.last(), STEP);
        let little = budget(Duration::from_millis(80));
        assert_eq!(little.grace(), Duration::from_millis(40));
        assert_eq!(little.last(), Duration::from_millis(80));
        let shared = plenty.before_a_step();
        assert_eq!(shared.left(), Some(Duration::from_secs(20) - STEP));
        assert_eq!(
            little.before_a_step().left(),
            Some(Duration::from_millis(40))
        );
        let none = budget(Duration::ZERO);
        assert_eq!(
            (none.grace(), none.last()),
            (Duration::ZERO, Duration::ZERO)
        );
    }

    #[tokio::test(start_paused = true)]
    async fn long_round_trips_get_longer_steps() {
        let budget = Budget::new(None, Duration::from_millis(120));
        assert_eq!(budget.grace(), Duration::from_millis(240));
        assert_eq!(budget.step(), Duration::from_millis(1_200));
        assert_eq!(budget.left(), None);
    }
}
