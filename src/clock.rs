//! Reads the wall clock, which tests can replace.
//!
//! Ages are measured by the wall clock because it is the only one that advances while the
//! process is frozen: after a thaw a monotonic clock may show the moment of the freeze, and
//! timers fire late or all at once.

use std::fmt::Debug;
use std::sync::LazyLock;
use std::time::{Duration, SystemTime};

/// Returns when this process began: the time of the first call.
pub(crate) fn process_started() -> SystemTime {
    static STARTED: LazyLock<SystemTime> = LazyLock::new(SystemTime::now);
    *STARTED
}

/// A source of the current time.
pub trait Clock: Debug + Send + Sync {
    /// Returns the current time.
    fn now(&self) -> SystemTime;

    /// Returns how long ago `then` was. If the clock was set back, the difference counts as the
    /// age: otherwise everything would stay young until the clock has caught up.
    fn since(&self, then: SystemTime) -> Duration {
        between(then, self.now())
    }
}

/// The same for several times, with the clock read once.
pub(crate) fn between(then: SystemTime, now: SystemTime) -> Duration {
    let since = now.duration_since(then);
    since.unwrap_or_else(|ahead| ahead.duration())
}

/// The system's clock.
#[derive(Debug, Clone, Copy, Default)]
pub struct System;

impl Clock for System {
    fn now(&self) -> SystemTime {
        SystemTime::now()
    }
}

/// A clock that a test moves.
#[cfg(test)]
#[derive(Debug)]
pub(crate) struct Manual(std::sync::Mutex<SystemTime>);

#[cfg(test)]
impl Manual {
    pub(crate) fn new() -> std::sync::Arc<Self> {
        std::sync::Arc::new(Manual(std::sync::Mutex::new(SystemTime::UNIX_EPOCH)))
    }

    pub(crate) fn set_back(&self, by: Duration) {
        *self.time() -= by;
    }

    pub(crate) fn advance(&self, by: Duration) {
        *self.time() += by;
    }

    fn time(&self) -> std::sync::MutexGuard<'_, SystemTime> {
        let time = self.0.lock();
        time.expect("no test panics while it moves the clock")
    }
}

#[cfg(test)]
impl Clock for Manual {
    fn now(&self) -> SystemTime {
        *self.time()
    }
}

/// The clock of a runtime whose time is paused: it moves as timers do.
#[cfg(test)]
#[derive(Debug)]
pub(crate) struct Paused(tokio::time::Instant);

#[cfg(test)]
impl Paused {
    pub(crate) fn new() -> std::sync::Arc<Self> {
        std::sync::Arc::new(Paused(tokio::time::Instant::now()))
    }
}

#[cfg(test)]
impl Clock for Paused {
    fn now(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + self.0.elapsed()
    }
}
