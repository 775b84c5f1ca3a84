//! Which migrations a database still waits for, as a role sees it that may do less than the
//! one that runs them.

use tokio_postgres::{Client, SimpleQueryMessage};

use super::error::Result;
use super::files::Migrations;
use super::history::{History, State};

/// What can be told of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Standing {
    /// The names of those that were not run.
    Pending(Vec<String>),
    /// The role may not look: why, and what to run.
    Hidden(String),
}

/// Where the history is, and what keeps us from it. `to_regclass` and the `search_path` pass
/// over schemas that the role may not use, so those that it names are looked at one by one;
/// whoever may look finds the table there as the runner does.
const LOOK: &str = "\
select quote_ident(n.nspname), \
  quote_ident(n.nspname) || '.' || quote_ident(c.relname), \
  pg_catalog.has_schema_privilege(n.oid, 'usage'), \
  pg_catalog.has_schema_privilege(n.oid, 'usage') \
    and pg_catalog.has_table_privilege(c.oid, 'select'), \
  quote_ident(current_user) \
from unnest(string_to_array(replace(current_setting('search_path'), '\"', ''), ',')) \
  with ordinality p (name, place) \
join pg_catalog.pg_namespace n \
  on n.nspname = replace(btrim(p.name), '$user', current_user::text) \
join pg_catalog.pg_class c on c.relnamespace = n.oid and c.relname = 'refinery_schema_history' \
order by p.place limit 1";

impl Migrations {
    /// What of them the database has not seen. Changes nothing, and waits for no lock for
    /// longer than a moment.
    pub(crate) async fn standing(&self, client: &Client) -> Result<Standing> {
        let rows = client.simple_query(LOOK).await?;
        let row = rows.iter().find_map(|message| match message {
            SimpleQueryMessage::Row(row) => Some(row),
            _ => None,
        });
        let history = match row {
            None => History::default(),
            Some(row) => {
                let text = |at| row.get(at).unwrap_or_default();
                let (schema, table, role) = (text(0), text(1), text(4));
                let is_true = |at| row.get(at) == Some("t");
                if !is_true(3) {
                    let and_schema = match is_true(2) {
                        true => String::new(),
                        false => format!("GRANT USAGE ON SCHEMA {schema} TO {role}; "),
                    };
                    return Ok(Standing::Hidden(format!(
                        "the history is not for this role to see: {and_schema}GRANT SELECT ON \
                         {table} TO {role}"
                    )));
                }
                History::glance(client, table, self).await?
            }
        };
        let all = history.status(self).into_iter();
        let pending = all.filter(|one| matches!(one.state, State::Pending | State::Skipped));
        Ok(Standing::Pending(
            pending.map(|one| one.migration).collect(),
        ))
    }
}
