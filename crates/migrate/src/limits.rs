//! Which limit of ours ended a statement of a tool, as the second connection sees it.
//!
//! The server keeps no error where another session could read it, and what a tool writes may
//! go elsewhere, or be in another language. But it shows since when a statement lasts and
//! waits for its lock: one that was at it just before the limit, and is over just behind it,
//! was ended by the limit.

use tokio_postgres::{Client, Row};

use super::error::Result;
use super::settings::Settings;
use super::tool::Limit;

/// Milliseconds, of the server's clock.
type Time = i64;

/// How near to a limit to look, before and behind it.
const NEAR: Time = 15;

/// How late the server may end what has reached its limit: what goes on for longer has a
/// limit of its own.
const LATE: Time = 250;

/// The sessions named $1 that have begun since $3, but for $2. Where our role may not see into them there is no more
/// than the lock.
const SESSIONS: &str = "select (extract(epoch from n.at) * 1000)::bigint, a.pid, \
       (extract(epoch from a.query_start) * 1000)::bigint, \
       (extract(epoch from a.state_change) * 1000)::bigint, \
       coalesce(a.state = 'active', w.since is not null), \
       (extract(epoch from w.since) * 1000)::bigint \
     from (select clock_timestamp() as at) n \
     left join pg_stat_activity a on a.datname = current_database() \
       and a.application_name = $1 and a.pid <> all ($2) \
       and a.backend_start >= $3::text::timestamptz \
     left join lateral ( \
       select min(coalesce((to_jsonb(l) ->> 'waitstart')::timestamptz, a.query_start)) as since \
       from pg_locks l where l.pid = a.pid and not l.granted) w on true";

/// A session at one moment.
#[derive(Debug, Clone, PartialEq)]
struct Session {
    pid: i32,
    /// Its last statement.
    began: Time,
    changed: Time,
    active: bool,
    waits: Option<Time>,
}

/// What was seen of the tool's statements.
#[derive(Debug, Default)]
pub(super) struct Limits {
    lock: Time,
    statement: Time,
    /// Those that were at it when it was looked last, and when that was.
    active: Vec<Session>,
    looked: Time,
    /// The limit that ended one; a lock's before another.
    pub(super) ended: Option<Limit>,
}

impl Limits {
    pub(super) fn new(settings: &Settings) -> Limits {
        let time = |limit: std::time::Duration| Time::try_from(limit.as_millis());
        Limits {
            lock: time(settings.lock_timeout).unwrap_or_default(),
            statement: time(settings.statement_timeout).unwrap_or_default(),
            ..Limits::default()
        }
    }

    /// Looks, and says after how many milliseconds to look again, if that is soon.
    pub(super) async fn look(
        &mut self,
        client: &Client,
        name: &str,
        ours: &[i32],
        since: &str,
    ) -> Result<Option<u64>> {
        let rows = client.query(SESSIONS, &[&name, &ours, &since]).await?;
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
            let over = match after {
                None => now,
                Some(after) if after.began != before.began => after.began,
                Some(after) if after.active => continue,
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

    /// When the limit ends what the session does, at the earliest and at the latest.
    fn limit(&self, session: &Session, limit: Limit) -> Option<(Time, Time)> {
        let (since, limit) = match limit {
            Limit::Lock => (session.waits?, self.lock),
            Limit::Statement => (session.began, self.statement),
        };
        let at = since + limit;
        (limit > 0).then_some((at, at + LATE.min(limit / 2)))
    }

    /// How long from the last look to the moment just before a limit, or just behind it.
    fn next(&self) -> Option<Time> {
        let limits = self.active.iter().flat_map(|session| {
            [Limit::Lock, Limit::Statement].map(|limit| self.limit(session, limit))
        });
        let moments = limits.flatten().flat_map(|(at, _)| [at - NEAR, at + NEAR]);
        let ahead = moments.filter(|&at| at > self.looked);
        ahead.min().map(|at| at - self.looked)
    }
}

/// `None`: there is none.
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
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Time = 1000;

    /// At work since the beginning, and waiting for a lock since `waits`.
    fn busy(waits: Option<Time>) -> Session {
        Session {
            pid: 1,
            began: 0,
            changed: 0,
            active: true,
            waits,
        }
    }

    fn limits() -> Limits {
        Limits {
            lock: 2 * SECOND,
            statement: 30 * SECOND,
            ..Limits::default()
        }
    }

    /// What is found once `session` was seen at each of `looks`, and `after` it at the end.
    fn ended(
        session: &Session,
        looks: &[Time],
        after: Option<Session>,
        end: Time,
    ) -> Option<Limit> {
        let mut limits = limits();
        for &look in looks {
            limits.take(look, vec![session.clone()]);
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

    fn next(began: Time) -> Option<Session> {
        Some(Session {
            began,
            ..busy(None)
        })
    }

    #[test]
    fn statement_over_its_limit_was_ended_by_it() {
        let waits = busy(Some(100));
        for (after, end, expected) in [
            (idle(2101), 2115, Some(Limit::Lock)),
            (next(2101), 2115, Some(Limit::Lock)),
            (None, 2115, Some(Limit::Lock)),
            // It got its lock before.
            (idle(2099), 2115, None),
            (next(2099), 2115, None),
            (None, 2090, None),
            // It got its lock, and goes on.
            (Some(busy(None)), 2115, None),
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
    fn limit_of_the_tool_is_not_ours() {
        let waits = busy(Some(100));
        assert_eq!(ended(&waits, &[2085, 2115, 2400], idle(5100), 5200), None);
        // It may be late.
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
    fn server_is_watched_around_the_limit() {
        let mut limits = limits();
        for (now, expected) in [(500, 1585), (2085, 30), (2115, 27_870)] {
            limits.take(now, vec![busy(Some(100))]);
            assert_eq!(limits.next(), Some(expected), "{now}");
        }
    }
}
