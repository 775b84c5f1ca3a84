//! Reads how many connection slots of the server are in use, in one query.

use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use crate::provider::RESERVED;

/// A number of slots, and how many of them are in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Slots {
    /// The number of slots.
    pub limit: u32,
    /// The number of slots in use.
    pub used: u32,
}

/// The slots of a server that this role can use, as last read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Reading {
    pub(crate) at: SystemTime,
    /// The server's slots, without those reserved for other roles.
    pub(crate) server: Slots,
    /// The role's limit (`CONNECTION LIMIT` of `CREATE ROLE`).
    pub(crate) role: Option<Slots>,
    /// The database's limit (`CONNECTION LIMIT` of `CREATE DATABASE`).
    pub(crate) database: Option<Slots>,
    /// The sessions that began within a second, as far as this role may see it.
    pub(crate) young: u32,
}

/// The client backends among the server's processes, which take its slots (manual, "Connections
/// and Authentication"; WAL senders and workers have their own). For a role that may not see the
/// type of another role's backend (no `pg_read_all_stats`) it is every process with a user and a
/// database: parallel workers too, which is a little too many and never too few.
const BACKENDS: &str = "pg_catalog.pg_stat_get_activity(null) a \
    where coalesce(a.backend_type = 'client backend', a.usesysid <> 0 and a.datid <> 0)";

/// Counts all of these, and those that began a moment ago.
const COUNTS: &str = "count(*), \
    count(*) filter (where a.backend_start > pg_catalog.clock_timestamp() - interval '1 s')";

/// Makes the query for the slots. For superusers only `max_connections` is a limit.
///
/// If role and database are known to have no limit, the rest of what rarely changes is known too,
/// and the query is for the one count that is left: it takes the server half the time.
pub(super) fn query(unlimited: Option<i64>) -> String {
    if unlimited.is_some() {
        return format!("select {COUNTS} from {BACKENDS}");
    }
    format!(
        "\
select current_setting('max_connections')::int - case when me.rolsuper then 0 else {RESERVED} end, \
  {COUNTS}, \
  case when me.rolsuper then -1 else me.rolconnlimit end, \
  count(*) filter (where a.usesysid = me.oid), \
  case when me.rolsuper then -1 else db.datconnlimit end, \
  count(*) filter (where a.datid = db.oid) \
from pg_catalog.pg_roles me, pg_catalog.pg_database db, {BACKENDS} \
  and me.rolname = session_user and db.datname = current_database() \
group by me.rolsuper, me.rolconnlimit, db.datconnlimit"
    )
}

/// Reads the one row that answers the [`query`].
pub(super) fn reading(
    at: SystemTime,
    row: &[Option<String>],
    unlimited: Option<i64>,
) -> Option<Reading> {
    let figures = row.iter().map(|column| column.as_ref()?.parse().ok());
    let figures: Vec<i64> = figures.collect::<Option<_>>()?;
    let (figures, young) = match (&figures[..], unlimited) {
        (&[used, young], Some(limit)) => ([limit, used, -1, 0, -1, 0], young),
        (&[limit, used, young, a, b, c, d], _) => ([limit, used, a, b, c, d], young),
        _ => return None,
    };
    Some(Reading {
        young: u32::try_from(young).unwrap_or_default(),
        ..Reading::new(at, figures)
    })
}

impl Reading {
    /// Makes a reading from the columns of the query.
    pub(crate) fn new(at: SystemTime, figures: [i64; 6]) -> Self {
        let count = |figure: i64| u32::try_from(figure.max(0)).unwrap_or(u32::MAX);
        let slots = |first: usize| Slots {
            limit: count(figures[first]),
            used: count(figures[first + 1]),
        };
        Reading {
            at,
            server: slots(0),
            role: (figures[2] >= 0).then(|| slots(2)),
            database: (figures[4] >= 0).then(|| slots(4)),
            young: 0,
        }
    }

    /// Returns the slots that will run out first.
    pub(crate) fn tightest(&self) -> Slots {
        let mut tightest = self.server;
        for slots in [self.role, self.database].into_iter().flatten() {
            // The first of equals: the server before the role before the database.
            if slots.free() < tightest.free() {
                tightest = slots;
            }
        }
        tightest
    }
}

impl Slots {
    pub(crate) fn free(&self) -> u32 {
        self.limit.saturating_sub(self.used)
    }

    /// Returns whether more than `percent` of the slots are in use.
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
        // A limit of zero slots is a limit.
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
