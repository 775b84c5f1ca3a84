//! Checks what grows until the server stops: transaction IDs, sequences, WAL; and indexes that
//! a failed build has left.

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
const MAX_SHOWN: usize = 5;

/// What the server keeps, and for how long it can.
#[derive(Debug, Deserialize)]
pub(super) struct Maintenance {
    oldest: Oldest,
    holder: Option<Holder>,
    replication: Vec<ReplicationSlot>,
    sequences: Vec<Sequence>,
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

#[derive(Debug, Deserialize)]
struct Sequence {
    name: String,
    last: u64,
    limit: u64,
    /// The column that takes its values.
    column: Option<String>,
    /// Whether the column is too small for larger numbers.
    is_narrow: bool,
}

const OLDEST: &str = "\
    (select json_build_object('database', datname, 'age', age(datfrozenxid), \
    'multixact', mxid_age(datminmxid)) from pg_database \
    order by greatest(age(datfrozenxid), mxid_age(datminmxid)) desc, \
    datname = current_database() desc, datname limit 1)";

const HOLDER: &str = "\
    (select json_build_object('what', what, 'age', old, 'sql', sql) from (\
    select format('pid %s (%s)', pid, application_name) as what, age(backend_xmin) as old, \
        format('SELECT pg_terminate_backend(%s);', pid) as sql from pg_stat_activity \
        where backend_type = 'client backend' and pid <> pg_backend_pid() \
    union all select format('prepared transaction %s', gid), age(transaction), \
        format('ROLLBACK PREPARED %L;', gid) from pg_prepared_xacts \
    union all select format('replication slot %s', slot_name), \
        greatest(age(xmin), age(catalog_xmin)), \
        format('SELECT pg_drop_replication_slot(%L);', slot_name) \
        from pg_replication_slots where not active) holders \
    where old is not null order by old desc limit 1)";

const REPLICATION: &str = "\
    coalesce((select json_agg(json_build_object('name', slot_name, 'active', active, \
    'bytes', greatest(0, pg_wal_lsn_diff(case when pg_is_in_recovery() \
        then pg_last_wal_replay_lsn() else pg_current_wal_lsn() end, restart_lsn))) \
    order by slot_name) from pg_replication_slots where restart_lsn is not null), '[]')";

/// The largest values of a sequence end at the type of its column, too: a column that was made
/// before its sequence, or by another tool than `serial`, may be smaller.
const SEQUENCES: &str = "\
    coalesce((select json_agg(json_build_object('name', format('%I.%I', schemaname, sequencename), \
    'last', last_value, 'limit', least(max_value, fits), \
    'column', d.refobjid::regclass || '.' || quote_ident(attname), \
    'is_narrow', fits is not null) order by schemaname, sequencename) \
    from pg_sequences q \
    join pg_namespace n on n.nspname = q.schemaname \
    join pg_class c on c.relnamespace = n.oid and c.relname = q.sequencename and c.relkind = 'S' \
    left join pg_depend d on d.classid = 'pg_class'::regclass and d.objid = c.oid \
        and d.refclassid = 'pg_class'::regclass and d.deptype in ('a', 'i') and d.refobjsubid > 0 \
    left join pg_attribute a on a.attrelid = d.refobjid and a.attnum = d.refobjsubid \
    cross join lateral (select case atttypid when 'int4'::regtype then 2147483647 \
        when 'int2'::regtype then 32767 end as fits) limits \
    where not cycle and increment_by > 0 and last_value > least(max_value, fits) * 0.8), '[]')";

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
            'replication', {REPLICATION}, 'sequences', {SEQUENCES}, 'indexes', {INDEXES})::text"
        );
        activity::read(client, &sql).await
    }

    pub(super) fn checks(&self, options: &Options) -> Vec<Check> {
        let mut checks = vec![self.wraparound(options)];
        checks.extend(self.replication(options));
        checks.extend(self.sequences());
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
                format!("{text}; vacuum does not keep up: run it there"),
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

    fn sequences(&self) -> Vec<Check> {
        let mut ending: Vec<&Sequence> = self.sequences.iter().collect();
        if ending.is_empty() {
            return vec![Check::ok(Step::Sequences, "none is near its end")];
        }
        ending.sort_by_key(|sequence| sequence.limit.saturating_sub(sequence.last));
        let check = |sequence: &&Sequence| {
            let Sequence {
                name, last, limit, ..
            } = sequence;
            let column = sequence.column.as_deref();
            let left = limit.saturating_sub(*last);
            let of = column
                .map(|column| format!(" of {column}"))
                .unwrap_or_default();
            let text = format!("{name}{of} is near its end: {left} left of {limit}");
            match column.filter(|_| sequence.is_narrow) {
                Some(column) => Check::finding(
                    Step::Sequences,
                    format!("{text}: inserts will fail then"),
                    format!(
                        "add a bigint column beside {column}, fill it in batches, and swap both: \
                         ALTER COLUMN .. TYPE bigint locks the table while it is rewritten"
                    ),
                ),
                None => Check::finding(
                    Step::Sequences,
                    format!("{text}: inserts will fail then"),
                    format!("ALTER SEQUENCE {name} AS bigint MAXVALUE {};", i64::MAX),
                ),
            }
        };
        ending.iter().take(MAX_SHOWN).map(check).collect()
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
