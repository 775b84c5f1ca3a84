//! Detects which timeout ended a statement of a tool, from a second connection.
//!
//! Another session cannot read the error, and the tool's output may go to a file or be in
//! another language. But the server shows when a statement began and since when it waits for
//! a lock: a statement that was running just before its timeout and has ended just after it
//! was ended by the timeout.

use tokio_postgres::{Client, Row};

use super::error::Result;
use super::run_settings::RunSettings;
use super::tool_process::Limit;

/// Milliseconds, of the server's clock.
type Time = i64;

/// How close before and after a timeout to check.
const NEAR: Time = 15;

/// How late the server may end a statement after its timeout. A statement that continues for
/// longer has another timeout.
const LATE: Time = 250;

/// Selects the sessions named $1 that have begun since $3, except $2. If the role may not see
/// their state, only their locks are known, which each role sees.
const SESSIONS: &str = "select (extract(epoch from n.at) * 1000)::bigint, a.pid, \
       (extract(epoch from a.query_start) * 1000)::bigint, \
       (extract(epoch from a.state_change) * 1000)::bigint, \
       coalesce(a.state = 'active', w.since is not null), \
       (extract(epoch from w.since) * 1000)::bigint, w.wanted, coalesce(w.held, '{}') \
     from (select clock_timestamp() as at) n \
     left join pg_stat_activity a on a.datname = current_database() \
       and a.application_name = $1 and a.pid <> all ($2) \
       and a.backend_start >= $3::text::timestamptz \
     left join lateral ( \
       select min(coalesce((to_jsonb(l) ->> 'waitstart')::timestamptz, a.query_start)) \
           filter (where not granted) as since, \
         min(name) filter (where not granted \
           and locktype in ('relation', 'object', 'advisory', 'userlock')) as wanted, \
         array_agg(name) filter (where granted) as held \
       from pg_locks l, concat_ws(' ', locktype, database, relation, page, tuple, virtualxid, \
         transactionid, classid, objid, objsubid, mode) as name \
       where l.pid = a.pid) w on true";

/// The state of a session at one moment.
#[derive(Debug, Clone, PartialEq)]
struct Session {
    pid: i32,
    /// When its last statement began.
    began: Time,
    changed: Time,
    active: bool,
    waits: Option<Time>,
    /// The lock for which it waits, if it is one that is kept once it is granted.
    wanted: Option<String>,
    /// The locks that it has.
    held: Vec<String>,
}

/// The observed statements of a tool.
#[derive(Debug, Default)]
pub(super) struct Limits {
    lock: Time,
    statement: Time,
    /// The sessions that were active at the last check, and when that was.
    active: Vec<Session>,
    looked: Time,
    /// The timeout that ended a statement; that of a lock takes precedence.
    pub(super) ended: Option<Limit>,
    /// The timeout that has ended a statement if the tool fails: the session has ended, and when
    /// is not known to the millisecond.
    pub(super) if_failed: Option<Limit>,
}

impl Limits {
    pub(super) fn new(settings: &RunSettings) -> Limits {
        let time = |limit: std::time::Duration| Time::try_from(limit.as_millis());
        Limits {
            lock: time(settings.lock_timeout).unwrap_or_default(),
            statement: time(settings.statement_timeout).unwrap_or_default(),
            ..Limits::default()
        }
    }

    /// Checks the sessions; returns the milliseconds until the next check, if that is soon.
    pub(super) async fn check(
        &mut self,
        client: &Client,
        name: &str,
        excluded: &[i32],
        since: &str,
    ) -> Result<Option<u64>> {
        let rows = client.query(SESSIONS, &[&name, &excluded, &since]).await?;
        let Some(first) = rows.first() else {
            return Ok(None);
        };
        let now = first.try_get(0)?;
        let sessions = rows
            .iter()
            .map(|row| session(row, now))
            .collect::<Result<Vec<_>>>()?;
        self.take(now, sessions.into_iter().flatten().collect());
        Ok(self.next().and_then(|soon| u64::try_from(soon).ok()))
    }

    fn take(&mut self, now: Time, sessions: Vec<Session>) {
        for before in std::mem::take(&mut self.active) {
            let after = sessions.iter().find(|after| after.pid == before.pid);
            let around = |limit: Limit| {
                let limit = self.limit(&before, limit);
                limit.is_some_and(|(at, late)| at <= now && self.looked < late)
            };
            let over = match after {
                None => {
                    let mut limits = [Limit::Lock, Limit::Statement].into_iter();
                    self.if_failed = self.if_failed.or(limits.find(|&limit| around(limit)));
                    now
                }
                Some(after) if after.began != before.began => after.began,
                Some(after) if after.active => {
                    // It waits no more and has not got its lock: it is about to end.
                    let has = |lock| after.held.contains(lock);
                    let refused = before.wanted.as_ref().is_some_and(|lock| !has(lock));
                    if after.waits.is_none() && refused && around(Limit::Lock) {
                        self.ended = Some(Limit::Lock);
                    }
                    continue;
                }
                Some(after) => after.changed,
            };
            let ended_by = |limit: Limit| {
                let Some((at, late)) = self.limit(&before, limit) else {
                    return false;
                };
                at <= over && (self.looked < at || over < late)
            };
            if ended_by(Limit::Lock) {
                self.ended = Some(Limit::Lock);
            } else if ended_by(Limit::Statement) {
                self.ended.get_or_insert(Limit::Statement);
            }
        }
        self.looked = now;
        self.active = sessions;
        self.active.retain(|session| session.active);
    }

    /// Returns when the timeout ends the session's statement, at the earliest and the latest.
    fn limit(&self, session: &Session, limit: Limit) -> Option<(Time, Time)> {
        let (since, limit) = match limit {
            Limit::Lock => (session.waits?, self.lock),
            Limit::Statement => (session.began, self.statement),
        };
        let at = since + limit;
        (limit > 0).then_some((at, at + LATE.min(limit / 2)))
    }

    /// Returns the time from the last check to the moment just before or after a timeout.
    fn next(&self) -> Option<Time> {
        let limits = self.active.iter().flat_map(|session| {
            [Limit::Lock, Limit::Statement].map(|limit| self.limit(session, limit))
        });
        let moments = limits.flatten().flat_map(|(at, _)| [at - NEAR, at + NEAR]);
        let ahead = moments.filter(|&at| at > self.looked);
        ahead.min().map(|at| at - self.looked)
    }
}

/// Reads a session; returns `None` if the row has none.
fn session(row: &Row, now: Time) -> Result<Option<Session>> {
    let Some(pid) = row.try_get(1)? else {
        return Ok(None);
    };
    let (began, changed): (Option<Time>, Option<Time>) = (row.try_get(2)?, row.try_get(3)?);
    Ok(Some(Session {
        pid,
        began: began.unwrap_or_default(),
        changed: changed.unwrap_or(now),
        active: row.try_get(4)?,
        waits: row.try_get(5)?,
        wanted: row.try_get(6)?,
        held: row.try_get(7)?,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Time = 1000;

    /// An active session that began at 0, and waits for a lock since `waits`.
    fn busy(waits: Option<Time>) -> Session {
        Session {
            pid: 1,
            began: 0,
            changed: 0,
            active: true,
            waits,
            wanted: waits.map(|_| "relation 1".to_owned()),
            held: Vec::new(),
        }
    }

    fn limits() -> Limits {
        Limits {
            lock: 2 * SECOND,
            statement: 30 * SECOND,
            ..Limits::default()
        }
    }

    /// Observes `session` at each of `checks`, then `after` at the end.
    fn ended(
        session: &Session,
        checks: &[Time],
        after: Option<Session>,
        end: Time,
    ) -> Option<Limit> {
        let mut limits = limits();
        for &check in checks {
            limits.take(check, vec![session.clone()]);
        }
        limits.take(end, after.into_iter().collect());
        limits.ended
    }

    fn idle(changed: Time) -> Option<Session> {
        Some(Session {
            changed,
            active: false,
            ..busy(None)
        })
    }

    fn got() -> Session {
        Session {
            held: vec!["relation 1".to_owned()],
            ..busy(None)
        }
    }

    fn next(began: Time) -> Option<Session> {
        Some(Session {
            began,
            ..busy(None)
        })
    }

    #[test]
    fn statements_that_end_after_a_timeout_were_ended() {
        let waits = busy(Some(100));
        for (after, end, expected) in [
            (idle(2101), 2115, Some(Limit::Lock)),
            (next(2101), 2115, Some(Limit::Lock)),
            (None, 2115, Some(Limit::Lock)),
            // It got its lock before the timeout.
            (idle(2099), 2115, None),
            (next(2099), 2115, None),
            (None, 2090, None),
            // It got its lock and continues.
            (Some(got()), 2115, None),
            // It did not, and its end is under way.
            (Some(busy(None)), 2115, Some(Limit::Lock)),
        ] {
            assert_eq!(
                ended(&waits, &[500, 2085], after.clone(), end),
                expected,
                "{after:?}"
            );
        }
        let lasts = busy(None);
        assert_eq!(
            ended(&lasts, &[29_985], idle(30_001), 30_015),
            Some(Limit::Statement)
        );
        assert_eq!(ended(&lasts, &[29_985], idle(29_999), 30_015), None);
    }

    #[test]
    fn late_ends_count_if_the_tool_failed() {
        for (checks, end, expected) in [
            // The server was late, and the session was gone before the next check.
            (&[2085, 2115][..], 2400, Some(Limit::Lock)),
            // It had another timeout.
            (&[2085, 2115, 2400], 5200, None),
        ] {
            let mut limits = limits();
            for &check in checks {
                limits.take(check, vec![busy(Some(100))]);
            }
            limits.take(end, Vec::new());
            assert_eq!((limits.ended, limits.if_failed), (None, expected));
        }
    }

    #[test]
    fn other_timeouts_of_the_tool_are_ignored() {
        let waits = busy(Some(100));
        assert_eq!(ended(&waits, &[2085, 2115, 2400], idle(5100), 5200), None);
        // The server may be late.
        assert_eq!(
            ended(&waits, &[2085, 2115], idle(2120), 2200),
            Some(Limit::Lock)
        );
        let mut none = Limits::default();
        none.take(2085, vec![waits]);
        none.take(9000, Vec::new());
        assert_eq!((none.ended, none.next()), (None, None));
    }

    #[test]
    fn checks_are_just_before_and_after_a_timeout() {
        let mut limits = limits();
        for (now, expected) in [(500, 1585), (2085, 30), (2115, 27_870)] {
            limits.take(now, vec![busy(Some(100))]);
            assert_eq!(limits.next(), Some(expected), "{now}");
        }
    }
}
