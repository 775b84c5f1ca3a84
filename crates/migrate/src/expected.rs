//! Which migrations a database still waits for, as a role sees it that may do less than the
//! one that runs them.

use antifreeze::health::{ExpectedMigrations, Pending, PendingFuture};
use tokio_postgres::{Client, SimpleQueryMessage};

use super::error::Result;
use super::files::Migrations;
use super::history::{History, State};

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
    async fn look_for_pending(&self, client: &Client) -> Result<Pending> {
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
                    return Ok(Pending::unknown(format!(
                        "the history is not for this role to see: {and_schema}GRANT SELECT ON \
                         {table} TO {role}"
                    )));
                }
                History::glance(client, table, self).await?
            }
        };
        let all = history.status(self).into_iter();
        let pending = all.filter(|one| matches!(one.state, State::Pending | State::Skipped));
        Ok(Pending::named(pending.map(|one| one.migration).collect()))
    }
}

impl ExpectedMigrations for Migrations {
    /// That it cannot be known is no failure.
    fn pending<'a>(&'a self, client: &'a Client) -> PendingFuture<'a> {
        Box::pin(async {
            let pending = self.look_for_pending(client).await;
            pending.unwrap_or_else(|error| Pending::unknown(error.to_string()))
        })
    }
}
