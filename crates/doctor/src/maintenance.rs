//! Checks what grows until the server stops: transaction IDs and WAL; and indexes that a failed
//! build has left.

use antifreeze::Result;
use serde::Deserialize;
use tokio_postgres::Client;

use super::activity;
use super::examine::Options;
use super::report::{Check, Step};
use super::text::{bytes, millions, printable};

/// The age at which the server refuses new transactions: three million before the IDs wrap
/// around (varsup.c, `SetTransactionIdLimit`).
const REFUSED_AT: u64 = (1 << 31) - 3_000_000;

/// How many entries of one kind are shown.
pub(super) const MAX_SHOWN: usize = 5;

/// What the server keeps, and for how long it can.
#[derive(Debug, Deserialize)]
pub(super) struct Maintenance {
    oldest: Oldest,
    holder: Option<Holder>,
    replication: Vec<ReplicationSlot>,
    indexes: Vec<String>,
}

/// The database with the oldest transaction IDs.
#[derive(Debug, Deserialize)]
struct Oldest {
    database: String,
    age: u64,
    multixact: u64,
}

/// What keeps vacuum from removing the oldest rows, and the statement that ends it.
#[derive(Debug, Deserialize)]
struct Holder {
    what: String,
    age: u64,
    sql: String,
}

#[derive(Debug, Deserialize)]
struct ReplicationSlot {
    name: String,
    active: bool,
    /// The WAL that is kept for it.
    bytes: u64,
}

const OLDEST: &str = "\
    (select json_build_object('database', datname, 'age', age(datfrozenxid), \
    'multixact', mxid_age(datminmxid)) from pg_database \
    order by greatest(age(datfrozenxid), mxid_age(datminmxid)) desc, \
    datname = current_database() desc, datname limit 1)";

const HOLDER: &str = "\
    (select json_build_object('what', what, 'age', old, 'sql', sql) from (\
    select format('pid %s (%s)', pid, application_name) as what, \
        greatest(age(backend_xid), age(backend_xmin)) as old, \
        format('SELECT pg_terminate_backend(%s);', pid) as sql from pg_stat_activity \
        where backend_type in ('client backend', 'walsender') and pid <> pg_backend_pid() \
    union all select format('prepared transaction %s', gid), age(transaction), \
        format('ROLLBACK PREPARED %L; -- or COMMIT PREPARED, as its coordinator has decided', gid) from pg_prepared_xacts \
    union all select format('replication slot %s', slot_name), \
        greatest(age(xmin), age(catalog_xmin)), \
        case when active then 'SELECT * FROM pg_stat_replication; \
            -- end the old transaction on this standby, or restart this reader' \
        else format('SELECT pg_drop_replication_slot(%L);', slot_name) end \
        from pg_replication_slots) holders \
    where old is not null order by old desc limit 1)";

const REPLICATION: &str = "\
    coalesce((select json_agg(json_build_object('name', slot_name, 'active', active, \
    'bytes', greatest(0, pg_wal_lsn_diff(case when pg_is_in_recovery() \
        then pg_last_wal_replay_lsn() else pg_current_wal_lsn() end, restart_lsn))) \
    order by slot_name) from pg_replication_slots where restart_lsn is not null), '[]')";

/// An index that is being built is invalid, too: the builder holds this lock.
const INDEXES: &str = "\
    coalesce((select json_agg(format('%I.%I', nspname, relname) order by nspname, relname) \
    from pg_index i join pg_class c on c.oid = i.indexrelid \
    join pg_namespace n on n.oid = c.relnamespace \
    where not indisvalid and relkind = 'i' and not exists (select from pg_locks l \
        where l.relation = i.indrelid and l.mode = 'ShareUpdateExclusiveLock' and l.granted \
        and l.database = (select oid from pg_database where datname = current_database()))), '[]')";

impl Maintenance {
    pub(super) async fn ask(client: &Client) -> Result<Self> {
        let sql = format!(
            "select json_build_object('oldest', {OLDEST}, 'holder', {HOLDER}, \
            'replication', {REPLICATION}, 'indexes', {INDEXES})::text"
        );
        activity::read(client, &sql).await
    }

    /// `sequences` are checks of another query, which are shown in between.
    pub(super) fn checks(&self, options: &Options, sequences: Vec<Check>) -> Vec<Check> {
        let mut checks = vec![self.wraparound(options)];
        checks.extend(self.replication(options));
        checks.extend(sequences);
        checks.extend(self.indexes());
        checks
    }

    fn wraparound(&self, options: &Options) -> Check {
        let Oldest {
            database,
            age,
            multixact,
        } = &self.oldest;
        let age = *age.max(multixact);
        let text = format!(
            "the oldest transaction is {} transactions old (database {database})",
            millions(age)
        );
        if age < options.transaction_age {
            return Check::ok(Step::Wraparound, text);
        }
        let text = format!(
            "{text}; the server accepts no writes from {} on",
            millions(REFUSED_AT)
        );
        let holder = self.holder.as_ref().filter(|it| it.age >= age / 2);
        match holder {
            Some(holder) => Check::finding(
                Step::Wraparound,
                format!(
                    "{text}; vacuum cannot remove what {} may still see",
                    holder.what
                ),
                &holder.sql,
            ),
            None => Check::finding(
                Step::Wraparound,
                format!(
                    "{text}; vacuum does not keep up: run it there; if the age stays, a session, \
                     a standby, a prepared transaction or a replication slot that was not \
                     found here holds it back"
                ),
                "VACUUM (FREEZE);",
            ),
        }
    }

    fn replication(&self, options: &Options) -> Vec<Check> {
        let most = self.replication.iter().map(|slot| slot.bytes).max();
        let Some(most) = most else {
            return Vec::new();
        };
        let many = self
            .replication
            .iter()
            .filter(|slot| slot.bytes > options.retained_wal);
        let mut many: Vec<_> = many.collect();
        if many.is_empty() {
            let text = format!("replication slots hold {} of WAL at most", bytes(most));
            return vec![Check::ok(Step::Replication, text)];
        }
        many.sort_by_key(|slot| std::cmp::Reverse(slot.bytes));
        let check = |slot: &&ReplicationSlot| {
            let name = printable(&slot.name);
            let kept = bytes(slot.bytes);
            if slot.active {
                let text = format!(
                    "the reader of replication slot {name} is behind: {kept} of WAL are kept for \
                     it, until the disk is full"
                );
                let remedy = "SELECT * FROM pg_stat_replication;";
                return Check::finding(Step::Replication, text, remedy);
            }
            let text = format!(
                "replication slot {name} has no reader: {kept} of WAL are kept for it, until the \
                 disk is full; start its reader, or drop it if there is none any more"
            );
            let name = slot.name.replace('\'', "''");
            let remedy = format!("SELECT pg_drop_replication_slot('{name}');");
            Check::finding(Step::Replication, text, remedy)
        };
        many.iter().take(MAX_SHOWN).map(check).collect()
    }

    fn indexes(&self) -> Vec<Check> {
        if self.indexes.is_empty() {
            return vec![Check::ok(Step::Indexes, "all are valid")];
        }
        let check = |name: &String| {
            Check::finding(
                Step::Indexes,
                format!(
                    "{name} is invalid, left by a failed build: each write maintains it and no \
                     query uses it"
                ),
                format!("DROP INDEX CONCURRENTLY {name};"),
            )
        };
        self.indexes.iter().take(MAX_SHOWN).map(check).collect()
    }
}
