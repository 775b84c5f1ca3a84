//! One runner at a time, over the whole fleet: an advisory lock of the session.
//!
//! It is asked for again and again instead of waited for: a statement that waits has a
//! snapshot, and CREATE INDEX CONCURRENTLY of whoever has the lock would wait for that.

use std::sync::Arc;
use std::time::Duration;

use antifreeze::internal;
use antifreeze::internal::Backoff;
use antifreeze::internal::Connector;
use tokio::time::{Instant, sleep};
use tokio_postgres::Client;

use super::error::{Error, Kind, Result};
use super::event::{Event, Rounded, Session};
use super::report::Events;
use super::session::Own;
use super::watch;

/// "antifree" as a number: the same for everybody, and unlikely to be anybody else's.
const KEY: i64 = i64::from_be_bytes(*b"antifree");

/// The lock in `pg_locks` (manual, "pg_locks": the high half is `classid`).
const IS_IT: &str = "locktype = 'advisory' and classid = 1634628713 and objid = 1718773093 \
                     and objsubid = 1 and granted \
                     and database = (select oid from pg_database where datname = current_database())";

/// The ceiling of the first pause between two tries, and of any.
const PAUSES: [Duration; 2] = [Duration::from_millis(100), Duration::from_secs(1)];

/// How often who has it is told.
const TELL: Duration = Duration::from_secs(5);

/// How often a pooler is put to the test.
const SAMPLES: usize = 6;

/// Takes the lock within `limit`.
pub(super) async fn take(own: &Own, limit: Duration, events: &mut Events) -> Result<()> {
    let began = Instant::now();
    let mut told = None;
    let mut pauses = Backoff::new(PAUSES[0], PAUSES[1]);
    // Who has it already without having asked has it from somebody else.
    let ask = format!(
        "select case when exists (select 1 from pg_locks where pid = pg_backend_pid() and {IS_IT}) \
         then null else pg_try_advisory_lock({KEY}) end"
    );
    loop {
        let row = own.client().query_one(&ask, &[]).await?;
        match row.try_get::<_, Option<bool>>(0)? {
            Some(true) => return Ok(()),
            None => return Err(pooled()),
            Some(false) => {}
        }
        let waited = began.elapsed();
        if waited >= limit || told.is_none_or(|told: Instant| told.elapsed() >= TELL) {
            told = Some(Instant::now());
            let holder = holder(own.client()).await?;
            let named = holder.clone();
            events.tell(Event::Waiting { holder, waited });
            if waited >= limit {
                return Err(busy(waited, named));
            }
        }
        let pause = pauses.next().unwrap_or(PAUSES[1]);
        sleep(pause.min(limit - waited).max(Duration::from_millis(5))).await;
    }
}

/// Whether this session has it.
pub(super) async fn is_ours(client: &Client) -> Result<bool> {
    let ours =
        format!("select exists (select 1 from pg_locks where pid = pg_backend_pid() and {IS_IT})");
    Ok(client.query_one(&ours, &[]).await?.try_get(0)?)
}

/// Gives it back, and says so, or that it was lost.
pub(super) async fn release(own: &Own, events: &mut Events) -> Result<()> {
    let release = format!("select pg_advisory_unlock({KEY})");
    let row = own.client().query_one(&release, &[]).await?;
    events.tell(match row.try_get(0)? {
        true => Event::Released,
        false => Event::LockLost,
    });
    Ok(())
}

/// Makes sure that `own`, which is not the server's own session, keeps its server: that
/// what lies in between gives it to nobody else between two statements.
///
/// A pooler gives the server that was used last, or each in turn. So somebody else either
/// gets ours, or we get another; how often each of us asks is left to chance, lest both
/// keep step with the pooler.
pub(super) async fn keeps_server(own: &Own, connector: &Arc<Connector>) -> Result<()> {
    if own.is_direct() {
        return Ok(());
    }
    let other = Own::open(connector).await?;
    let verdict = sample(own, &other).await;
    other.close().await;
    verdict
}

async fn sample(own: &Own, other: &Own) -> Result<()> {
    async fn server(own: &Own) -> Result<i32> {
        let row = own
            .client()
            .query_one("select pg_backend_pid()", &[])
            .await?;
        Ok(row.try_get(0)?)
    }
    for _ in 0..SAMPLES {
        for _ in 0..1 + internal::random_number() % 3 {
            if server(own).await? != own.pid() {
                return Err(pooled());
            }
        }
        // While its transaction is open, the server is nobody else's.
        other.client().batch_execute("begin").await?;
        let theirs = server(other).await?;
        let ours = server(own).await;
        other.client().batch_execute("rollback").await?;
        if theirs == own.pid() || ours? != own.pid() {
            return Err(pooled());
        }
    }
    Ok(())
}

/// Who has it.
async fn holder(client: &Client) -> Result<Option<Session>> {
    let query = format!(
        "select {} from (select pid from pg_locks where {IS_IT}) l \
         left join pg_stat_activity a on a.pid = l.pid limit 1",
        watch::COLUMNS.replace("b.pid", "l.pid"),
    );
    let row = client.query_opt(&query, &[]).await?;
    row.map(|row| watch::session(&row)).transpose()
}

fn pooled() -> Error {
    Error::new(
        Kind::Pooler,
        "a transaction pooler lies between us and the server, and would give our lock to whoever \
         comes next: name the server's own endpoint in MIGRATION_DATABASE_URL or as --url, or give it \
         to the runner",
    )
}

fn busy(waited: Duration, holder: Option<Session>) -> Error {
    let holder = holder.map_or_else(String::new, |holder| format!(" ({holder})"));
    Error::new(
        Kind::Busy,
        format!(
            "another runner{holder} had the lock for all of {}: wait for it, raise `lock_wait`, or \
             end its session with pg_terminate_backend",
            Rounded(waited)
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lock_key_matches_pg_locks() {
        assert_eq!(
            (KEY >> 32, KEY & 0xffff_ffff),
            (1_634_628_713, 1_718_773_093)
        );
    }
}
