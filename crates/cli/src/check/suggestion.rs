//! Suggests existing names for tables and columns that do not exist.

use antifreeze::Session;
use antifreeze_doctor::nearest;
use tokio_postgres::SimpleQueryMessage;

use super::statement::Finding;
use crate::outcome::Failure;

const TABLES: &str = "select c.relname from pg_class c join pg_namespace n \
    on n.oid = c.relnamespace where c.relkind in ('r', 'v', 'm', 'f', 'p') \
    and n.nspname not in ('pg_catalog', 'information_schema') and n.nspname !~ '^pg_toast'";

const COLUMNS: &str = "select c.relname, a.attname from pg_attribute a \
    join pg_class c on c.oid = a.attrelid join pg_namespace n on n.oid = c.relnamespace \
    where c.relkind in ('r', 'v', 'm', 'f', 'p') and a.attnum > 0 and not a.attisdropped \
    and n.nspname not in ('pg_catalog', 'information_schema') and n.nspname !~ '^pg_toast'";

/// Returns the existing table or column whose name is similar, if any.
pub async fn suggestion(session: &Session, finding: &Finding) -> Result<Option<String>, Failure> {
    let Some(name) = &finding.name else {
        return Ok(None);
    };
    let similar = |names: Vec<String>| {
        let names = names.iter().map(String::as_str);
        nearest(name, names).map(str::to_owned)
    };
    // Classes of SQLSTATE: undefined_table, undefined_column (manual, appendix A).
    Ok(match finding.sqlstate.as_deref() {
        Some("42P01") => {
            let tables = rows(session, TABLES).await?;
            similar(tables.into_iter().map(|(table, _)| table).collect())
        }
        Some("42703") => {
            let columns = rows(session, COLUMNS).await?;
            let of_these = columns
                .into_iter()
                .filter(|(table, _)| finding.words.contains(&table.to_uppercase()));
            similar(of_these.map(|(_, column)| column).collect())
        }
        _ => None,
    })
}

async fn rows(session: &Session, sql: &str) -> Result<Vec<(String, String)>, Failure> {
    let messages = session.simple_query(sql).await?;
    let rows = messages.iter().filter_map(|message| match message {
        SimpleQueryMessage::Row(row) => {
            let cell = |at: usize| {
                row.try_get(at)
                    .ok()
                    .flatten()
                    .unwrap_or_default()
                    .to_owned()
            };
            Some((cell(0), cell(1)))
        }
        _ => None,
    });
    Ok(rows.collect())
}
