//! How migrations are run.

use std::time::Duration;

/// What a [`Runner`](super::Runner) and an [`Around`](super::Around) are told.
#[derive(Debug, Clone)]
pub(super) struct Settings {
    /// How long a lock is waited for, and so how long anybody queues behind us.
    pub(super) lock_timeout: Duration,
    pub(super) statement_timeout: Duration,
    /// The `statement_timeout` of what locks nobody out.
    pub(super) concurrent_timeout: Duration,
    /// How often what is blocked is tried, the first time included, and for how long.
    pub(super) attempts: u32,
    pub(super) retry_for: Duration,
    /// The ceilings of the first pause and of any.
    pub(super) backoff: [Duration; 2],
    /// How long to try for a slot of the server's.
    pub(super) slot_wait: Duration,
    /// How long another runner is waited for.
    pub(super) lock_wait: Duration,
    /// Sessions idle in a transaction for longer are ended, if they block us.
    pub(super) consent: Option<Duration>,
    /// What the lint finds is an error.
    pub(super) refuse_findings: bool,
}

impl Default for Settings {
    fn default() -> Self {
        let seconds = Duration::from_secs;
        Settings {
            lock_timeout: seconds(2),
            statement_timeout: seconds(30),
            concurrent_timeout: seconds(30 * 60),
            attempts: 10,
            retry_for: seconds(5 * 60),
            backoff: [seconds(1), seconds(15)],
            slot_wait: Duration::ZERO,
            lock_wait: seconds(5 * 60),
            consent: None,
            refuse_findings: false,
        }
    }
}
