//! Reports pending migrations to health checks, with a role that may have fewer privileges
//! than the runner's.

use antifreeze::health::{ExpectedMigrations, PendingFuture, PendingMigrations};
use tokio_postgres::{Client, SimpleQueryMessage};

use super::error::Result;
use super::files::Migrations;
use super::history::{History, State};

/// Finds the history, and the privileges that the role lacks. `to_regclass` and the
/// `search_path` skip schemas that the role may not use, so the schemas of the `search_path`
/// are checked one by one.
const FIND_HISTORY: &str = "\
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
    /// Finds the migrations that have not been applied. Changes nothing, and waits for a lock
    /// for 100 ms at most.
    async fn find_pending(&self, client: &Client) -> Result<PendingMigrations> {
        let rows = client.simple_query(FIND_HISTORY).await?;
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
                    let grant_schema = if is_true(2) {
                        String::new()
                    } else {
                        format!("GRANT USAGE ON SCHEMA {schema} TO {role}; ")
                    };
                    return Ok(PendingMigrations::unknown(format!(
                        "role {role} lacks privileges on the history that this check must see: \
                         {grant_schema}GRANT SELECT ON \
                         {table} TO {role}"
                    )));
                }
                History::read_briefly(client, table, self).await?
            }
        };
        let all = history.status(self).into_iter();
        let pending = all.filter(|status| matches!(status.state, State::Pending | State::Skipped));
        Ok(PendingMigrations::named(
            pending.map(|status| status.migration).collect(),
        ))
    }
}

impl ExpectedMigrations for Migrations {
    /// Returns [`PendingMigrations::unknown`] on any error.
    fn pending<'a>(&'a self, client: &'a Client) -> PendingFuture<'a> {
        Box::pin(async {
            let pending = self.find_pending(client).await;
            pending.unwrap_or_else(|error| PendingMigrations::unknown(error.to_string()))
        })
    }
}
