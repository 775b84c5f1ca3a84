//! Invalid indexes: what CREATE INDEX CONCURRENTLY leaves when it fails (manual, "Building
//! Indexes Concurrently").

use sqlparser::ast::{CreateIndex, IndexType, ObjectName, Statement as Parsed};
use sqlparser::dialect::PostgreSqlDialect;
use sqlparser::parser::Parser;
use tokio_postgres::Client;

use super::error::Result;
use super::event::Event;

/// Others that have the lock on the table `i.indrelid` which whoever builds an index
/// concurrently has from the beginning to the end. `pg_locks` shows it to everybody, where
/// `pg_stat_progress_create_index` shows a role nothing but the process of another's.
/// Autovacuum has no role, and makes way.
const AT_TABLE: &str = "from pg_locks l join pg_stat_activity a on a.pid = l.pid \
     where l.locktype = 'relation' and l.relation = i.indrelid and l.granted \
     and l.database = (select oid from pg_database where datname = current_database()) \
     and l.mode = 'ShareUpdateExclusiveLock' and l.pid <> pg_backend_pid() \
     and a.usesysid is not null";

/// Those that nobody is building at the moment: a VACUUM has the lock, too, and no progress
/// of this kind. One of a partitioned table may be invalid for a while, rightly.
const INVALID: &str = "select i.indexrelid, format('%I.%I', n.nspname, c.relname), \
       i.indrelid::regclass::text \
     from pg_index i join pg_class c on c.oid = i.indexrelid \
     join pg_namespace n on n.oid = c.relnamespace \
     where not i.indisvalid and c.relkind = 'i' and c.relpersistence <> 't' \
     and not exists (select 1 AT_TABLE and exists ( \
         select 1 from pg_stat_progress_create_index p where p.pid = l.pid \
         and coalesce(p.index_relid, i.indexrelid) = i.indexrelid))";

/// The index of the name $2, next to the table $1, and who may be building it.
const NAMED: &str = "select format('%I.%I', n.nspname, c.relname), \
       i.indisvalid, pg_get_indexdef(i.indexrelid), i.indrelid = to_regclass($1), \
       (select l.pid AT_TABLE order by l.pid limit 1) \
     from pg_class t join pg_class c on c.relnamespace = t.relnamespace and c.relname = $2 \
     join pg_index i on i.indexrelid = c.oid join pg_namespace n on n.oid = c.relnamespace \
     where t.oid = to_regclass($1)";

/// An invalid index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Invalid {
    oid: u32,
    /// Quoted, with the schema.
    pub(super) name: String,
    table: String,
}

/// What is there where a statement would make an index.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum There {
    Nothing,
    /// The same, whole: an earlier run has done it, and did not come to write it down.
    Same(String),
    /// Left by one that failed: quoted, with the schema.
    Invalid(String),
    /// Invalid so far, and somebody may be building it: this process.
    Built(String, i32),
    /// Another one.
    Other(String),
}

impl Invalid {
    pub(super) fn removal(&self) -> String {
        removal(&self.name)
    }

    pub(super) fn left(&self) -> Event {
        Event::IndexLeft {
            index: self.name.clone(),
            table: self.table.clone(),
            remove: format!("{};", self.removal()),
        }
    }
}

pub(super) fn removal(name: &str) -> String {
    format!("DROP INDEX CONCURRENTLY {name}")
}

/// All that are there, but those of `before`.
pub(super) async fn invalid(client: &Client, before: &[Invalid]) -> Result<Vec<Invalid>> {
    let query = INVALID.replace("AT_TABLE", AT_TABLE);
    let rows = client.query(&query, &[]).await?;
    let mut found = Vec::new();
    for row in rows {
        let one = Invalid {
            oid: row.try_get(0)?,
            name: row.try_get(1)?,
            table: row.try_get(2)?,
        };
        if !before.iter().any(|known| known.oid == one.oid) {
            found.push(one);
        }
    }
    Ok(found)
}

/// What is there where `statement` would make an index.
pub(super) async fn there(client: &Client, statement: &str) -> Result<There> {
    let Some(wanted) = parse(statement) else {
        return Ok(There::Nothing);
    };
    let Some(name) = wanted.name.as_ref().and_then(last) else {
        return Ok(There::Nothing);
    };
    let table = wanted.table_name.to_string();
    let query = NAMED.replace("AT_TABLE", AT_TABLE);
    let Some(row) = client.query_opt(&query, &[&table, &name]).await? else {
        return Ok(There::Nothing);
    };
    let quoted: String = row.try_get(0)?;
    let (is_valid, definition): (bool, String) = (row.try_get(1)?, row.try_get(2)?);
    let (of_table, builder): (bool, Option<i32>) = (row.try_get(3)?, row.try_get(4)?);
    let same = of_table && parse(&definition).is_some_and(|there| shape(there) == shape(wanted));
    Ok(match (is_valid, builder) {
        (true, _) if same => There::Same(quoted),
        (false, None) if of_table => There::Invalid(quoted),
        (false, Some(builder)) if of_table => There::Built(quoted, builder),
        _ => There::Other(quoted),
    })
}

fn parse(statement: &str) -> Option<CreateIndex> {
    let mut parsed = Parser::parse_sql(&PostgreSqlDialect {}, statement).ok()?;
    match parsed.pop() {
        Some(Parsed::CreateIndex(index)) if parsed.is_empty() => Some(index),
        _ => None,
    }
}

/// What makes two indexes of one name and table the same.
fn shape(mut index: CreateIndex) -> String {
    index.name = None;
    index.table_name = ObjectName::from(Vec::new());
    index.concurrently = false;
    index.if_not_exists = false;
    // The server writes it out.
    index.using = index.using.filter(|using| *using != IndexType::BTree);
    index.to_string().replace('"', "").to_ascii_lowercase()
}

/// A name without its schema, as the catalogue has it.
fn last(name: &ObjectName) -> Option<String> {
    let ident = name.0.last()?.as_ident()?;
    Some(match ident.quote_style {
        Some(_) => ident.value.clone(),
        None => ident.value.to_lowercase(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn same(ours: &str, servers: &str) -> bool {
        let [ours, servers] = [ours, servers].map(|text| shape(parse(text).expect(text)));
        ours == servers
    }

    #[test]
    fn index_is_known_by_its_definition() {
        for (ours, servers) in [
            (
                "create index concurrently I on T (A, B desc)",
                "CREATE INDEX i ON public.t USING btree (a, b DESC)",
            ),
            (
                "create unique index concurrently if not exists \"I\" on s.t using gin (a) include (b)",
                "CREATE UNIQUE INDEX \"I\" ON s.t USING gin (a) INCLUDE (b)",
            ),
        ] {
            assert!(same(ours, servers), "{ours}");
        }
        for (ours, servers) in [
            (
                "create index i on t (a)",
                "CREATE UNIQUE INDEX i ON public.t USING btree (a)",
            ),
            (
                "create index i on t (a)",
                "CREATE INDEX i ON public.t USING btree (a, b)",
            ),
            (
                "create index i on t (a)",
                "CREATE INDEX i ON public.t USING hash (a)",
            ),
            (
                "create index i on t (a)",
                "CREATE INDEX i ON public.t USING btree (a) WHERE b",
            ),
        ] {
            assert!(!same(ours, servers), "{ours}");
        }
    }
}
