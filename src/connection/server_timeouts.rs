//! Sets the server's timeouts that are not part of the startup packet.
//!
//! An older server refuses a session because of one parameter that it does not know, and its
//! version is known only when the session begins. So the newer ones are set behind the startup
//! and in front of the first statement, in the same flight, and the answer is not awaited. They
//! do not leave with the last message of SCRAM either: that would save no round trip, and the
//! version is not known then.

use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::future::{OptionFuture, join};

use super::ServerSession;
use super::parameters::has;
use crate::config::{CLIENT_CHECK, Pooler, ServerTimeout, set_statements};
use crate::observe;
use crate::wire::OwnAnswer;

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
        let longest = self.longest(granted);
        let before = self.longest_call.fetch_max(longest, Ordering::AcqRel);
        let set = match before {
            0 => self.startup_timeouts(),
            before => self.server_timeouts(before),
        };
        let mut wanted = self.server_timeouts(longest.max(before));
        // What another driver has asked for holds until it is reset.
        let drivers = self.parameters.lock().clone();
        wanted.retain(|timeout| !set.contains(timeout) && !has(&drivers, timeout.0));
        if wanted.is_empty() {
            return;
        }
        // A server that cannot check its client refuses that alone.
        let check = wanted.iter().position(|timeout| *timeout == CLIENT_CHECK);
        let check = check.map(|at| wanted.remove(at));
        let check = OptionFuture::from(check.and_then(|check| self.set(&[check])));
        let timeouts = OptionFuture::from(self.set(&wanted));
        let connector = self.connector.clone();
        self.spawn_answer(async move {
            let (timeouts, check) = join(timeouts, check).await;
            let error = |answer: Option<Option<OwnAnswer>>| answer.flatten()?.error;
            if let Some(sqlstate) = error(timeouts) {
                connector
                    .report_server_timeouts(|run| observe::server_timeouts_refused(&sqlstate, run));
            }
            if error(check).is_some() {
                connector.refuses_client_check();
            }
        });
    }

    /// Sets `timeouts`. `None` if there are none, or if the connection has ended, which its
    /// holder will learn.
    fn set(
        &self,
        timeouts: &[ServerTimeout],
    ) -> Option<impl Future<Output = Option<OwnAnswer>> + Send + use<>> {
        if timeouts.is_empty() {
            return None;
        }
        self.ask(&set_statements(timeouts), false)
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

    /// Returns the timeouts for calls of at most `longest` seconds.
    fn server_timeouts(&self, longest: u64) -> Vec<ServerTimeout> {
        self.connector.server_timeouts(longest, self.link.version)
    }

    /// Returns the timeouts that the session was started with.
    fn startup_timeouts(&self) -> Vec<ServerTimeout> {
        self.connector.settings().startup_timeouts(self.started_for)
    }

    /// Returns the statements that have to follow a reset, which resets all timeouts to what the
    /// session was started with. Empty if there are none.
    pub(crate) fn server_timeouts_again(&self) -> String {
        let again = |timeout| format!("; {}", set_statements(&[timeout]));
        self.timeouts_behind_startup()
            .into_iter()
            .map(again)
            .collect()
    }

    /// Returns the timeouts in force that the session was not started with.
    pub(super) fn timeouts_behind_startup(&self) -> Vec<ServerTimeout> {
        if self.link.pooler != Pooler::None {
            return Vec::new();
        }
        let longest = self.longest_call.load(Ordering::Acquire).max(1);
        let mut timeouts = self.server_timeouts(longest);
        let set = self.startup_timeouts();
        timeouts.retain(|timeout| !set.contains(timeout));
        timeouts
    }
}
