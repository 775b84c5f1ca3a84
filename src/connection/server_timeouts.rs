//! Sets the server's timeouts once a session has begun.
//!
//! They are not part of the start-up packet: an older server refuses a session because of one
//! parameter that it does not know, and its version is known only later. So they are set behind
//! the start-up and in front of the first statement, and the answer is not awaited.

use std::sync::atomic::Ordering;
use std::time::Duration;

use super::ServerSession;
use crate::config::Pooler;
use crate::observe;
use crate::wire::residue;

impl ServerSession {
    /// Sets the server's timeouts for a call that was `granted` this time, unless they are set
    /// already: what is left from a shorter call would end a longer one. Sends nothing for a
    /// call that is not longer than an earlier one.
    ///
    /// Behind a pooler, configured or detected, nothing is set: it would stay in the pooler's
    /// session, which an `idle_session_timeout` would end.
    pub(crate) fn set_server_timeouts(&self, granted: Option<Duration>) {
        if self.has_server_timeouts(granted) {
            return;
        }
        let config = self.connector.settings();
        let longest = self.longest(granted);
        let before = self.longest_call.fetch_max(longest, Ordering::AcqRel);
        let set = match before {
            0 => Vec::new(),
            before => config.server_timeouts(before),
        };
        let wanted = config.server_timeouts(longest.max(before));
        if wanted == set {
            return;
        }
        let Some(answer) = self.ask(&residue::setting(wanted), false) else {
            // The connection has ended, which its holder will learn.
            return;
        };
        let connector = self.connector.clone();
        self.spawn_answer(async move {
            if let Some(sqlstate) = answer.await.and_then(|answer| answer.error) {
                connector
                    .report_server_timeouts(|run| observe::server_timeouts_refused(&sqlstate, run));
            }
        });
    }

    /// Returns whether there is nothing to set for a call that was `granted` this time.
    pub(crate) fn has_server_timeouts(&self, granted: Option<Duration>) -> bool {
        self.link.pooler != Pooler::None
            || self.longest(granted) <= self.longest_call.load(Ordering::Acquire)
    }

    /// Returns the longest call in seconds, and at least one: until the timeouts are set,
    /// `longest_call` is zero.
    fn longest(&self, granted: Option<Duration>) -> u64 {
        self.connector.settings().longest_call(granted).max(1)
    }

    /// Returns the statement that has to follow a reset, which resets these timeouts too. Empty
    /// if there are none.
    pub(crate) fn server_timeouts_again(&self) -> String {
        let longest = self.longest_call.load(Ordering::Acquire).max(1);
        let wanted = self.connector.settings().server_timeouts(longest);
        if self.link.pooler != Pooler::None || wanted.is_empty() {
            return String::new();
        }
        format!("; {}", residue::setting(wanted))
    }
}
