//! Finds invalid indexes, which a failed CREATE INDEX CONCURRENTLY leaves (manual, "Building
//! Indexes Concurrently").

use sqlparser::ast::{CreateIndex, IndexType, ObjectName, Statement as Parsed};
use sqlparser::dialect::PostgreSqlDialect;
use sqlparser::parser::Parser;
use tokio_postgres::Client;

use super::error::Result;
use super::event::Event;

/// Selects other sessions that hold the lock on the table `i.indrelid` which CREATE INDEX
/// CONCURRENTLY holds throughout. Every role can read `pg_locks`, whereas
/// `pg_stat_progress_create_index` shows only the process ID of other roles' sessions.
/// Autovacuum has no role, and cancels itself.
const AT_TABLE: &str = "from pg_locks l join pg_stat_activity a on a.pid = l.pid \
     where l.locktype = 'relation' and l.relation = i.indrelid and l.granted \
     and l.database = (select oid from pg_database where datname = current_database()) \
     and l.mode = 'ShareUpdateExclusiveLock' and l.pid <> pg_backend_pid() \
     and a.usesysid is not null";

/// Selects invalid indexes that no session is building. VACUUM takes the same lock, but has
/// no entry in `pg_stat_progress_create_index`. An index of a partitioned table may be
/// invalid until all partitions have one.
const INVALID: &str = "select i.indexrelid, format('%I.%I', n.nspname, c.relname), \
       i.indrelid::regclass::text \
     from pg_index i join pg_class c on c.oid = i.indexrelid \
     join pg_namespace n on n.oid = c.relnamespace \
     where not i.indisvalid and c.relkind = 'i' and c.relpersistence <> 't' \
     and not exists (select 1 AT_TABLE and exists ( \
         select 1 from pg_stat_progress_create_index p where p.pid = l.pid \
         and coalesce(p.index_relid, i.indexrelid) = i.indexrelid))";

/// Selects the index named $2 in the schema of table $1, and a session that may be building
/// it.
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
    /// The name, quoted and with its schema.
    pub(super) name: String,
    table: String,
}

/// The existing index of the name that a statement would create. Names are quoted and have
/// their schema.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum ExistingIndex {
    None,
    /// Valid, with the same definition: an earlier run created it without recording it.
    Same(String),
    /// Invalid, from a failed run.
    Invalid(String),
    /// Invalid, and the session with this process ID may be building it.
    Building(String, i32),
    /// An index with another definition.
    Different(String),
}

impl Invalid {
    pub(super) fn removal(&self) -> String {
        removal(&self.name)
    }

    pub(super) fn event(&self) -> Event {
        Event::InvalidIndex {
            index: self.name.clone(),
            table: self.table.clone(),
            remove: format!("{};", self.removal()),
        }
    }
}

pub(super) fn removal(name: &str) -> String {
    format!("DROP INDEX CONCURRENTLY {name}")
}

/// Returns all invalid indexes except those of `before`.
pub(super) async fn invalid(client: &Client, before: &[Invalid]) -> Result<Vec<Invalid>> {
    let query = INVALID.replace("AT_TABLE", AT_TABLE);
    let rows = client.query(&query, &[]).await?;
    let mut found = Vec::new();
    for row in rows {
        let index = Invalid {
            oid: row.try_get(0)?,
            name: row.try_get(1)?,
            table: row.try_get(2)?,
        };
        if !before.iter().any(|known| known.oid == index.oid) {
            found.push(index);
        }
    }
    Ok(found)
}

/// Finds the existing index of the name that `statement` would create.
pub(super) async fn existing(client: &Client, statement: &str) -> Result<ExistingIndex> {
    let Some(wanted) = parse(statement) else {
        return Ok(ExistingIndex::None);
    };
    let Some(name) = wanted.name.as_ref().and_then(last) else {
        return Ok(ExistingIndex::None);
    };
    let table = wanted.table_name.to_string();
    let query = NAMED.replace("AT_TABLE", AT_TABLE);
    let Some(row) = client.query_opt(&query, &[&table, &name]).await? else {
        return Ok(ExistingIndex::None);
    };
    let quoted: String = row.try_get(0)?;
    let (is_valid, definition): (bool, String) = (row.try_get(1)?, row.try_get(2)?);
    let (of_table, builder): (bool, Option<i32>) = (row.try_get(3)?, row.try_get(4)?);
    let same = of_table && parse(&definition).is_some_and(|there| shape(there) == shape(wanted));
    Ok(match (is_valid, builder) {
        (true, _) if same => ExistingIndex::Same(quoted),
        (false, None) if of_table => ExistingIndex::Invalid(quoted),
        (false, Some(builder)) if of_table => ExistingIndex::Building(quoted, builder),
        _ => ExistingIndex::Different(quoted),
    })
}

fn parse(statement: &str) -> Option<CreateIndex> {
    let mut parsed = Parser::parse_sql(&PostgreSqlDialect {}, statement).ok()?;
    match parsed.pop() {
        Some(Parsed::CreateIndex(index)) if parsed.is_empty() => Some(index),
        _ => None,
    }
}

/// Normalizes a definition, for comparing two indexes of the same name and table.
fn shape(mut index: CreateIndex) -> String {
    index.name = None;
    index.table_name = ObjectName::from(Vec::new());
    index.concurrently = false;
    index.if_not_exists = false;
    // The server's definition names the default method.
    index.using = index.using.filter(|using| *using != IndexType::BTree);
    folded(&index.to_string())
}

/// Folds the case of words, and leaves literals and names in quotes as they are, but for the
/// quotes of a name that needs none.
fn folded(definition: &str) -> String {
    let mut folded = String::new();
    let mut parts = definition.split_inclusive(['\'', '"']);
    while let Some(part) = parts.next() {
        folded += &part.to_ascii_lowercase();
        let Some(quote) = part.chars().last().filter(|last| "'\"".contains(*last)) else {
            break;
        };
        // A doubled quote ends a part, and begins the next.
        let mut quoted = String::new();
        for part in parts.by_ref() {
            quoted += part;
            if part.ends_with(quote) {
                break;
            }
        }
        let name = quoted.trim_end_matches('"');
        // The server quotes also some that need none.
        let plain =
            |c: char| !c.is_ascii_uppercase() && (!c.is_ascii_punctuation() || "_$".contains(c));
        if quote == '"' && name.chars().all(plain) {
            folded.pop();
            folded += name;
        } else {
            folded += &quoted;
        }
    }
    folded
}

/// Returns a name without its schema, as the catalog has it.
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

    fn same(file: &str, server: &str) -> bool {
        let [file, server] = [file, server].map(|text| shape(parse(text).expect(text)));
        file == server
    }

    #[test]
    fn indexes_are_compared_by_definition() {
        for (file, server) in [
            (
                "create index concurrently I on T (A, B desc)",
                "CREATE INDEX i ON public.t USING btree (a, b DESC)",
            ),
            (
                "create unique index concurrently if not exists \"I\" on s.t using gin (a) include (b)",
                "CREATE UNIQUE INDEX \"I\" ON s.t USING gin (a) INCLUDE (b)",
            ),
            (
                "create index i on t (\"a\", \"It\"\"s\") WHERE s = 'It''s \"a\" B'",
                "CREATE INDEX i ON public.t USING btree (a, \"It\"\"s\") where S = 'It''s \"a\" B'",
            ),
        ] {
            assert!(same(file, server), "{file}");
        }
        for (file, server) in [
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
            (
                "create index i on t (email)",
                "CREATE INDEX i ON public.t USING btree (\"Email\")",
            ),
            (
                "create index i on t (a) where s = 'open'",
                "CREATE INDEX i ON public.t USING btree (a) WHERE s = 'Open'",
            ),
        ] {
            assert!(!same(file, server), "{file} {server}");
        }
    }
}
