//! Who is in the way, seen from a second connection; and, with consent, how he is moved.

use std::convert::Infallible;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;
use std::time::Duration;

use antifreeze::internal::Connector;
use tokio_postgres::{Client, Row};

use super::error::Result;
use super::event::{Blocked, Event, Session};
use super::limits::Limits;
use super::report::Events;
use super::session::Own;

/// How long one look may take before the second connection is given up.
const LOOK: Duration = Duration::from_secs(5);

/// The first look, and the pause between two: sooner, if the lock is waited for no longer.
const FIRST: Duration = Duration::from_millis(150);
const PAUSE: Duration = Duration::from_millis(250);

/// What [`session`] reads, of `pg_stat_activity a` for the process `b.pid`. A session that
/// our role may not see into has neither state nor address, and waits in `pg_locks` alone,
/// which every role may read.
pub(super) const COLUMNS: &str = "b.pid, a.application_name::text, a.usename::text, \
     host(a.client_addr), a.state::text, \
     (extract(epoch from clock_timestamp() - a.state_change) * 1000)::bigint, \
     exists (select from pg_locks l where l.pid = b.pid and not l.granted)";

/// What the session $1 waits for, and everybody in its way, they in whose way others are
/// included.
const BLOCKERS: &str = "with recursive blockers (pid) as ( \
       select unnest(pg_blocking_pids($1)) \
       union select unnest(pg_blocking_pids(pid)) from blockers where pid <> 0) \
     select COLUMNS, w.relation, w.mode \
     from blockers b left join pg_stat_activity a on a.pid = b.pid \
     left join lateral (select relation::regclass::text as relation, mode::text as mode \
       from pg_locks where pid = $1 and not granted limit 1) w on true \
     where b.pid <> $1 order by 7, b.pid";

/// Looked at once more in the moment that it is ended.
const TERMINATE: &str = "select pg_terminate_backend(pid) from pg_stat_activity \
     where pid = $1 and backend_type = 'client backend' \
     and state in ('idle in transaction', 'idle in transaction (aborted)') \
     and state_change <= clock_timestamp() - $2::bigint * interval '1 ms'";

/// The sessions of a tool, told by their name or by when they came, that wait for a lock
/// which no reader and no writer takes, and whether for longer than $4 milliseconds.
const TOOLS: &str = "select a.pid, coalesce(coalesce((to_jsonb(l) ->> 'waitstart')::timestamptz, a.query_start) \
       < clock_timestamp() - $4::bigint * interval '1 ms', false) \
     from pg_stat_activity a join pg_locks l on l.pid = a.pid and not l.granted \
     where a.datname = current_database() and a.pid <> all ($1) \
     and (a.application_name = $2 or (a.backend_start >= $3::text::timestamptz \
          and l.mode in ('ShareLock', 'ShareRowExclusiveLock', 'ExclusiveLock', \
                         'AccessExclusiveLock', 'ShareUpdateExclusiveLock') \
          and l.locktype = 'relation')) limit 1";

/// The second connection.
pub(super) struct Watch {
    own: Option<Own>,
    /// Sessions idle in a transaction for longer are ended.
    consent: Option<Duration>,
    /// Those that were told to end and are still there: they are not told twice.
    ended: Vec<i32>,
    /// One is being told to end, and it is not reported yet.
    ending: Arc<AtomicBool>,
    /// The first look, and the pause between two.
    pauses: [Duration; 2],
}

/// Whose statement it is.
#[derive(Debug, Clone, Copy)]
pub(super) struct What<'a> {
    pub(super) migration: &'a str,
    pub(super) line: Option<usize>,
}

impl Watch {
    /// Opened before anybody is in the way: then, there may be no slot left.
    pub(super) async fn open(
        connector: &Arc<Connector>,
        consent: Option<Duration>,
        lock_timeout: Duration,
        events: &mut Events,
    ) -> Watch {
        let own = match Own::open(connector).await {
            Ok(own) => Some(own),
            Err(error) => {
                let why = error.to_string();
                events.tell(Event::Unwatched { why });
                None
            }
        };
        Watch {
            own,
            consent,
            ended: Vec::new(),
            ending: Arc::default(),
            pauses: [FIRST, PAUSE].map(|pause| match lock_timeout.is_zero() {
                true => pause,
                false => pause.min(lock_timeout / 3),
            }),
        }
    }

    pub(super) fn pid(&self) -> Option<i32> {
        self.own.as_ref().map(Own::pid)
    }

    pub(super) fn client(&self) -> Option<&Client> {
        self.own.as_ref().map(Own::client)
    }

    /// Does `work`, which the session `pid` does, and tells who is in its way meanwhile.
    pub(super) async fn over<T>(
        &mut self,
        pid: i32,
        what: What<'_>,
        events: &mut Events,
        work: impl Future<Output = T>,
    ) -> T {
        let mut seen = Vec::new();
        let [first, pause] = self.pauses;
        let ending = Arc::clone(&self.ending);
        let mut looking = pin!(async {
            tokio::time::sleep(first).await;
            while self.own.is_some() {
                self.look(pid, what, &mut seen, events).await;
                tokio::time::sleep(pause).await;
            }
            std::future::pending::<Infallible>().await
        });
        let done = tokio::select! {
            biased;
            done = work => done,
            never = looking.as_mut() => match never {},
        };
        reported(&ending, looking).await;
        done
    }

    /// Tells who is in the way of `pid`, if others than have been `seen`.
    pub(super) async fn look(
        &mut self,
        pid: i32,
        what: What<'_>,
        seen: &mut Vec<i32>,
        events: &mut Events,
    ) {
        let Some(client) = self.client() else { return };
        let looked = tokio::time::timeout(LOOK, blockers(client, pid, what)).await;
        let blocked = match looked {
            Ok(Ok(blocked)) => blocked,
            Ok(Err(error)) => return self.give_up(error.to_string(), events),
            Err(_) => return self.give_up("it does not answer".to_owned(), events),
        };
        let Some(blocked) = blocked else { return };
        let pids: Vec<_> = blocked.by.iter().map(|session| session.pid).collect();
        let idle: Vec<_> = blocked
            .by
            .iter()
            .filter(|one| self.may_end(one))
            .cloned()
            .collect();
        self.ended.retain(|pid| pids.contains(pid));
        if pids != *seen {
            *seen = pids;
            events.tell(Event::Blocked(blocked));
        }
        for session in idle {
            self.terminate(session, events).await;
        }
    }

    fn may_end(&self, session: &Session) -> bool {
        if self.ended.contains(&session.pid) {
            return false;
        }
        let Some(age) = self.consent else {
            return false;
        };
        let idles = session
            .state
            .as_deref()
            .is_some_and(|state| state.starts_with("idle in transaction"));
        idles && session.since.is_some_and(|since| since >= age)
    }

    async fn terminate(&mut self, session: Session, events: &mut Events) {
        let (Some(client), Some(age)) = (self.client(), self.consent) else {
            return;
        };
        let age = i64::try_from(age.as_millis()).unwrap_or(i64::MAX);
        self.ending.store(true, Ordering::Relaxed);
        let told = client.query_opt(TERMINATE, &[&session.pid, &age]).await;
        match told {
            Ok(Some(_)) => {
                self.ended.push(session.pid);
                events.tell(Event::Terminated { session });
            }
            // It has moved on by itself.
            Ok(None) => {}
            Err(error) => {
                let why = antifreeze::Error::from(error).to_string();
                events.tell(Event::NotTerminated { session, why });
            }
        }
        self.ending.store(false, Ordering::Relaxed);
    }

    /// Looks for a session of a tool that waits. `Some(true)`: for longer than `lock_timeout`.
    pub(super) async fn waiting(
        &self,
        ours: &[i32],
        name: &str,
        since: &str,
        lock_timeout: Duration,
    ) -> Option<(i32, bool)> {
        let late = i64::try_from(lock_timeout.as_millis()).unwrap_or(i64::MAX);
        let parameters: [&(dyn tokio_postgres::types::ToSql + Sync); 4] =
            [&ours, &name, &since, &late];
        let asked = self.client()?.query_opt(TOOLS, &parameters);
        let row = tokio::time::timeout(LOOK, asked).await.ok()?.ok()??;
        Some((row.try_get(0).ok()?, row.try_get(1).ok()?))
    }

    /// Looks which statements of a tool our limits have ended, and says when to look again, if
    /// that is soon.
    pub(super) async fn limits(
        &self,
        limits: &mut Limits,
        name: &str,
        ours: &[i32],
        since: &str,
    ) -> Option<Duration> {
        let looked = limits.look(self.client()?, name, ours, since);
        let soon = tokio::time::timeout(LOOK, looked).await.ok()?.ok()??;
        Some(Duration::from_millis(soon))
    }

    /// Whether one is being told to end, and is not reported yet.
    pub(super) fn ending(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.ending)
    }

    pub(super) fn pause(&self) -> Duration {
        self.pauses[1]
    }

    fn give_up(&mut self, why: String, events: &mut Events) {
        self.own = None;
        events.tell(Event::Unwatched { why });
    }

    pub(super) async fn close(self) {
        if let Some(own) = self.own {
            own.close().await;
        }
    }
}

/// Lets who looks come to the end of its report: whoever was ended is reported, even if the
/// way was free before the answer came.
pub(super) async fn reported(
    ending: &AtomicBool,
    mut looking: Pin<&mut impl Future<Output = Infallible>>,
) {
    let reported = poll_fn(|cx| {
        if !ending.load(Ordering::Relaxed) {
            return Poll::Ready(());
        }
        let Poll::Pending = looking.as_mut().poll(cx);
        match ending.load(Ordering::Relaxed) {
            true => Poll::Pending,
            false => Poll::Ready(()),
        }
    });
    let _ = tokio::time::timeout(LOOK, reported).await;
}

async fn blockers(client: &Client, pid: i32, what: What<'_>) -> Result<Option<Blocked>> {
    let query = BLOCKERS.replace("COLUMNS", COLUMNS);
    let rows = client.query(&query, &[&pid]).await?;
    let Some(first) = rows.first() else {
        return Ok(None);
    };
    let blocked = Blocked {
        migration: what.migration.to_owned(),
        line: what.line,
        relation: first.try_get(7)?,
        mode: first.try_get(8)?,
        by: rows.iter().map(session).collect::<Result<_>>()?,
    };
    Ok(Some(blocked))
}

/// The session of a process.
pub(super) async fn one(client: &Client, pid: i32) -> Result<Session> {
    let query = format!(
        "select {COLUMNS} from (select $1::int4 as pid) b \
         left join pg_stat_activity a on a.pid = b.pid"
    );
    session(&client.query_one(&query, &[&pid]).await?)
}

/// Reads [`COLUMNS`].
pub(super) fn session(row: &Row) -> Result<Session> {
    let since: Option<i64> = row.try_get(5)?;
    let since = since.and_then(|since| u64::try_from(since).ok());
    Ok(Session {
        pid: row.try_get(0)?,
        application: row.try_get(1)?,
        user: row.try_get(2)?,
        client: row.try_get(3)?,
        state: row.try_get(4)?,
        since: since.map(Duration::from_millis),
        waits: row.try_get(6)?,
    })
}
