//! Time limits for the steps of a teardown.

use std::time::Duration;

use tokio::time::Instant;

/// How long an answer that is owed is waited for before it is cancelled.
const GRACE: Duration = Duration::from_millis(50);

/// On a long way it gets more: what was asked last is answered after one round trip.
const GRACE_ROUND_TRIPS: u32 = 2;

/// How long any other step may take, however much time is left: a response is not
/// held for minutes because the network is gone.
const STEP: Duration = Duration::from_millis(500);

/// On a long way a step gets more: redialling with TLS is four round trips.
const STEP_ROUND_TRIPS: u32 = 10;

/// What is left for a teardown.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Budget {
    end: Option<Instant>,
    grace: Duration,
    step: Duration,
}

impl Budget {
    /// Until `end`, over connections with this round-trip time.
    pub(crate) fn new(end: Option<Instant>, round_trip: Duration) -> Self {
        Budget {
            end,
            grace: GRACE.max(round_trip.saturating_mul(GRACE_ROUND_TRIPS)),
            step: STEP.max(round_trip.saturating_mul(STEP_ROUND_TRIPS)),
        }
    }

    /// What several may share that a step is to follow: a step is kept for that, or half
    /// of what is left.
    pub(crate) fn before_a_step(&self) -> Budget {
        let kept = |left: Duration| self.step.min(left / 2);
        Budget {
            end: self
                .end
                .zip(self.left())
                .map(|(end, left)| end - kept(left)),
            ..*self
        }
    }

    /// What several may share that take no longer than one step.
    pub(crate) fn one_step(&self) -> Budget {
        Budget {
            end: Some(Instant::now() + self.step()),
            ..*self
        }
    }

    /// For an answer that is on its way by itself.
    pub(crate) fn grace(&self) -> Duration {
        self.part(self.grace)
    }

    /// For a step that others are to follow: at most half of what is left.
    pub(crate) fn step(&self) -> Duration {
        self.part(self.step)
    }

    /// For the last step.
    pub(crate) fn last(&self) -> Duration {
        self.left().map_or(self.step, |left| left.min(self.step))
    }

    /// All that is left, for what must not be given up early: COMMIT.
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
