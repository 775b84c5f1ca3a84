//! Finds blocking sessions from a second connection, and ends them if that is allowed.

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
use super::event::{Blocked, Event, ServerSession};
use super::limits::Limits;
use super::report::Events;
use super::session::RunnerSession;

/// How long a query may take before the second connection is given up.
const LOOK: Duration = Duration::from_secs(5);

/// The delay before the first check, and between two; shorter if `lock_timeout` is.
const FIRST: Duration = Duration::from_millis(150);
const PAUSE: Duration = Duration::from_millis(250);

/// The columns that [`session`] reads, of `pg_stat_activity a` for the process `b.pid`. If the
/// role may not see a session's state, state and address are null; `pg_locks`, which every
/// role may read, shows whether it waits.
pub(super) const COLUMNS: &str = "b.pid, a.application_name::text, a.usename::text, \
     host(a.client_addr), a.state::text, \
     (extract(epoch from clock_timestamp() - a.state_change) * 1000)::bigint, \
     exists (select from pg_locks l where l.pid = b.pid and not l.granted)";

/// Selects the lock that session $1 waits for, and all sessions that block it, directly or
/// indirectly.
const BLOCKERS: &str = "with recursive blockers (pid) as ( \
       select unnest(pg_blocking_pids($1)) \
       union select unnest(pg_blocking_pids(pid)) from blockers where pid <> 0) \
     select COLUMNS, w.relation, w.mode \
     from blockers b left join pg_stat_activity a on a.pid = b.pid \
     left join lateral (select relation::regclass::text as relation, mode::text as mode \
       from pg_locks where pid = $1 and not granted limit 1) w on true \
     where b.pid <> $1 order by 7, b.pid";

/// Ends a session, if it is still idle in a transaction.
const TERMINATE: &str = "select pg_terminate_backend(pid) from pg_stat_activity \
     where pid = $1 and backend_type = 'client backend' \
     and state in ('idle in transaction', 'idle in transaction (aborted)') \
     and state_change <= clock_timestamp() - $2::bigint * interval '1 ms'";

/// Selects a new session that waits for a lock, whether for longer than $4 milliseconds, and
/// whether it has the tool's name. One without it is taken for the tool's if it waits for a lock
/// that neither readers nor writers take.
const TOOL_WAITS: &str = "select a.pid, coalesce(coalesce((to_jsonb(l) ->> 'waitstart')::timestamptz, a.query_start) \
       < clock_timestamp() - $4::bigint * interval '1 ms', false), coalesce(a.application_name = $2, false) \
     from pg_stat_activity a join pg_locks l on l.pid = a.pid and not l.granted \
     where a.datname = current_database() and a.pid <> all ($1) \
     and a.backend_start >= $3::text::timestamptz \
     and (a.application_name = $2 or (l.mode in ('ShareLock', 'ShareRowExclusiveLock', 'ExclusiveLock', \
                         'AccessExclusiveLock', 'ShareUpdateExclusiveLock') \
          and l.locktype = 'relation')) order by 3 desc limit 1";

/// The second connection.
pub(super) struct Monitor {
    session: Option<RunnerSession>,
    /// Sessions that are idle in a transaction for longer are ended.
    terminate_age: Option<Duration>,
    /// Sessions that have been signalled and have not ended: they are not signalled again.
    ended: Vec<i32>,
    /// Whether a session is being ended and has not been reported yet.
    ending: Arc<AtomicBool>,
    /// The delay before the first check, and between two.
    pauses: [Duration; 2],
}

/// The statement that is monitored.
#[derive(Debug, Clone, Copy)]
pub(super) struct Location<'a> {
    pub(super) migration: &'a str,
    pub(super) line: Option<usize>,
}

impl Monitor {
    /// Opens the second connection, before a statement is blocked: later, no slot may be free.
    pub(super) async fn open(
        connector: &Arc<Connector>,
        terminate_age: Option<Duration>,
        lock_timeout: Duration,
        events: &mut Events,
    ) -> Monitor {
        let session = match RunnerSession::open(connector).await {
            Ok(session) => Some(session),
            Err(error) => {
                let reason = error.to_string();
                events.emit(Event::MonitorUnavailable { reason });
                None
            }
        };
        Monitor {
            session,
            terminate_age,
            ended: Vec::new(),
            ending: Arc::default(),
            pauses: [FIRST, PAUSE].map(|pause| {
                if lock_timeout.is_zero() {
                    pause
                } else {
                    pause.min(lock_timeout / 3)
                }
            }),
        }
    }

    pub(super) fn pid(&self) -> Option<i32> {
        self.session.as_ref().map(RunnerSession::pid)
    }

    pub(super) fn client(&self) -> Option<&Client> {
        self.session.as_ref().map(RunnerSession::client)
    }

    /// Runs `work` of the session `pid`, and reports the sessions that block it meanwhile.
    pub(super) async fn run<T>(
        &mut self,
        pid: i32,
        location: Location<'_>,
        events: &mut Events,
        work: impl Future<Output = T>,
    ) -> T {
        let mut seen = Vec::new();
        let [first, pause] = self.pauses;
        let ending = Arc::clone(&self.ending);
        let mut observing = pin!(async {
            tokio::time::sleep(first).await;
            while self.session.is_some() {
                self.check(pid, location, true, &mut seen, events).await;
                tokio::time::sleep(pause).await;
            }
            std::future::pending::<Infallible>().await
        });
        let done = tokio::select! {
            biased;
            done = work => done,
            never = observing.as_mut() => match never {},
        };
        reported(&ending, observing).await;
        done
    }

    /// Reports the sessions that block `pid`, unless they are those `seen` before, and `ends` those
    /// that may be ended.
    pub(super) async fn check(
        &mut self,
        pid: i32,
        location: Location<'_>,
        ends: bool,
        seen: &mut Vec<i32>,
        events: &mut Events,
    ) {
        let Some(client) = self.client() else { return };
        let looked = tokio::time::timeout(LOOK, blockers(client, pid, location)).await;
        let blocked = match looked {
            Ok(Ok(blocked)) => blocked,
            Ok(Err(error)) => return self.give_up(error.to_string(), events),
            Err(_) => return self.give_up("the server does not answer".to_owned(), events),
        };
        let Some(blocked) = blocked else { return };
        let pids: Vec<_> = blocked.by.iter().map(|session| session.pid).collect();
        let idle: Vec<_> = blocked
            .by
            .iter()
            .filter(|session| ends && self.may_end(session))
            .cloned()
            .collect();
        self.ended.retain(|pid| pids.contains(pid));
        if pids != *seen {
            *seen = pids;
            events.emit(Event::Blocked(blocked));
        }
        for session in idle {
            self.terminate(session, events).await;
        }
    }

    fn may_end(&self, session: &ServerSession) -> bool {
        if self.ended.contains(&session.pid) {
            return false;
        }
        let Some(age) = self.terminate_age else {
            return false;
        };
        let idles = session
            .state
            .as_deref()
            .is_some_and(|state| state.starts_with("idle in transaction"));
        idles && session.since.is_some_and(|since| since >= age)
    }

    async fn terminate(&mut self, session: ServerSession, events: &mut Events) {
        let (Some(client), Some(age)) = (self.client(), self.terminate_age) else {
            return;
        };
        let age = i64::try_from(age.as_millis()).unwrap_or(i64::MAX);
        self.ending.store(true, Ordering::Relaxed);
        let ended = client.query_opt(TERMINATE, &[&session.pid, &age]).await;
        match ended {
            Ok(Some(_)) => {
                self.ended.push(session.pid);
                events.emit(Event::Terminated { session });
            }
            // It is not idle in a transaction any more.
            Ok(None) => {}
            Err(error) => {
                let reason = antifreeze::Error::from(error).to_string();
                events.emit(Event::NotTerminated { session, reason });
            }
        }
        self.ending.store(false, Ordering::Relaxed);
    }

    /// Finds a session of a tool that waits for a lock, and whether for longer than
    /// `lock_timeout`, and whether it certainly is the tool's.
    pub(super) async fn waiting(
        &self,
        excluded: &[i32],
        name: &str,
        since: &str,
        lock_timeout: Duration,
    ) -> Option<(i32, bool, bool)> {
        let late = i64::try_from(lock_timeout.as_millis()).unwrap_or(i64::MAX);
        let parameters: [&(dyn tokio_postgres::types::ToSql + Sync); 4] =
            [&excluded, &name, &since, &late];
        let asked = self.client()?.query_opt(TOOL_WAITS, &parameters);
        let row = tokio::time::timeout(LOOK, asked).await.ok()?.ok()??;
        Some((
            row.try_get(0).ok()?,
            row.try_get(1).ok()?,
            row.try_get(2).ok()?,
        ))
    }

    /// Checks which statements of a tool a timeout has ended; returns the time until the next
    /// check, if that is soon.
    pub(super) async fn limits(
        &self,
        limits: &mut Limits,
        name: &str,
        excluded: &[i32],
        since: &str,
    ) -> Option<Duration> {
        let looked = limits.check(self.client()?, name, excluded, since);
        let soon = tokio::time::timeout(LOOK, looked).await.ok()?.ok()??;
        Some(Duration::from_millis(soon))
    }

    /// Returns the flag that a session is being ended and has not been reported yet.
    pub(super) fn ending(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.ending)
    }

    pub(super) fn pause(&self) -> Duration {
        self.pauses[1]
    }

    fn give_up(&mut self, reason: String, events: &mut Events) {
        self.session = None;
        events.emit(Event::MonitorUnavailable { reason });
    }

    pub(super) async fn close(self) {
        if let Some(session) = self.session {
            session.close().await;
        }
    }
}

/// Completes the report of a session that is being ended, even if the statement has got its
/// lock meanwhile.
pub(super) async fn reported(
    ending: &AtomicBool,
    mut observing: Pin<&mut impl Future<Output = Infallible>>,
) {
    let reported = poll_fn(|cx| {
        if !ending.load(Ordering::Relaxed) {
            return Poll::Ready(());
        }
        let Poll::Pending = observing.as_mut().poll(cx);
        if ending.load(Ordering::Relaxed) {
            Poll::Pending
        } else {
            Poll::Ready(())
        }
    });
    let _ = tokio::time::timeout(LOOK, reported).await;
}

async fn blockers(client: &Client, pid: i32, location: Location<'_>) -> Result<Option<Blocked>> {
    let query = BLOCKERS.replace("COLUMNS", COLUMNS);
    let rows = client.query(&query, &[&pid]).await?;
    let Some(first) = rows.first() else {
        return Ok(None);
    };
    let blocked = Blocked {
        migration: location.migration.to_owned(),
        line: location.line,
        relation: first.try_get(7)?,
        mode: first.try_get(8)?,
        by: rows.iter().map(session).collect::<Result<_>>()?,
    };
    Ok(Some(blocked))
}

/// Reads the session of a process.
pub(super) async fn session_of(client: &Client, pid: i32) -> Result<ServerSession> {
    let query = format!(
        "select {COLUMNS} from (select $1::int4 as pid) b \
         left join pg_stat_activity a on a.pid = b.pid"
    );
    session(&client.query_one(&query, &[&pid]).await?)
}

/// Reads [`COLUMNS`].
pub(super) fn session(row: &Row) -> Result<ServerSession> {
    let since: Option<i64> = row.try_get(5)?;
    let since = since.and_then(|since| u64::try_from(since).ok());
    Ok(ServerSession {
        pid: row.try_get(0)?,
        application: row.try_get(1)?,
        user: row.try_get(2)?,
        client: row.try_get(3)?,
        state: row.try_get(4)?,
        since: since.map(Duration::from_millis),
        waits: row.try_get(6)?,
    })
}
