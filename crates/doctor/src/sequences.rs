//! Checks which sequences are near their end.

use antifreeze::Result;
use serde::Deserialize;
use tokio_postgres::Client;

use super::maintenance::MAX_SHOWN;
use super::report::{Check, Step};
use super::{activity, connect};

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

/// Checks the sequences. The server locks each to read its last value, so that a session which
/// alters one makes this wait: for a short time only, and the other checks do not depend on it.
pub(super) async fn sequences(client: &Client) -> Vec<Check> {
    match ask(client).await {
        Ok(sequences) => checks(&sequences),
        Err(error) => {
            let (text, _) = connect::cause_and_remedy(&error);
            vec![Check::note(Step::Sequences, format!("not tested: {text}"))]
        }
    }
}

async fn ask(client: &Client) -> Result<Vec<Sequence>> {
    // Several statements in one message are one transaction (manual, "Multiple Statements in a
    // Simple Query"), so that the setting ends with it.
    let sql = format!("set local lock_timeout = '500ms'; select ({SEQUENCES})::text");
    activity::read(client, &sql).await
}

fn checks(sequences: &[Sequence]) -> Vec<Check> {
    let mut ending: Vec<&Sequence> = sequences.iter().collect();
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
