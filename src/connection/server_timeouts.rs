//! Sets the server's timeouts once a session has begun.
//!
//! The start-up packet is no place for it: an older server refuses a session for one
//! parameter that it does not know, and which it knows it says only later. So it is told
//! behind the start-up and in front of the first statement, and the answer is not awaited.

use std::pin::pin;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::TryStreamExt;
use tokio_postgres::Client;

use super::Session;
use crate::config::{Pooler, ServerTimeout};
use crate::error::Error;
use crate::observe;
use crate::wire::residue;

impl Session {
    /// Tells the server what it is to end by itself, in a session for a call that was
    /// `granted` so much, unless it has been told already: what is left over from a shorter
    /// call would end a longer one. Not one byte is sent for a call that is as long as one
    /// before.
    pub(crate) async fn tell_server_timeouts(&self, client: &Client, granted: Option<Duration>) {
        if self.is_pooled() {
            return;
        }
        let config = self.connector.settings();
        let longest = config.longest_call(granted);
        let before = self.longest_call.fetch_max(longest, Ordering::AcqRel);
        let told = match before {
            0 => Vec::new(),
            before => config.server_timeouts(before),
        };
        let server_timeouts = config.server_timeouts(longest.max(before));
        if server_timeouts == told {
            return;
        }
        let Ok(answers) = client.simple_query_raw(&sql(server_timeouts)).await else {
            // The connection is at its end, and whoever asked for it will hear of it.
            return;
        };
        let connector = self.connector.clone();
        self.see_to(async move {
            let mut answers = pin!(answers);
            while match answers.try_next().await {
                Ok(answer) => answer.is_some(),
                Err(error) => {
                    let gone = Error::is_gone(&error);
                    if let Some(error) = error.as_db_error() {
                        // One that was taken away, or that has ended, refused nothing.
                        if !gone {
                            connector.report_server_timeouts(|run| {
                                observe::server_timeouts_refused(error, run)
                            });
                        }
                    }
                    false
                }
            } {}
        });
    }

    /// What a reset has to be followed by, since it takes ours away too. Empty if there are
    /// none.
    pub(crate) fn server_timeouts_again(&self) -> String {
        if self.is_pooled() {
            return String::new();
        }
        let longest = self.longest_call.load(Ordering::Acquire).max(1);
        match self.connector.settings().server_timeouts(longest) {
            server_timeouts if server_timeouts.is_empty() => String::new(),
            server_timeouts => format!("; {}", sql(server_timeouts)),
        }
    }

    /// Be it that the configuration says so, or that the server has shown it: what is told
    /// there stays with the pooler's session, and an `idle_session_timeout` would end that.
    fn is_pooled(&self) -> bool {
        self.pooler != Pooler::None
    }
}

fn sql(server_timeouts: Vec<ServerTimeout>) -> String {
    residue::setting(server_timeouts)
}
