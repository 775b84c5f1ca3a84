//! Leasing a connection: a kept one that is still alive, or a new one.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, timeout};

use super::{Idle, Lease, Pool, Pools, lock};
use crate::connection::{Home, Session};
use crate::error::{Error, Result};
use crate::net::Peek;
use crate::observe;
use crate::wire::TransactionStatus;

/// Idle for longer than this, a connection may have been forgotten by something
/// in between that never sent a FIN (NAT gateways and connection tracking do that
/// after 350 s): only a round trip can tell.
const PROBE_AFTER: Duration = Duration::from_secs(60);

/// How long that round trip may take before the connection counts as dead.
const PROBE_LIMIT: Duration = Duration::from_secs(1);

impl Pools {
    /// Leases a connection of the current runtime, within the configured time and
    /// at most `left`.
    ///
    /// Cancel-safe: whoever stops waiting leaves nothing behind.
    pub(crate) async fn checkout(
        self: &Arc<Self>,
        left: Option<Duration>,
    ) -> Result<(Lease, Home)> {
        let pool = self.here();
        let begin = Instant::now();
        let permit = match Arc::clone(&pool.permits).try_acquire_owned() {
            Ok(permit) => permit,
            Err(_) => {
                let limit = pool.config().acquire_timeout;
                let limit = left.map_or(limit, |left| left.min(limit));
                let acquire = Arc::clone(&pool.permits).acquire_owned();
                match timeout(limit, acquire).await {
                    Ok(Ok(permit)) => permit,
                    // The semaphore is never closed.
                    Ok(Err(_)) | Err(_) => {
                        return Err(Error::acquire_timeout(
                            limit,
                            pool.in_use(),
                            pool.max_connections(),
                        ));
                    }
                }
            }
        };
        while let Some(idle) = pool.pop() {
            match examine(&pool, &idle).await {
                Ok(home) => {
                    let session = idle.session;
                    return Ok((
                        Lease {
                            session,
                            pool,
                            permit,
                        },
                        home,
                    ));
                }
                Err(why) => {
                    observe::discarded(idle.session.process(), why);
                    // Terminate goes out; nobody needs to wait for the answer.
                    idle.session.end();
                }
            }
        }
        let left = left.map(|left| left.saturating_sub(begin.elapsed()));
        let session = self.open(&pool, left).await?;
        let home = session.home().ok_or_else(Error::invocation_ended)?;
        Ok((
            Lease {
                session,
                pool,
                permit,
            },
            home,
        ))
    }

    async fn open(&self, pool: &Arc<Pool>, left: Option<Duration>) -> Result<Arc<Session>> {
        let begin = Instant::now();
        let weak = Arc::downgrade(pool);
        let on_end = move || {
            if let Some(pool) = weak.upgrade() {
                pool.forget_ended();
            }
        };
        let session = Session::open(&self.connector, left, pool.clock.now(), on_end).await?;
        self.note_round_trip(session.round_trip());
        observe::connected(session.process(), begin.elapsed());
        Ok(session)
    }

    /// Opens a connection to keep, if there is room for one more.
    pub(crate) async fn open_idle(self: &Arc<Self>, left: Option<Duration>) -> Result<bool> {
        let pool = self.here();
        let Ok(permit) = Arc::clone(&pool.permits).try_acquire_owned() else {
            return Ok(false);
        };
        let session = self.open(&pool, left).await?;
        let home = session.home().ok_or_else(Error::invocation_ended)?;
        let lease = Lease {
            session,
            pool,
            permit,
        };
        lease.keep(home);
        Ok(true)
    }
}

impl Pool {
    /// The most recently used first: the others may then grow old and be closed.
    fn pop(&self) -> Option<Idle> {
        lock(&self.idle).pop()
    }
}

/// Whether a kept connection is still good, without a round trip as far as that
/// goes. `Err` says why not.
async fn examine(pool: &Pool, idle: &Idle) -> Result<Home, &'static str> {
    let session = &idle.session;
    if pool.clock.since(session.opened()) >= pool.config().max_age {
        return Err("too old");
    }
    if session.peek() == Peek::Closed {
        return Err("closed by the server");
    }
    // What has come meanwhile is no verdict (a parameter may have changed): the
    // driver reads it, then we know.
    let snapshot = session.pump();
    if !snapshot.is_quiet() || snapshot.status != Some(TransactionStatus::Idle) {
        return Err("not at rest");
    }
    let home = session.home().ok_or("in use")?;
    if pool.clock.since(idle.since) > PROBE_AFTER {
        match timeout(PROBE_LIMIT, home.check_connection()).await {
            Ok(Ok(())) => {}
            _ => return Err("no answer"),
        }
    }
    Ok(home)
}
