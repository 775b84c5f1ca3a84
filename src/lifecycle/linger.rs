//! Keeps an idle process awake for a while, then closes its kept connections.
//!
//! A host that suspends a process between requests leaves its kept connections open: each
//! takes a slot of the server for nothing. Closed after each request, they would have to be
//! opened again within a burst. So the last request of a burst is followed by a wait.

use std::pin::pin;
use std::sync::Arc;

use futures_util::future::{Either, select};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep};

use super::close::close_idle;
use crate::deadline::Deadline;
use crate::engine::Engine;
use crate::tally::{One, Tally};

/// The requests of a process that the host may suspend.
#[derive(Debug, Default)]
pub(crate) struct Requests {
    under_way: Tally,
    /// Notified when a request begins.
    begun: Notify,
}

/// One request, and the wait after it if it is the last.
pub(crate) struct Linger {
    engine: Arc<Engine>,
    requests: Arc<Requests>,
    request: One,
    deadline: Deadline,
    #[cfg(unix)]
    terminated: Option<tokio::signal::unix::Signal>,
}

impl Linger {
    /// Begins a request that the host ends at `deadline`, and ends the wait after the one before.
    /// `None` without [`Config::linger`](crate::Config::linger). By default, connections that
    /// take no slot of the server are kept, without a wait.
    pub(crate) fn begin(
        engine: &Arc<Engine>,
        requests: &Arc<Requests>,
        deadline: Deadline,
    ) -> Option<Self> {
        let settings = engine.settings();
        let wanted = settings.takes_slots() || settings.origin("linger").is_some();
        if settings.linger.is_zero() || !wanted {
            return None;
        }
        let request = requests.under_way.one();
        requests.begun.notify_waiters();
        Some(Linger {
            engine: Arc::clone(engine),
            requests: Arc::clone(requests),
            request,
            deadline,
            // From the beginning on: the signal may come before the wait.
            #[cfg(unix)]
            terminated: {
                use tokio::signal::unix::{SignalKind, signal};
                signal(SignalKind::terminate()).ok()
            },
        })
    }

    /// Ends the request, once everything that it used is at rest. After the last one, waits, then
    /// closes the idle connections, acknowledged by the server. Returns at once if another
    /// request begins, and closes early on SIGTERM and before the deadline.
    pub(crate) async fn end(mut self) {
        let mut begun = pin!(self.requests.begun.notified());
        begun.as_mut().enable();
        drop(self.request);
        let pools = self.engine.pools();
        if !self.requests.under_way.is_empty() || pools.idle() == 0 {
            return;
        }
        let cutoff = self.deadline.cutoff(pools.round_trip());
        let left = cutoff.map(|cutoff| cutoff.saturating_duration_since(Instant::now()));
        let linger = self.engine.settings().linger;
        let wait = pin!(sleep(left.map_or(linger, |left| left.min(linger))));
        #[cfg(unix)]
        let terminated = pin!(terminated(self.terminated.as_mut()));
        #[cfg(unix)]
        let wait = select(wait, terminated);
        if let Either::Right(_) = select(wait, begun).await {
            return;
        }
        close_idle(&self.engine, self.deadline.end()).await;
    }
}

#[cfg(unix)]
async fn terminated(signal: Option<&mut tokio::signal::unix::Signal>) {
    match signal {
        Some(signal) => drop(signal.recv().await),
        // It cannot be observed.
        None => std::future::pending().await,
    }
}
