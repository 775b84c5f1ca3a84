//! Reads how many connection slots of the server are in use, in one query.

use std::time::SystemTime;

use futures_util::TryStreamExt;
use tokio_postgres::{Client, Error, SimpleQueryMessage, SimpleQueryRow};

use super::reserved;

/// Slots of the server, and how many are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Slots {
    pub(crate) limit: u32,
    pub(crate) used: u32,
}

/// What a server said of its slots, as they are for this role.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Reading {
    pub(crate) at: SystemTime,
    /// All of the server's that are not reserved for others.
    pub(crate) server: Slots,
    /// This role's own (`CONNECTION LIMIT` of `CREATE ROLE`).
    pub(crate) role: Option<Slots>,
    /// This database's own (`CONNECTION LIMIT` of `CREATE DATABASE`).
    pub(crate) database: Option<Slots>,
}

/// Slots are taken by client backends (manual, "Connections and Authentication"; WAL
/// senders and workers have their own). A role that may not see the type of another's backend
/// (no `pg_read_all_stats`) counts what has a user and a database: parallel workers too,
/// which is a little too much and never too little. Superusers are held back by nothing
/// but `max_connections`.
const QUERY: &str = concat!(
    "\
select current_setting('max_connections')::int - case when me.rolsuper then 0 else ",
    reserved!(),
    " end, \
  count(*), \
  case when me.rolsuper then -1 else me.rolconnlimit end, \
  count(*) filter (where a.usesysid = me.oid), \
  case when me.rolsuper then -1 else db.datconnlimit end, \
  count(*) filter (where a.datid = db.oid) \
from pg_catalog.pg_stat_get_activity(null) a, pg_catalog.pg_roles me, pg_catalog.pg_database db \
where me.rolname = session_user and db.datname = current_database() \
  and coalesce(a.backend_type = 'client backend', a.usesysid <> 0 and a.datid <> 0) \
group by me.rolsuper, me.rolconnlimit, db.datconnlimit"
);

/// Sends the query behind what the client was given before, and answers what waits for
/// the answer.
pub(crate) async fn begin(
    client: &Client,
) -> Result<impl Future<Output = Result<Option<[i64; 6]>, Error>> + Send + use<>, Error> {
    let answers = client.simple_query_raw(QUERY).await?;
    Ok(async move {
        let messages: Vec<SimpleQueryMessage> = answers.try_collect().await?;
        Ok(messages.iter().find_map(|message| match message {
            SimpleQueryMessage::Row(row) => figures(row),
            _ => None,
        }))
    })
}

fn figures(row: &SimpleQueryRow) -> Option<[i64; 6]> {
    let mut figures = [0; 6];
    for (at, figure) in figures.iter_mut().enumerate() {
        *figure = row.try_get(at).ok()??.parse().ok()?;
    }
    Some(figures)
}

impl Reading {
    /// What the query's figures mean.
    pub(crate) fn new(at: SystemTime, figures: [i64; 6]) -> Self {
        let count = |figure: i64| u32::try_from(figure.max(0)).unwrap_or(u32::MAX);
        let [
            limit,
            used,
            role_limit,
            by_role,
            database_limit,
            in_database,
        ] = figures;
        let own = |limit: i64, used| {
            (limit >= 0).then(|| Slots {
                limit: count(limit),
                used: count(used),
            })
        };
        Reading {
            at,
            server: Slots {
                limit: count(limit),
                used: count(used),
            },
            role: own(role_limit, by_role),
            database: own(database_limit, in_database),
        }
    }

    /// The slots that will run out first.
    pub(crate) fn tightest(&self) -> Slots {
        let own = self.role.into_iter().chain(self.database);
        own.fold(self.server, |tightest, slots| {
            if slots.free() < tightest.free() {
                slots
            } else {
                tightest
            }
        })
    }
}

impl Slots {
    pub(crate) fn free(&self) -> u32 {
        self.limit.saturating_sub(self.used)
    }

    /// Whether more than `percent` of them are taken.
    pub(crate) fn is_above(&self, percent: u8) -> bool {
        u64::from(self.used) * 100 > u64::from(self.limit) * u64::from(percent)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reading(figures: [i64; 6]) -> Reading {
        Reading::new(SystemTime::UNIX_EPOCH, figures)
    }

    #[test]
    fn tightest_slot_limit_counts() {
        let slots = |limit, used| Slots { limit, used };
        assert_eq!(reading([97, 10, -1, 3, -1, 5]).tightest(), slots(97, 10));
        assert_eq!(reading([97, 10, 4, 3, -1, 5]).tightest(), slots(4, 3));
        assert_eq!(reading([97, 10, 40, 3, 6, 5]).tightest(), slots(6, 5));
        assert_eq!(reading([97, 97, 4, 3, 6, 5]).tightest(), slots(97, 97));
        // A limit of none at all is one.
        assert_eq!(reading([97, 10, 0, 3, -1, 5]).tightest(), slots(0, 3));
    }

    #[test]
    fn high_water_mark_is_exact() {
        let slots = |limit, used| Slots { limit, used };
        assert!(!slots(10, 8).is_above(80) && slots(10, 9).is_above(80));
        assert!(!slots(22, 17).is_above(80) && slots(22, 18).is_above(80));
        assert!(!slots(0, 0).is_above(80) && slots(0, 1).is_above(80));
        assert_eq!(slots(3, 5).free(), 0);
    }
}
