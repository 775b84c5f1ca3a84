//! Formats settings for the health report.

use std::time::Duration;

use super::table::Settings;

/// Longer than anything that is a limit.
const NEVER: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);

impl Settings {
    /// Returns the value as it is.
    pub(super) fn same<T>(&self, value: T) -> T {
        value
    }

    /// Returns the most connections that are kept.
    pub(super) fn kept(&self, _: Option<usize>) -> usize {
        self.idle_limit()
    }

    /// Returns a limit in seconds, if there is one.
    pub(super) fn seconds(&self, time: impl Into<Option<Duration>>) -> Option<f64> {
        let time = time.into().filter(|&time| time < NEVER);
        // Whole milliseconds: more is noise.
        time.map(|time| (time.as_secs_f64() * 1000.0).round() / 1000.0)
    }

    /// Returns a timeout of the server, if it is sent.
    pub(super) fn sent(&self, time: Duration) -> Option<f64> {
        let sent = self.sends_settings() && !time.is_zero();
        self.seconds(sent.then_some(time))
    }
}
