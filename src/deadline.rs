//! Tracks the time that a host grants, and the part of it that is reserved for teardown.

use std::time::Duration;
#[cfg(any(test, feature = "lambda"))]
use std::time::SystemTime;

use tokio::time::Instant;

/// The minimum that is reserved for teardown.
const RESERVE: Duration = Duration::from_millis(250);

/// The number of round trips that is reserved for teardown: cancel (TCP, TLS, request),
/// ROLLBACK, reset and Terminate.
const RESERVE_ROUND_TRIPS: u32 = 8;

/// The time reserved for the response to reach the host: a small function, or one on a busy
/// machine, shares its processor.
const RESPONSE_RESERVE: Duration = Duration::from_millis(50);

/// The maximum time: longer than any host runs a function, and short enough to be added to any
/// instant without an overflow.
pub(crate) const FAR: Duration = Duration::from_secs(10 * 365 * 24 * 60 * 60);

/// The time by which an invocation has to end.
///
/// A host gives its deadline by the wall clock. It is converted to an instant once, on arrival:
/// the clock may be set later, and after a thaw it may be behind.
///
/// ```
/// use std::time::Duration;
/// use antifreeze::Deadline;
///
/// let deadline = Deadline::after(Duration::from_secs(30));
/// assert!(deadline.remaining().unwrap() > Duration::from_secs(29));
/// assert_eq!(Deadline::none().remaining(), None);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deadline {
    arrived: Instant,
    at: Option<Instant>,
    /// Whether this is an internal limit, independent of the function's timeout.
    internal: bool,
}

impl Deadline {
    /// Sets no deadline, for a job or a test.
    pub fn none() -> Self {
        Deadline {
            arrived: Instant::now(),
            at: None,
            internal: false,
        }
    }

    /// Ends `left` from now.
    pub fn after(left: Duration) -> Self {
        let arrived = Instant::now();
        Deadline {
            arrived,
            at: Some(arrived + left.min(FAR)),
            internal: false,
        }
    }

    /// Limits internal work, independent of the function's timeout.
    pub(crate) fn internal(limit: Duration) -> Self {
        Deadline {
            internal: true,
            ..Deadline::after(limit)
        }
    }

    pub(crate) fn is_internal(&self) -> bool {
        self.internal
    }

    /// Converts a host's deadline by the wall clock; it ends at most `cap` from now.
    ///
    /// A deadline before `started`, when this process began, is ignored: local emulators send
    /// such deadlines. One that has passed since then has ended already.
    #[cfg(any(test, feature = "lambda"))]
    pub(crate) fn at(at: SystemTime, now: SystemTime, started: SystemTime, cap: Duration) -> Self {
        match at.duration_since(now) {
            Ok(left) => Deadline::after(left.min(cap)),
            Err(_) if at < started => Deadline::after(cap),
            Err(_) => Deadline::after(Duration::ZERO),
        }
    }

    /// Returns the earlier of this deadline and `cap` after its arrival.
    pub(crate) fn capped(mut self, cap: Duration) -> Self {
        let capped = self.arrived + cap.min(FAR);
        self.at = Some(self.at.map_or(capped, |at| at.min(capped)));
        self
    }

    /// Returns the time since the arrival.
    pub(crate) fn elapsed(&self) -> Duration {
        self.arrived.elapsed()
    }

    /// Returns the time that is left; `None` without a deadline.
    pub fn remaining(&self) -> Option<Duration> {
        let now = Instant::now();
        self.at.map(|at| at.saturating_duration_since(now))
    }

    /// Returns when the response must have been sent.
    pub(crate) fn end(&self) -> Option<Instant> {
        self.at
            .map(|at| at - RESPONSE_RESERVE.min(self.granted() / 40))
    }

    /// Returns when the handler is interrupted, so that teardown over connections with this
    /// round-trip time can still complete.
    pub(crate) fn cutoff(&self, round_trip: Duration) -> Option<Instant> {
        let wanted = RESERVE.max(round_trip.saturating_mul(RESERVE_ROUND_TRIPS));
        self.at.map(|at| at - wanted.min(self.granted() / 4))
    }

    /// Returns the time that the host granted on arrival; `None` if unknown.
    pub(crate) fn whole(&self) -> Option<Duration> {
        (!self.internal && self.at.is_some()).then(|| self.granted())
    }

    fn granted(&self) -> Duration {
        self.at
            .map_or(FAR, |at| at.saturating_duration_since(self.arrived))
    }
}

impl From<Duration> for Deadline {
    fn from(left: Duration) -> Self {
        Deadline::after(left)
    }
}

impl From<Option<Duration>> for Deadline {
    fn from(left: Option<Duration>) -> Self {
        left.map_or_else(Deadline::none, Deadline::after)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const CAP: Duration = Duration::from_secs(900);

    fn seconds(at: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(at)
    }

    #[tokio::test(start_paused = true)]
    async fn wall_clock_deadline_is_read_once_and_capped() {
        let left = |at, now, started| {
            Deadline::at(seconds(at), seconds(now), seconds(started), CAP).remaining()
        };
        assert_eq!(left(1_003, 1_000, 900), Some(3 * SECOND));
        assert_eq!(
            left(99_999, 1_000, 900),
            Some(CAP),
            "a clock that was behind"
        );
        assert_eq!(
            left(600, 1_000, 900),
            Some(CAP),
            "an emulator's deadline in the past"
        );
        assert_eq!(left(950, 1_000, 900), Some(Duration::ZERO), "over");
    }

    #[tokio::test(start_paused = true)]
    async fn reserve_is_at_most_a_quarter() {
        let kept = |left: Duration, round_trip| {
            let deadline = Deadline::after(left);
            deadline.at.expect("set") - deadline.cutoff(round_trip).expect("set")
        };
        let fast = Duration::from_micros(200);
        let slow = Duration::from_millis(100);
        assert_eq!(kept(30 * SECOND, fast), RESERVE);
        assert_eq!(kept(30 * SECOND, slow), Duration::from_millis(800));
        assert_eq!(kept(SECOND / 2, slow), SECOND / 8);
        assert_eq!(kept(Duration::ZERO, slow), Duration::ZERO);
        assert_eq!(kept(Duration::MAX, Duration::MAX), FAR / 4);
    }

    #[tokio::test(start_paused = true)]
    async fn earlier_deadline_wins() {
        assert_eq!(
            Deadline::after(30 * SECOND).capped(SECOND).remaining(),
            Some(SECOND)
        );
        assert_eq!(
            Deadline::after(SECOND).capped(30 * SECOND).remaining(),
            Some(SECOND)
        );
        assert_eq!(Deadline::none().capped(SECOND).remaining(), Some(SECOND));
    }
}
