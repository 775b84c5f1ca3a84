//! The end of a process: every connection is told goodbye, and the server has heard it.

use std::fmt;
use std::future::{Future, IntoFuture};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{Either, join, join_all, join3, select};
use tokio::time::{Instant, timeout_at};

use crate::connection::Session;
use crate::database::Database;
use crate::deadline::FAR;
use crate::observe;
use crate::pool::{Away, Pools};
use crate::teardown::{Budget, Outcome, close};

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
/// ended; made by [`Database::close`].
///
/// What is idle is closed at once. What an invocation has is left to it, since it may be
/// about to finish, until there is just time enough, 125 of 300 ms and half a second of a
/// longer grace, to cancel its statement and close the connection. From the beginning on
/// nothing is kept: an invocation that is still under way, or begins, is served, and its
/// connections are closed at its end.
///
/// It takes 300 ms at most, unless [`within`](Close::within) says otherwise. Who closes a
/// second time waits for the first, and finds nothing to do.
///
/// Connections belong to the tokio runtime that they were opened on. Those of other
/// runtimes are told goodbye too, and the server's answer is heard as long as their runtime
/// is running: from inside one that blocks the only thread of another, it is not.
#[derive(Clone)]
#[must_use = "nothing is closed until it is awaited"]
pub struct Close {
    database: Database,
    grace: Duration,
}

/// What closing came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Closed {
    /// Connections that were open.
    pub closed: usize,
    /// Of these, those whose end the server confirmed. The others end by the server's own
    /// time-outs, or when it finds that the process is gone.
    pub acknowledged: usize,
    /// Of these, those that were taken away from an invocation.
    pub interrupted: usize,
    /// How long it took.
    pub elapsed: Duration,
}

impl Close {
    pub(crate) fn new(database: Database) -> Self {
        Close {
            database,
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
        let pools = self.database.pools();
        // Said at once, whoever else is at it.
        pools.shut();
        let time = self.grace - LEAVE.min(self.grace / 6);
        let end = begin + time;
        let Ok(_closing) = timeout_at(end, pools.closing()).await else {
            return Closed::default();
        };
        let budget = Budget::new(Some(end), pools.round_trip());
        let patience = end - CANCEL.min(time / 2);
        let (idle, away) = (pools.take_idle(), pools.away());
        let idle = idle
            .into_iter()
            .map(async |session| goodbye(&session, &budget, false).await);
        let take_leave = async |away: Arc<Away>| {
            let interrupted = timeout_at(patience, away.returned()).await.is_err();
            goodbye(&away.session, &budget, interrupted).await
        };
        // Those that are being opened at this moment, for an invocation that is served.
        let late = async {
            let _ = timeout_at(patience, pools.opened()).await;
            let mut late = pools.away();
            late.retain(|late| !away.iter().any(|away| Arc::ptr_eq(away, late)));
            join_all(late.into_iter().map(&take_leave)).await
        };
        let away = join_all(away.iter().cloned().map(&take_leave));
        let (idle, away, late) = join3(join_all(idle), away, late).await;
        Closed::of(idle.into_iter().chain(away).chain(late), begin)
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

impl Default for Closed {
    /// There was nothing to close.
    fn default() -> Self {
        Closed {
            closed: 0,
            acknowledged: 0,
            interrupted: 0,
            elapsed: Duration::ZERO,
        }
    }
}

impl IntoFuture for Close {
    type Output = Closed;
    type IntoFuture = Pin<Box<dyn Future<Output = Closed> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.run())
    }
}

impl From<&Database> for Close {
    /// With the default grace.
    fn from(database: &Database) -> Self {
        database.close()
    }
}

impl fmt::Debug for Close {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Close")
            .field("grace", &self.grace)
            .finish_non_exhaustive()
    }
}

struct Goodbye {
    acknowledged: bool,
    interrupted: bool,
}

/// Closes one, if its invocation has not: then this finds out how that went.
async fn goodbye(session: &Arc<Session>, budget: &Budget, interrupted: bool) -> Goodbye {
    let rested = close(session, Outcome::default(), budget).await;
    Goodbye {
        acknowledged: rested.outcome.closed() == Some(true),
        interrupted,
    }
}

/// Waits until the process is told to stop, by SIGTERM or ctrl-C, and until every idle
/// connection was closed: what a server's graceful shutdown begins with. Connections of
/// requests that are still served are closed as these end.
///
/// ```no_run
/// # async fn main_() -> Result<(), Box<dyn std::error::Error>> {
/// let database = antifreeze::Database::from_env()?;
/// let router = axum::Router::new().layer(antifreeze::DatabaseLayer::new(database.clone()));
/// let listener = tokio::net::TcpListener::bind("127.0.0.1:3000").await?;
/// axum::serve(listener, router)
///     .with_graceful_shutdown(antifreeze::shutdown::signal(&database))
///     .await?;
/// # Ok(())
/// # }
/// ```
pub fn signal(database: &Database) -> impl Future<Output = ()> + Send + use<> {
    let pools = Arc::clone(database.pools());
    async move {
        told_to_stop().await;
        close_idle(&pools).await;
    }
}

/// Serves, and closes every connection when the process is told to stop, by SIGTERM or
/// ctrl-C, or when `serve` ends: for Vercel, whose runtime then waits for the requests that
/// are still served.
///
/// It closes as [`Database::close`] does: a request that is under way has 125 ms, then its
/// statement is cancelled. Where the host waits for longer, say so with
/// `database.close().within(..)` in place of `&database`.
///
/// ```no_run
/// # #[cfg(feature = "vercel")] mod function {
/// # use tower::Layer;
/// # use vercel_runtime::{Error, Request, run, service_fn};
/// # async fn handler(_: Request) -> Result<String, Error> { Ok(String::new()) }
/// # async fn main_() -> Result<(), Error> {
/// let database = antifreeze::Database::from_env()?;
/// let service = antifreeze::DatabaseLayer::new(database.clone()).layer(service_fn(handler));
/// antifreeze::shutdown::around(&database, run(service)).await
/// # }
/// # }
/// ```
pub async fn around<F: Future>(close: impl Into<Close>, serve: F) -> F::Output {
    let close: Close = close.into();
    let mut serve = pin!(serve);
    match select(serve.as_mut(), pin!(told_to_stop())).await {
        Either::Left((served, _)) => {
            close.await;
            served
        }
        // Both to their ends: the last request's may come before that of its connection.
        Either::Right(((), serve)) => join(close.into_future(), serve).await.1,
    }
}

async fn close_idle(pools: &Pools) {
    let begin = Instant::now();
    pools.shut();
    let Ok(_closing) = timeout_at(begin + PATIENCE, pools.closing()).await else {
        return;
    };
    let budget = Budget::new(Some(begin + PATIENCE), pools.round_trip());
    let idle = pools.take_idle().into_iter();
    let goodbyes = join_all(idle.map(async |session| goodbye(&session, &budget, false).await));
    Closed::of(goodbyes.await.into_iter(), begin);
}

async fn told_to_stop() {
    let interrupted = pin!(async {
        if tokio::signal::ctrl_c().await.is_err() {
            // Nobody can tell us: that is no reason to stop.
            std::future::pending::<()>().await;
        }
    });
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        if let Ok(mut terminated) = signal(SignalKind::terminate()) {
            select(interrupted, pin!(terminated.recv())).await;
            return;
        }
    }
    interrupted.await;
}
