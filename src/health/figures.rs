//! Queries the figures of the health report.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use serde::Deserialize;
use tokio_postgres::{Client, SimpleQueryMessage};

use super::migrations::{ExpectedMigrations, Pending};
use super::report::{Server, Slots, percentage, seconds};
use crate::error::{Error, ErrorKind, Result};
use crate::limit::{self, Reading, reserved};

/// The query of [`Reading`], with the sessions that take the slots. It is sent as a simple query,
/// so that no pooler has to track a prepared statement.
///
/// Every role may see a session's role, database and application name. It sees type, state and
/// times only for roles that it is a member of, or with `pg_read_all_stats`
/// (manual, "The Cumulative Statistics System" and "Predefined Roles").
const QUERY: &str = concat!(
    "\
with a as (\
  select * from pg_catalog.pg_stat_get_activity(null) a \
  where coalesce(a.backend_type = 'client backend', a.usesysid <> 0 and a.datid <> 0)\
), \
applications as (select coalesce(application_name, '') as name, count(*) as n from a \
  group by 1 order by 2 desc, 1 limit 50), \
users as (select coalesce(pg_catalog.pg_get_userbyid(usesysid), '') as name, count(*) as n \
  from a group by 1 order by 2 desc, 1 limit 50), \
states as (select coalesce(state, 'unknown') as name, count(*) as n from a group by 1) \
select json_build_object(\
  'version', current_setting('server_version'), \
  'slots', current_setting('max_connections')::int, \
  'reserved', case when me.rolsuper then 0 else ",
    reserved!(),
    " end, \
  'used', (select count(*) from a), \
  'hidden', (select count(*) from a where backend_type is null), \
  'untracked', (select count(*) from a where state = 'disabled'), \
  'role_limit', case when me.rolsuper then -1 else me.rolconnlimit end, \
  'by_role', (select count(*) from a where usesysid = me.oid), \
  'database_limit', case when me.rolsuper then -1 else db.datconnlimit end, \
  'in_database', (select count(*) from a where datid = db.oid), \
  'by_application', (select json_object_agg(name, n) from applications), \
  'by_user', (select json_object_agg(name, n) from users), \
  'by_state', (select json_object_agg(name, n) from states), \
  'idle_in_transaction', (select count(*) from a where state like 'idle in transaction%'), \
  'oldest', (select extract(epoch from max(clock_timestamp() - state_change)) from a \
    where state like 'idle in transaction%'), \
  'longest', (select extract(epoch from max(clock_timestamp() - xact_start)) from a \
    where pid <> pg_catalog.pg_backend_pid()), \
  'timeouts', json_build_object(\
    'statement_timeout', current_setting('statement_timeout', true), \
    'lock_timeout', current_setting('lock_timeout', true), \
    'idle_in_transaction_session_timeout', \
      current_setting('idle_in_transaction_session_timeout', true), \
    'idle_session_timeout', current_setting('idle_session_timeout', true), \
    'transaction_timeout', current_setting('transaction_timeout', true)), \
  'me', quote_ident(current_user)) \
from pg_catalog.pg_roles me, pg_catalog.pg_database db \
where me.rolname = session_user and db.datname = current_database()"
);

/// The server's answer to a health reading.
#[derive(Debug, Clone)]
pub(super) struct Answer {
    latency: Duration,
    /// The figures, or the error of their query.
    figures: std::result::Result<Figures, ErrorKind>,
    migrations: Option<Pending>,
}

/// The columns of the query.
#[derive(Debug, Clone, Deserialize)]
struct Figures {
    version: String,
    slots: i64,
    reserved: i64,
    used: i64,
    /// The number of sessions whose type this role may not see.
    hidden: i64,
    /// The number of sessions that do not report their state (`track_activities`).
    untracked: i64,
    role_limit: i64,
    by_role: i64,
    database_limit: i64,
    in_database: i64,
    by_application: Option<BTreeMap<String, u32>>,
    by_user: Option<BTreeMap<String, u32>>,
    by_state: Option<BTreeMap<String, u32>>,
    idle_in_transaction: i64,
    oldest: Option<f64>,
    longest: Option<f64>,
    timeouts: BTreeMap<String, Option<String>>,
    me: String,
}

impl Answer {
    /// Reads the figures first, so that no statement is queued in front of the round trip that is
    /// measured.
    pub(super) async fn of(
        client: &Client,
        expected: Option<&dyn ExpectedMigrations>,
    ) -> Result<Self> {
        let figures = match client.simple_query(QUERY).await {
            Ok(messages) => Figures::of(&messages).ok_or(ErrorKind::Database),
            Err(error) => Err(Error::from(error).kind()),
        };
        let migrations = match expected {
            Some(expected) => Some(expected.pending(client).await),
            None => None,
        };
        let begin = std::time::Instant::now();
        // Another kind of server may refuse the query. It answers this.
        client.check_connection().await?;
        Ok(Answer {
            latency: begin.elapsed(),
            figures,
            migrations,
        })
    }

    pub(super) fn latency(&self) -> Duration {
        self.latency
    }

    /// Returns the slots, if the figures are known.
    pub(super) fn reading(&self, at: SystemTime) -> Option<Reading> {
        let figures = self.figures.as_ref().ok()?;
        Some(Reading::new(at, figures.for_reading()))
    }

    /// Returns the part of the report about the server, `age` after the answer.
    pub(super) fn server(&self, age: Duration) -> Server {
        let known = match &self.figures {
            Ok(figures) => figures.server(),
            Err(kind) => Server {
                hint: Some(format!(
                    "the query for the slots in use failed ({kind}): run \
                     `select * from pg_stat_activity` by hand to see why"
                )),
                ..Server::default()
            },
        };
        Server {
            age_seconds: seconds(age),
            latency_ms: Some((self.latency.as_secs_f64() * 1e6).round() / 1e3),
            migrations: self.migrations.clone(),
            ..known
        }
    }
}

impl Figures {
    fn of(messages: &[SimpleQueryMessage]) -> Option<Self> {
        messages.iter().find_map(|message| match message {
            SimpleQueryMessage::Row(row) => serde_json::from_str(row.try_get(0).ok()??).ok(),
            _ => None,
        })
    }

    fn for_reading(&self) -> [i64; 6] {
        [
            self.slots - self.reserved,
            self.used,
            self.role_limit,
            self.by_role,
            self.database_limit,
            self.in_database,
        ]
    }

    fn server(&self) -> Server {
        let reading = Reading::new(SystemTime::UNIX_EPOCH, self.for_reading());
        // Hidden sessions may be in any state.
        let seen = self.hidden == 0 && self.untracked == 0;
        let count = |figure: i64| u32::try_from(figure.max(0)).unwrap_or(u32::MAX);
        let time = |time: Option<f64>| {
            let time = time.unwrap_or_default().max(0.0);
            let time = Duration::try_from_secs_f64(time).unwrap_or_default();
            seen.then(|| seconds(time))
        };
        let all = |by: &Option<BTreeMap<String, u32>>| {
            let by = by.clone().unwrap_or_default();
            with_others(by, count(self.used))
        };
        let timeouts = self.timeouts.iter();
        let timeouts = timeouts.filter_map(|(name, value)| Some((name.clone(), value.clone()?)));
        Server {
            version: Some(self.version.clone()),
            reserved: Some(count(self.reserved)),
            by_application: Some(all(&self.by_application)),
            by_user: Some(all(&self.by_user)),
            by_state: self.by_state.clone(),
            idle_in_transaction: seen.then(|| count(self.idle_in_transaction)),
            oldest_idle_in_transaction_seconds: time(self.oldest),
            longest_transaction_seconds: time(self.longest),
            timeouts: Some(timeouts.collect()),
            hint: self.hint(),
            ..Server::from(&reading)
        }
    }

    /// Returns the statement that makes hidden figures visible, if any are hidden.
    fn hint(&self) -> Option<String> {
        if self.hidden > 0 {
            return Some(format!(
                "this role may not see the state of {} sessions: \
                 GRANT pg_read_all_stats TO {}",
                self.hidden, self.me
            ));
        }
        (self.untracked > 0).then(|| {
            let untracked = self.untracked;
            format!("{untracked} sessions do not report their state: set track_activities = on")
        })
    }
}

/// Adds the sessions whose names were left out.
fn with_others(mut by: BTreeMap<String, u32>, used: u32) -> BTreeMap<String, u32> {
    let named = by.values().fold(0, |sum: u32, n| sum.saturating_add(*n));
    if used > named {
        *by.entry("(others)".to_owned()).or_default() += used - named;
    }
    by
}

/// The part of the report that a reading of the slots has.
impl From<&Reading> for Server {
    fn from(reading: &Reading) -> Self {
        let limit::Slots { limit, used } = reading.server;
        Server {
            limit: Some(limit),
            used: Some(used),
            usage_percentage: Some(percentage(used.into(), limit.into())),
            role: reading.role.map(Slots::from),
            database: reading.database.map(Slots::from),
            ..Server::default()
        }
    }
}

impl From<limit::Slots> for Slots {
    fn from(slots: limit::Slots) -> Self {
        Slots {
            limit: slots.limit,
            used: slots.used,
        }
    }
}

#[cfg(test)]
impl Answer {
    /// Makes the answer of a server with `limit` slots, of which `used` are taken and `hidden` of
    /// those hidden.
    pub(super) fn test(limit: i64, used: i64, hidden: i64) -> Self {
        Answer {
            latency: Duration::from_micros(1_234),
            migrations: None,
            figures: Ok(Figures {
                version: "17.0".into(),
                slots: limit + 3,
                reserved: 3,
                used,
                hidden,
                untracked: 0,
                role_limit: -1,
                by_role: used,
                database_limit: 1000,
                in_database: used,
                by_application: None,
                by_user: Some(BTreeMap::from([("app".to_owned(), 2)])),
                by_state: None,
                idle_in_transaction: 0,
                oldest: None,
                longest: Some(-0.5),
                timeouts: BTreeMap::from([("transaction_timeout".to_owned(), None)]),
                me: "app".into(),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn invisible_figures_are_unknown_not_zero() {
        let server = Answer::test(10, 4, 0).server(Duration::from_secs(2));
        assert_eq!(server.idle_in_transaction, Some(0));
        assert_eq!(server.oldest_idle_in_transaction_seconds, Some(0.0));
        assert_eq!(server.longest_transaction_seconds, Some(0.0));
        assert_eq!(server.hint, None);
        assert_eq!((server.age_seconds, server.latency_ms), (2.0, Some(1.234)));
        let server = Answer::test(10, 4, 1).server(Duration::ZERO);
        assert_eq!(server.idle_in_transaction, None);
        assert_eq!(server.oldest_idle_in_transaction_seconds, None);
        assert_eq!(server.longest_transaction_seconds, None);
        let hint = server.hint.expect("a hint");
        assert!(hint.ends_with("GRANT pg_read_all_stats TO app"), "{hint}");
        assert_eq!((server.limit, server.used), (Some(10), Some(4)));
    }

    #[test]
    fn server_limits_are_shown() {
        let server = Answer::test(10, 4, 0).server(Duration::ZERO);
        assert_eq!(server.usage_percentage.as_deref(), Some("40.0%"));
        assert_eq!((server.role, server.reserved), (None, Some(3)));
        let slots = Slots {
            limit: 1000,
            used: 4,
        };
        assert_eq!(server.database, Some(slots));
        assert_eq!(
            server.timeouts,
            Some(BTreeMap::new()),
            "a timeout that the server does not have"
        );
    }

    #[test]
    fn refused_figures_leave_the_latency() {
        let answer = Answer {
            figures: Err(ErrorKind::PermissionDenied),
            ..Answer::test(1, 1, 0)
        };
        let server = answer.server(Duration::ZERO);
        assert_eq!((server.used, server.by_state), (None, None));
        assert!(server.latency_ms.is_some() && server.hint.is_some());
        assert!(answer.reading(SystemTime::UNIX_EPOCH).is_none());
    }

    proptest! {
        #[test]
        fn others_complete_the_count(
            by in prop::collection::btree_map("[a-c]|\\(others\\)", 0..5_u32, 0..4),
            more in 0..9_u32,
        ) {
            let used = by.values().sum::<u32>() + more;
            let all = with_others(by, used);
            prop_assert_eq!(all.values().sum::<u32>(), used);
        }
    }
}
