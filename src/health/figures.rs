//! Queries the figures of the health report.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use serde::Deserialize;
use tokio_postgres::{Client, SimpleQueryMessage};

use super::migrations::{ExpectedMigrations, PendingMigrations};
use super::report::{Server, percentage, seconds};
use crate::error::{Error, ErrorKind, Result};
use crate::limit::{Reading, Slots};
use crate::provider::RESERVED;

/// The query of [`Reading`], with the sessions that take the slots. It is sent as a simple query,
/// so that no pooler has to track a prepared statement.
///
/// Every role may see a session's role, database and application name. It sees type, state and
/// times only for roles that it is a member of, or with `pg_read_all_stats`
/// (manual, "The Cumulative Statistics System" and "Predefined Roles").
fn query() -> String {
    format!(
        "\
with a as (\
  select * from pg_catalog.pg_stat_get_activity(null) a \
  where coalesce(a.backend_type = 'client backend', a.usesysid <> 0 and a.datid <> 0)\
), \
applications as (select coalesce(application_name, '') as name, count(*) as n from a \
  group by 1 order by 2 desc, 1 limit 50), \
users as (select coalesce(pg_catalog.pg_get_userbyid(usesysid), '') as name, count(*) as n \
  from a group by 1 order by 2 desc, 1 limit 50), \
states as (select coalesce(state, 'unknown') as name, count(*) as n from a group by 1), \
times as (select \
  max(clock_timestamp() - state_change) filter (where state like 'idle in transaction%') as idle, \
  max(clock_timestamp() - xact_start) filter (where pid <> pg_catalog.pg_backend_pid()) as longest \
  from a), \
reserved as (select {RESERVED} as n) \
select json_build_object(\
  'slots', json_build_array(\
    current_setting('max_connections')::int - case when me.rolsuper then 0 else reserved.n end, \
    (select count(*) from a), \
    case when me.rolsuper then -1 else me.rolconnlimit end, \
    (select count(*) from a where usesysid = me.oid), \
    case when me.rolsuper then -1 else db.datconnlimit end, \
    (select count(*) from a where datid = db.oid)), \
  'hidden', (select count(*) from a where backend_type is null), \
  'untracked', (select count(*) from a where state = 'disabled'), \
  'me', quote_ident(current_user), \
  'server', json_build_object(\
    'version', current_setting('server_version'), \
    'reserved', case when me.rolsuper then 0 else reserved.n end, \
    'by_application', (select json_object_agg(name, n) from applications), \
    'by_user', (select json_object_agg(name, n) from users), \
    'by_state', (select json_object_agg(name, n) from states), \
    'idle_in_transaction', (select count(*) from a where state like 'idle in transaction%'), \
    'oldest_idle_in_transaction_seconds', \
      greatest(0, round(extract(epoch from times.idle)::numeric, 3)), \
    'longest_transaction_seconds', \
      greatest(0, round(extract(epoch from times.longest)::numeric, 3)), \
    'timeouts', json_strip_nulls(json_build_object(\
      'statement_timeout', current_setting('statement_timeout', true), \
      'lock_timeout', current_setting('lock_timeout', true), \
      'idle_in_transaction_session_timeout', \
        current_setting('idle_in_transaction_session_timeout', true), \
      'idle_session_timeout', current_setting('idle_session_timeout', true), \
      'transaction_timeout', current_setting('transaction_timeout', true))))) \
from pg_catalog.pg_roles me, pg_catalog.pg_database db, times, reserved \
where me.rolname = session_user and db.datname = current_database()"
    )
}

/// The server's answer to a health reading.
#[derive(Debug, Clone)]
pub(super) struct Answer {
    pub(super) latency: Duration,
    /// The figures of [`Reading`], if they are known.
    slots: Option<[i64; 6]>,
    /// The part of the report about the server, without its age.
    server: Server,
}

/// The columns of the query.
#[derive(Deserialize)]
struct Figures {
    slots: [i64; 6],
    /// The number of sessions whose type this role may not see.
    hidden: i64,
    /// The number of sessions that do not report their state (`track_activities`).
    untracked: i64,
    me: String,
    server: Server,
}

impl Answer {
    /// Reads the figures first, so that no statement is queued in front of the round trip that is
    /// measured.
    pub(super) async fn of(
        client: &Client,
        expected: Option<&dyn ExpectedMigrations>,
    ) -> Result<Self> {
        let figures = match client.simple_query(&query()).await {
            Ok(messages) => Figures::of(&messages).ok_or(ErrorKind::Database),
            Err(error) => Err(Error::kind_of(&error)),
        };
        let migrations = match expected {
            Some(expected) => Some(expected.pending(client).await),
            None => None,
        };
        let begin = std::time::Instant::now();
        // Another kind of server may refuse the query. It answers this.
        client.check_connection().await?;
        Ok(Answer::new(figures, migrations, begin.elapsed()))
    }

    fn new(
        figures: Result<Figures, ErrorKind>,
        migrations: Option<PendingMigrations>,
        latency: Duration,
    ) -> Self {
        let slots = figures.as_ref().ok().map(|figures| figures.slots);
        let known = figures.map_or_else(
            |kind| Server {
                hint: Some(format!(
                    "the query for the slots in use failed ({kind}): run \
                     `select * from pg_stat_activity` by hand to see why"
                )),
                ..Server::default()
            },
            Figures::into_server,
        );
        let server = Server {
            latency_ms: Some((latency.as_secs_f64() * 1e6).round() / 1e3),
            migrations,
            ..known
        };
        Answer {
            latency,
            slots,
            server,
        }
    }

    /// Returns the slots, if the figures are known.
    pub(super) fn reading(&self, at: SystemTime) -> Option<Reading> {
        Some(Reading::new(at, self.slots?))
    }

    /// Returns the part of the report about the server, `age` after the answer.
    pub(super) fn server(&self, age: Duration) -> Server {
        Server {
            age_seconds: seconds(age),
            ..self.server.clone()
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

    fn into_server(self) -> Server {
        let hint = self.hint();
        let reading = Reading::new(SystemTime::UNIX_EPOCH, self.slots);
        let mut server = self.server.with_slots(&reading);
        for by in [&mut server.by_application, &mut server.by_user] {
            *by = Some(with_others(
                by.take().unwrap_or_default(),
                reading.server.used,
            ));
        }
        // Hidden sessions may be in any state.
        if hint.is_some() {
            server.idle_in_transaction = None;
            server.oldest_idle_in_transaction_seconds = None;
            server.longest_transaction_seconds = None;
        }
        Server { hint, ..server }
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

impl Server {
    /// Adds the part of the report that a reading of the slots has.
    pub(super) fn with_slots(self, reading: &Reading) -> Self {
        let Slots { limit, used } = reading.server;
        Server {
            limit: Some(limit),
            used: Some(used),
            usage_percentage: Some(percentage(used.into(), limit.into())),
            role: reading.role,
            database: reading.database,
            ..self
        }
    }
}

#[cfg(test)]
impl Answer {
    /// Makes the answer of a server with `limit` slots, of which `used` are taken and `hidden` of
    /// those hidden.
    pub(super) fn test(limit: i64, used: i64, hidden: i64) -> Self {
        let figures = Figures {
            slots: [limit, used, -1, used, 1000, used],
            hidden,
            untracked: 0,
            me: "app".into(),
            server: Server {
                version: Some("17.0".into()),
                reserved: Some(3),
                by_user: Some(BTreeMap::from([("app".to_owned(), 2)])),
                idle_in_transaction: Some(0),
                oldest_idle_in_transaction_seconds: Some(0.0),
                longest_transaction_seconds: Some(0.0),
                ..Server::default()
            },
        };
        Answer::new(Ok(figures), None, Duration::from_micros(1_234))
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
    }

    #[test]
    fn refused_figures_leave_the_latency() {
        let answer = Answer::new(Err(ErrorKind::PermissionDenied), None, Duration::ZERO);
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
