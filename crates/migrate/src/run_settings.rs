//! The settings of a run.

use std::time::Duration;

/// The settings of a [`Runner`](super::Runner) or a [`ToolRunner`](super::ToolRunner).
#[derive(Debug, Clone)]
pub(super) struct RunSettings {
    /// How long a statement may wait for a lock; other sessions queue behind it meanwhile.
    pub(super) lock_timeout: Duration,
    pub(super) statement_timeout: Duration,
    /// The `statement_timeout` of statements that do not block reads and writes.
    pub(super) concurrent_timeout: Duration,
    /// The number of attempts after lock timeouts, the first included, and how long to retry.
    pub(super) attempts: u32,
    pub(super) retry_for: Duration,
    /// The longest first delay, and the longest of all.
    pub(super) backoff: [Duration; 2],
    /// How long to retry while every connection slot is taken.
    pub(super) slot_wait: Duration,
    /// How long to wait for another runner.
    pub(super) lock_wait: Duration,
    /// Blocking sessions that are idle in a transaction for longer are ended.
    pub(super) terminate_age: Option<Duration>,
    /// Whether findings of the lint are an error.
    pub(super) refuse_findings: bool,
}

impl Default for RunSettings {
    fn default() -> Self {
        let seconds = Duration::from_secs;
        RunSettings {
            lock_timeout: seconds(2),
            statement_timeout: seconds(30),
            concurrent_timeout: seconds(30 * 60),
            attempts: 10,
            retry_for: seconds(5 * 60),
            backoff: [seconds(1), seconds(15)],
            slot_wait: Duration::ZERO,
            lock_wait: seconds(5 * 60),
            terminate_age: None,
            refuse_findings: false,
        }
    }
}
