//! Closes every connection at the end of a process, and waits for the server to acknowledge it.

use std::future::{Future, IntoFuture};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{join_all, join3};
use tokio::time::{Instant, timeout_at};
use tracing::Instrument;

use crate::connection::ServerSession;
use crate::deadline::FAR;
use crate::engine::Engine;
use crate::observe::{self, span};
use crate::teardown::{Budget, close};

/// The shortest time that a host leaves between SIGTERM and SIGKILL: Lambda, to a function with no
/// extension but internal ones (Lambda's developer guide, "Understanding the Lambda
/// execution environment lifecycle", shutdown phase).
const GRACE: Duration = Duration::from_millis(300);

/// The most that is reserved of the grace for the exit of the process: a sixth of it, at most
/// this.
const EXIT: Duration = Duration::from_millis(100);

/// The most that is reserved of the rest for cancels: half of it, at most this.
const CANCEL: Duration = Duration::from_millis(500);

/// The time limit for closing idle connections, whatever the host grants.
const PATIENCE: Duration = Duration::from_secs(2);

/// Closes every connection of a database, and waits until the server has confirmed that each
/// session has ended; created by [`Database::close`](crate::Database::close).
///
/// Idle connections are closed at once, and waited for 2 s at most. Invocations that run may
/// finish, until the time that is needed to cancel their statements and close their connections:
/// 125 of 300 ms, and half a second of a longer grace. From the start of the close no connection
/// is kept: invocations that run, or begin, are served, and their connections are closed at their
/// end.
///
/// It takes 300 ms at most, unless [`within`](Close::within) sets another limit. A second call
/// waits for the first, and has nothing to do.
///
/// Connections belong to the tokio runtime that they were opened on. Those of other runtimes are
/// closed too, and the server's confirmation is received as long as their runtime runs: not if
/// this call blocks its only thread.
#[derive(Debug, Clone)]
#[must_use = "nothing is closed until it is awaited"]
pub struct Close {
    engine: Arc<Engine>,
    grace: Duration,
}

/// The result of closing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Closed {
    /// The number of connections that were open.
    pub closed: usize,
    /// How many of these the server confirmed. The others end by the server's own timeouts, or
    /// when the server notices that the process has ended.
    pub acknowledged: usize,
    /// How many of these were taken from a running invocation.
    pub interrupted: usize,
    /// How long it took.
    pub elapsed: Duration,
}

impl Close {
    pub(crate) fn new(engine: Arc<Engine>) -> Self {
        Close {
            engine,
            grace: GRACE,
        }
    }

    /// Sets the time limit. Default: 300 ms, which is what Lambda grants.
    pub fn within(mut self, grace: Duration) -> Self {
        self.grace = grace.min(FAR);
        self
    }

    async fn run(self) -> Closed {
        let begin = Instant::now();
        let pools = self.engine.pools();
        // Takes effect at once, also while another call is closing.
        pools.shut();
        let time = self.grace - EXIT.min(self.grace / 6);
        let end = begin + time;
        let Ok(_closing) = timeout_at(end, pools.closing.lock()).await else {
            return Closed::default();
        };
        let budget = |end| Budget::new(Some(end), pools.round_trip()).unhurried();
        // A dead idle connection does not hold up the rest of a long grace.
        let (at_once, budget) = (budget(end.min(begin + PATIENCE)), budget(end));
        let patience = end - CANCEL.min(time / 2);
        let (idle, checked_out) = (pools.take_idle(), pools.checked_out());
        let idle = idle.into_iter();
        let idle = idle.map(async |session| (close(&session, &at_once).await, false));
        let take_away = async |session: Arc<ServerSession>| {
            let returned = timeout_at(patience, session.leases.none()).await;
            // If its invocation closes it, this waits for the result of that.
            (close(&session, &budget).await, returned.is_err())
        };
        // Connections that are being opened at this moment, for an invocation that is served.
        let late = async {
            let _ = timeout_at(patience, pools.opening.none()).await;
            let mut late = pools.checked_out();
            late.retain(|late| !checked_out.iter().any(|known| Arc::ptr_eq(known, late)));
            join_all(late.into_iter().map(&take_away)).await
        };
        let early = join_all(checked_out.iter().cloned().map(&take_away));
        let (idle, early, late) = join3(join_all(idle), early, late).await;
        Closed::of(idle.into_iter().chain(early).chain(late), begin)
    }
}

impl Closed {
    /// Counts the connections, each of which was acknowledged and interrupted or not.
    fn of(connections: impl Iterator<Item = (bool, bool)>, begin: Instant) -> Self {
        let mut closed = Closed::default();
        for (acknowledged, interrupted) in connections {
            closed.closed += 1;
            closed.acknowledged += usize::from(acknowledged);
            closed.interrupted += usize::from(interrupted);
        }
        closed.elapsed = begin.elapsed();
        span::closed(closed.closed);
        observe::closed(
            closed.closed,
            closed.acknowledged,
            closed.interrupted,
            closed.elapsed,
        );
        closed
    }
}

impl IntoFuture for Close {
    type Output = Closed;
    type IntoFuture = Pin<Box<dyn Future<Output = Closed> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        let span = span::shutdown();
        Box::pin(self.run().instrument(span))
    }
}

/// Closes the connections that are idle now, within the usual patience and before `latest`.
pub(crate) async fn close_idle(engine: &Engine, latest: Option<Instant>) {
    let begin = Instant::now();
    let end = begin + PATIENCE;
    let end = latest.map_or(end, |latest| latest.min(end));
    let pools = engine.pools();
    let Ok(_closing) = timeout_at(end, pools.closing.lock()).await else {
        return;
    };
    let budget = Budget::new(Some(end), pools.round_trip()).unhurried();
    let idle = pools.take_idle().into_iter();
    let idle = join_all(idle.map(async |session| (close(&session, &budget).await, false)));
    Closed::of(idle.await.into_iter(), begin);
}
