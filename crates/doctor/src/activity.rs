//! Who is on the server.

use antifreeze::internal::error;
use antifreeze::{ErrorKind, Result};
use serde::{Deserialize, Serialize};
use tokio_postgres::{Client, SimpleQueryMessage};

use super::text::plain;

/// A session of the server, as `pg_stat_activity` shows it. What the role may not see is
/// nothing, or the server's words for that.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ServerSession {
    /// Its process.
    pub pid: i32,
    /// Who logged in.
    pub role: Option<String>,
    /// Where.
    pub database: Option<String>,
    /// `application_name`.
    pub application: Option<String>,
    /// Its address; nothing for a unix socket.
    pub client: Option<String>,
    /// `client backend`, `walsender`; nothing if the role may not see it.
    pub kind: Option<String>,
    /// `active`, `idle`, `idle in transaction`, ..
    pub state: Option<String>,
    /// Since when it is in this state, in seconds.
    pub state_seconds: Option<f64>,
    /// Since when its transaction is open, in seconds.
    pub transaction_seconds: Option<f64>,
    /// What it waits for: `Lock: relation`. Locks are visible to every role.
    pub waits_for: Option<String>,
    /// Who keeps it waiting for a lock, visible to every role.
    pub blocked_by: Vec<i32>,
    /// The lock that it waits for, and the table: `AccessExclusiveLock on partners`, or
    /// `a row of partners`. Nothing if there is no table, or it is another database's.
    #[serde(default)]
    pub lock: Option<String>,
    /// Its statement, the last one if it is idle; 500 characters.
    pub query: Option<String>,
    /// When it began, as the server writes it.
    pub began: Option<String>,
    /// When it came into this state, as the server writes it.
    pub changed: Option<String>,
    /// Whether it is the one that asks.
    pub is_self: bool,
}

/// Rows of `pg_stat_activity` as JSON: clients and replication, no workers of the
/// server's own. Those have no user, which everybody can see.
///
/// `wait_event` is hidden from a role without `pg_read_all_stats`; `pg_locks` and
/// `pg_blocking_pids` are not. Who waits for a row waits for a transaction, with a lock on
/// the tuple in his hands that names the table.
pub(super) const SESSIONS: &str = "\
    coalesce((select json_agg(json_build_object(\
    'pid', a.pid, 'role', usename, 'database', datname, 'application', nullif(application_name, ''), \
    'client', host(client_addr), 'kind', backend_type, 'state', state, \
    'state_seconds', extract(epoch from clock_timestamp() - state_change), \
    'transaction_seconds', extract(epoch from clock_timestamp() - xact_start), \
    'waits_for', coalesce('Lock: ' || w.locktype, wait_event_type || ': ' || wait_event), \
    'blocked_by', case when w.pid is null then '{}' else pg_blocking_pids(a.pid) end, \
    'lock', w.what || case datname when current_database() then w.relation::regclass::text end, \
    'query', left(query, 500), 'began', backend_start::text, 'changed', state_change::text, \
    'is_self', a.pid = pg_backend_pid()) order by a.pid) \
    from pg_stat_activity a left join (select distinct on (pid) pid, locktype, \
        case when locktype in ('tuple', 'transactionid') then 'a row of ' else mode || ' on ' end as what, \
        coalesce(relation, (select relation from pg_locks held \
            where held.pid = l.pid and held.locktype = 'tuple' limit 1)) as relation \
        from pg_locks l where not granted order by pid) w on w.pid = a.pid \
    where usesysid is not null and (backend_type is not null or datid is not null) \
    and coalesce(backend_type, 'client backend') in ('client backend', 'walsender')), '[]')";

/// Everybody who is on the server, in one round trip.
///
/// # Errors
///
/// The server's.
pub async fn sessions(client: &Client) -> Result<Vec<ServerSession>> {
    read(client, &format!("select ({SESSIONS})::text")).await
}

/// The JSON document that the last statement of `sql` returns.
pub(super) async fn read<T: for<'a> Deserialize<'a>>(client: &Client, sql: &str) -> Result<T> {
    let messages = client.simple_query(sql).await?;
    let document = messages.iter().rev().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => row.get(0),
        _ => None,
    });
    let read = serde_json::from_str(document.unwrap_or_default());
    read.map_err(|error| {
        let cause = "the server's answer is not as expected";
        error::caused(ErrorKind::Database, cause, error)
    })
}

impl ServerSession {
    /// A connection of a client, and none of replication.
    pub fn is_client(&self) -> bool {
        self.kind.as_deref().unwrap_or("client backend") == "client backend"
    }

    /// It has a transaction open, failed or not, and does nothing.
    pub fn is_idle_in_transaction(&self) -> bool {
        let state = self.state.as_deref().unwrap_or_default();
        state.starts_with("idle in transaction")
    }

    /// `pid 123 (shop:17 as app, idle in transaction for 5 min)`, without control
    /// characters.
    pub fn describe(&self) -> String {
        let application = self.application.as_deref().unwrap_or("no application_name");
        let role = self.role.as_deref().unwrap_or("somebody");
        let state = self.state.as_deref().unwrap_or("state not visible");
        let since = self.state_seconds.map(super::seconds);
        let since = since
            .map(|since| format!(" for {since}"))
            .unwrap_or_default();
        let described = format!("pid {} ({application} as {role}, {state}{since})", self.pid);
        plain(&described)
    }
}
