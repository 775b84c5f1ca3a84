//! Closes every connection at the end of a process, and waits for the server to acknowledge it.

use std::fmt;
use std::future::{Future, IntoFuture};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{join_all, join3};
use tokio::time::{Instant, timeout_at};

use crate::connection::ServerSession;
use crate::deadline::FAR;
use crate::engine::Engine;
use crate::observe;
use crate::pool::CheckedOut;
use crate::teardown::{Budget, close};

/// The least that a host gives between SIGTERM and SIGKILL: Lambda, to a function with no
/// extension but internal ones (Lambda's developer guide, "Understanding the Lambda
/// execution environment lifecycle", shutdown phase).
const GRACE: Duration = Duration::from_millis(300);

/// Kept back from the grace for the process to end in: a sixth of it, and no more than this.
const LEAVE: Duration = Duration::from_millis(100);

/// Kept back from the rest for what has to be cancelled: half of it, and no more than this.
const CANCEL: Duration = Duration::from_millis(500);

/// How long idle connections are waited for where the host sets no limit.
const PATIENCE: Duration = Duration::from_secs(2);

/// Closes every connection of a database, and waits for the server's word that each has
/// ended; made by [`Database::close`](crate::Database::close).
///
/// What is idle is closed at once. What an invocation has is left to it, since it may be
/// about to finish, until there is just time enough, 125 of 300 ms and half a second of a
/// longer grace, to cancel its statement and close the connection. From the beginning on
/// nothing is kept: an invocation that is still under way, or begins, is served, and its
/// connections are closed at its end.
///
/// It takes 300 ms at most, unless [`within`](Close::within) says otherwise. A
/// second call waits for the first, and finds nothing to do.
///
/// Connections belong to the tokio runtime that they were opened on. Those of other
/// runtimes are told goodbye too, and the server's answer is heard as long as their runtime
/// is running: from inside one that blocks the only thread of another, it is not.
#[derive(Clone)]
#[must_use = "nothing is closed until it is awaited"]
pub struct Close {
    engine: Arc<Engine>,
    grace: Duration,
}

/// What closing came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Closed {
    /// Connections that were open.
    pub closed: usize,
    /// Of these, those whose end the server confirmed. The others end by the server's own
    /// timeouts, or when it finds that the process is gone.
    pub acknowledged: usize,
    /// Of these, those that were taken away from an invocation.
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

    /// How long it may take. Default: 300 ms, as long as Lambda waits.
    pub fn within(mut self, grace: Duration) -> Self {
        self.grace = grace.min(FAR);
        self
    }

    async fn run(self) -> Closed {
        let begin = Instant::now();
        let pools = self.engine.pools();
        // At once, also while another call is closing.
        pools.shut();
        let time = self.grace - LEAVE.min(self.grace / 6);
        let end = begin + time;
        let Ok(_closing) = timeout_at(end, pools.closing.lock()).await else {
            return Closed::default();
        };
        let budget = Budget::new(Some(end), pools.round_trip());
        let patience = end - CANCEL.min(time / 2);
        let (idle, checked_out) = (pools.take_idle(), pools.checked_out());
        let idle = idle.into_iter();
        let idle = idle.map(async |session| Goodbye::to(&session, &budget, false).await);
        let take_away = async |out: CheckedOut| {
            let interrupted = timeout_at(patience, out.returned()).await.is_err();
            Goodbye::to(&out.session, &budget, interrupted).await
        };
        // Those that are being opened at this moment, for an invocation that is served.
        let late = async {
            let _ = timeout_at(patience, pools.opening.none()).await;
            let known = |late: &CheckedOut| {
                let same = |out: &CheckedOut| Arc::ptr_eq(&out.session, &late.session);
                checked_out.iter().any(same)
            };
            let mut late = pools.checked_out();
            late.retain(|late| !known(late));
            join_all(late.into_iter().map(&take_away)).await
        };
        let early = join_all(checked_out.iter().cloned().map(&take_away));
        let (idle, early, late) = join3(join_all(idle), early, late).await;
        Closed::of(idle.into_iter().chain(early).chain(late), begin)
    }
}

impl Closed {
    fn of(goodbyes: impl Iterator<Item = Goodbye>, begin: Instant) -> Self {
        let mut closed = Closed::default();
        for goodbye in goodbyes {
            closed.closed += 1;
            closed.acknowledged += usize::from(goodbye.acknowledged);
            closed.interrupted += usize::from(goodbye.interrupted);
        }
        closed.elapsed = begin.elapsed();
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
        Box::pin(self.run())
    }
}

impl fmt::Debug for Close {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Close")
            .field("grace", &self.grace)
            .finish_non_exhaustive()
    }
}

/// Whether the server confirmed the end of a connection that was `interrupted` or not.
struct Goodbye {
    acknowledged: bool,
    interrupted: bool,
}

impl Goodbye {
    /// Closes a connection, if its invocation has not: then this finds out how that went.
    async fn to(session: &ServerSession, budget: &Budget, interrupted: bool) -> Self {
        Goodbye {
            acknowledged: close(session, budget).await,
            interrupted,
        }
    }
}

/// Closes the idle connections alone, and has the others closed by their invocations.
pub(crate) async fn close_idle(engine: &Engine) {
    engine.pools().shut();
    close_kept(engine, PATIENCE).await;
}

/// Closes the connections that are idle now, within the usual patience and at most `limit`.
pub(crate) async fn close_kept(engine: &Engine, limit: Duration) {
    let begin = Instant::now();
    let end = begin + limit.min(PATIENCE);
    let pools = engine.pools();
    let Ok(_closing) = timeout_at(end, pools.closing.lock()).await else {
        return;
    };
    let budget = Budget::new(Some(end), pools.round_trip());
    let idle = pools.take_idle().into_iter();
    let goodbyes = join_all(idle.map(async |session| Goodbye::to(&session, &budget, false).await));
    Closed::of(goodbyes.await.into_iter(), begin);
}
