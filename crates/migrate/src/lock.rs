//! Takes the advisory lock that allows one runner at a time on a database.
//!
//! The lock is polled and not waited for: a waiting statement has a snapshot, for which CREATE
//! INDEX CONCURRENTLY of the lock's holder would wait.

use std::sync::Arc;
use std::time::Duration;

use antifreeze::internal;
use antifreeze::internal::Backoff;
use antifreeze::internal::Connector;
use tokio::time::{Instant, sleep};
use tokio_postgres::Client;

use super::error::{Error, ErrorKind, Result};
use super::event::{Event, Rounded, ServerSession};
use super::monitor;
use super::report::Events;
use super::session::RunnerSession;

/// The key of the lock: the bytes of "antifree", which no other application is likely to use.
const KEY: i64 = i64::from_be_bytes(*b"antifree");

/// Selects the lock in `pg_locks` (manual, "pg_locks": the high half is `classid`).
const IS_IT: &str = "locktype = 'advisory' and classid = 1634628713 and objid = 1718773093 \
                     and objsubid = 1 and granted \
                     and database = (select oid from pg_database where datname = current_database())";

/// The longest first delay between attempts, and the longest of all.
const PAUSES: [Duration; 2] = [Duration::from_millis(100), Duration::from_secs(1)];

/// How often the holder of the lock is reported.
const REPORT_INTERVAL: Duration = Duration::from_secs(5);

/// The number of tests for a pooler.
const SAMPLES: usize = 6;

/// Takes the lock within `limit`.
pub(super) async fn take(
    session: &RunnerSession,
    limit: Duration,
    events: &mut Events,
) -> Result<()> {
    let began = Instant::now();
    let mut reported = None;
    let mut pauses = Backoff::new(PAUSES[0], PAUSES[1]);
    // A session that holds the lock before asking for it was used by another client.
    let ask = format!(
        "select case when exists (select 1 from pg_locks where pid = pg_backend_pid() and {IS_IT}) \
         then null else pg_try_advisory_lock({KEY}) end"
    );
    loop {
        let row = session.client().query_one(&ask, &[]).await?;
        match row.try_get::<_, Option<bool>>(0)? {
            Some(true) => return Ok(()),
            None => return Err(pooled()),
            Some(false) => {}
        }
        let waited = began.elapsed();
        if waited >= limit || reported.is_none_or(|at: Instant| at.elapsed() >= REPORT_INTERVAL) {
            reported = Some(Instant::now());
            let holder = holder(session.client()).await?;
            let named = holder.clone();
            events.emit(Event::Waiting { holder, waited });
            if waited >= limit {
                return Err(busy(waited, named));
            }
        }
        let pause = pauses.next().unwrap_or(PAUSES[1]);
        sleep(pause.min(limit - waited).max(Duration::from_millis(5))).await;
    }
}

/// Returns whether this session holds the lock.
pub(super) async fn is_held(client: &Client) -> Result<bool> {
    let query =
        format!("select exists (select 1 from pg_locks where pid = pg_backend_pid() and {IS_IT})");
    Ok(client.query_one(&query, &[]).await?.try_get(0)?)
}

/// Releases the lock, and reports whether it was still locked.
pub(super) async fn release(session: &RunnerSession, events: &mut Events) -> Result<()> {
    let release = format!("select pg_advisory_unlock({KEY})");
    let row = session.client().query_one(&release, &[]).await?;
    let released = row.try_get(0)?;
    events.emit(if released {
        Event::Released
    } else {
        Event::LockLost
    });
    Ok(())
}

/// Checks that a session through a pooler keeps its server connection between statements.
///
/// A transaction pooler assigns the server connection that was used last, or each in turn. A
/// second session therefore gets that of the first, or the first gets another. The number of
/// queries is random, so that it does not coincide with the rotation of the pooler.
pub(super) async fn keeps_server(
    session: &RunnerSession,
    connector: &Arc<Connector>,
) -> Result<()> {
    if session.is_direct() {
        return Ok(());
    }
    let other = RunnerSession::open(connector).await?;
    let verdict = sample(session, &other).await;
    other.close().await;
    verdict
}

async fn sample(session: &RunnerSession, other: &RunnerSession) -> Result<()> {
    async fn server(session: &RunnerSession) -> Result<i32> {
        let row = session
            .client()
            .query_one("select pg_backend_pid()", &[])
            .await?;
        Ok(row.try_get(0)?)
    }
    for _ in 0..SAMPLES {
        for _ in 0..1 + internal::random_number() % 3 {
            if server(session).await? != session.pid() {
                return Err(pooled());
            }
        }
        // During its transaction, a session has a server connection to itself.
        other.client().batch_execute("begin").await?;
        let other_pid = server(other).await?;
        let own_pid = server(session).await;
        other.client().batch_execute("rollback").await?;
        if other_pid == session.pid() || own_pid? != session.pid() {
            return Err(pooled());
        }
    }
    Ok(())
}

/// Returns the session that holds the lock.
async fn holder(client: &Client) -> Result<Option<ServerSession>> {
    let query = format!(
        "select {} from (select pid from pg_locks where {IS_IT}) l \
         left join pg_stat_activity a on a.pid = l.pid limit 1",
        monitor::COLUMNS.replace("b.pid", "l.pid"),
    );
    let row = client.query_opt(&query, &[]).await?;
    row.map(|row| monitor::session(&row)).transpose()
}

fn pooled() -> Error {
    Error::new(
        ErrorKind::Pooler,
        "the connection leads through a transaction pooler, which would pass the advisory lock on \
         to other clients: set MIGRATION_DATABASE_URL or --url to the server's direct endpoint, or \
         set the runner's `endpoint`",
    )
}

fn busy(waited: Duration, holder: Option<ServerSession>) -> Error {
    let holder = holder.map_or_else(String::new, |holder| format!(" ({holder})"));
    Error::new(
        ErrorKind::Busy,
        format!(
            "timed out after {} while waiting for another runner{holder}: wait for it, raise \
             `lock_wait`, or end its session with pg_terminate_backend",
            Rounded(waited)
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn key_matches_the_columns_of_pg_locks() {
        assert_eq!(
            (KEY >> 32, KEY & 0xffff_ffff),
            (1_634_628_713, 1_718_773_093)
        );
    }
}
