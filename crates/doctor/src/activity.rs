//! Reads the sessions of the server.

use antifreeze::ErrorKind;
use antifreeze::internal::error;
use serde::{Deserialize, Deserializer, Serialize};
use tokio_postgres::{Client, SimpleQueryMessage};

use super::redact::redacted;
use super::text::printable;

/// A session of the server, as `pg_stat_activity` shows it. A column that the role may not
/// see is `None`, or the server's placeholder text.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ServerSession {
    /// The process ID of its backend.
    pub pid: i32,
    /// The role that logged in.
    pub role: Option<String>,
    /// The database that it is connected to.
    pub database: Option<String>,
    /// `application_name`.
    pub application: Option<String>,
    /// The client's address; `None` for a Unix socket.
    pub client: Option<String>,
    /// The backend type: `client backend`, `walsender`; `None` if the role may not see it.
    pub kind: Option<String>,
    /// `active`, `idle`, `idle in transaction`, ..
    pub state: Option<String>,
    /// How long it has been in this state, in seconds.
    pub state_seconds: Option<f64>,
    /// How long its transaction has been open, in seconds.
    pub transaction_seconds: Option<f64>,
    /// The event that it waits for: `Lock: relation`. Locks are visible to every role.
    pub waits_for: Option<String>,
    /// The process IDs of the sessions that block it, visible to every role.
    pub blocked_by: Vec<i32>,
    /// The lock that it waits for, with the table: `AccessExclusiveLock on partners`, or
    /// `a row of partners`. `None` if no table is involved, or one of another database.
    #[serde(default)]
    pub lock: Option<String>,
    /// The global identifiers of the prepared transactions that block it, visible to every
    /// role.
    #[serde(default)]
    pub blocked_by_prepared: Vec<String>,
    /// Its current statement, or the last one if it is idle; the first 500 characters. A
    /// password in it is replaced by `***`.
    #[serde(deserialize_with = "without_passwords")]
    pub query: Option<String>,
    /// When the session began, as the server writes it.
    pub began: Option<String>,
    /// When its state last changed, as the server writes it.
    pub changed: Option<String>,
    /// Whether it is the session that reads this list.
    pub is_self: bool,
}

/// Selects the rows of `pg_stat_activity` as JSON: clients and replication, without the
/// server's own workers, which have no user in any role's view.
///
/// `wait_event` is hidden from a role without `pg_read_all_stats`; `pg_locks` and
/// `pg_blocking_pids` are not. A session that waits for a row waits for a transaction, and
/// holds a lock on the tuple, which names the table. The locks of a prepared transaction have
/// no process; that on its own ID tells which one it is. It blocks with a mode that conflicts
/// only (manual, "Explicit Locking"): `rank` is the place of a mode in the manual's table, and
/// a row of digits has the ranks that conflict with it.
pub(super) const SESSIONS: &str = "\
    coalesce((with locks as (select *, array_position(array['AccessShareLock', 'RowShareLock', \
        'RowExclusiveLock', 'ShareUpdateExclusiveLock', 'ShareLock', 'ShareRowExclusiveLock', \
        'ExclusiveLock', 'AccessExclusiveLock'], mode) as rank from pg_locks), \
    waiting as (select distinct on (pid) pid, locktype, \
        case when locktype in ('tuple', 'transactionid') then 'a row of ' else mode || ' on ' end as what, \
        coalesce(relation, (select relation from locks held \
            where held.pid = l.pid and held.locktype = 'tuple' limit 1)) as relation \
        from locks l where not granted order by pid), \
    blocked as (select pid, pg_blocking_pids(pid) as pids from waiting), \
    prepared as (select n.pid, json_agg(distinct p.gid) as gids from blocked b \
        join locks n on n.pid = b.pid and not n.granted \
        join locks h on h.pid is null and h.granted and strpos((array['8', '78', '5678', '45678', \
            '34678', '345678', '2345678', '12345678'])[n.rank], h.rank::text) > 0 and \
        (h.locktype, h.database, h.relation, h.page, h.tuple, h.virtualxid, h.transactionid, \
            h.classid, h.objid, h.objsubid) is not distinct from \
        (n.locktype, n.database, n.relation, n.page, n.tuple, n.virtualxid, n.transactionid, \
            n.classid, n.objid, n.objsubid) \
        join locks t on t.pid is null and t.locktype = 'transactionid' \
            and t.virtualtransaction = h.virtualtransaction \
        join pg_prepared_xacts p on p.transaction = t.transactionid \
        where 0 = any(b.pids) group by n.pid) \
    select json_agg(json_build_object(\
    'pid', a.pid, 'role', usename, 'database', datname, 'application', nullif(application_name, ''), \
    'client', host(client_addr), 'kind', backend_type, 'state', state, \
    'state_seconds', extract(epoch from clock_timestamp() - state_change), \
    'transaction_seconds', extract(epoch from clock_timestamp() - xact_start), \
    'waits_for', coalesce('Lock: ' || w.locktype, wait_event_type || ': ' || wait_event), \
    'blocked_by', coalesce(b.pids, '{}'), \
    'lock', w.what || case datname when current_database() then w.relation::regclass::text end, \
    'blocked_by_prepared', coalesce(x.gids, '[]'), \
    'query', left(query, 500), 'began', backend_start::text, 'changed', state_change::text, \
    'is_self', a.pid = pg_backend_pid()) order by a.pid) \
    from pg_stat_activity a left join waiting w on w.pid = a.pid \
    left join blocked b on b.pid = a.pid left join prepared x on x.pid = a.pid \
    where usesysid is not null and (backend_type is not null or datid is not null) \
    and coalesce(backend_type, 'client backend') in ('client backend', 'walsender')), '[]')";

/// Reads all sessions of the server, in one round trip.
///
/// # Errors
///
/// Fails if the query fails, or if its answer cannot be decoded.
pub async fn sessions(client: &Client) -> antifreeze::Result<Vec<ServerSession>> {
    read(client, &format!("select ({SESSIONS})::text")).await
}

/// Runs `sql` and decodes the JSON document that its last statement returns.
pub(super) async fn read<T: for<'a> Deserialize<'a>>(
    client: &Client,
    sql: &str,
) -> antifreeze::Result<T> {
    let messages = client.simple_query(sql).await?;
    let document = messages.iter().rev().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => row.get(0),
        _ => None,
    });
    let read = serde_json::from_str(document.unwrap_or_default());
    read.map_err(|error| {
        let cause = "the server's answer cannot be decoded";
        error::caused(ErrorKind::Database, cause, error)
    })
}

/// Reads a statement. `ALTER ROLE .. PASSWORD '..'` and the like are in `pg_stat_activity` with
/// the password.
fn without_passwords<'de, D: Deserializer<'de>>(reader: D) -> Result<Option<String>, D::Error> {
    let query = Option::<String>::deserialize(reader)?;
    Ok(query.map(|query| redacted(&query)))
}

impl ServerSession {
    /// Returns whether it is a client's session, as opposed to replication.
    pub fn is_client(&self) -> bool {
        self.kind.as_deref().unwrap_or("client backend") == "client backend"
    }

    /// Returns whether it is idle in an open transaction, failed or not.
    pub fn is_idle_in_transaction(&self) -> bool {
        let state = self.state.as_deref().unwrap_or_default();
        state.starts_with("idle in transaction")
    }

    /// Describes it in one line without control characters:
    /// `pid 123 (shop:17 as app, idle in transaction for 5 min)`.
    pub fn describe(&self) -> String {
        let application = self.application.as_deref().unwrap_or("no application_name");
        let role = self.role.as_deref().unwrap_or("unknown role");
        let state = self.state.as_deref().unwrap_or("state not visible");
        let since = self.state_seconds.map(super::format_seconds);
        let since = since
            .map(|since| format!(" for {since}"))
            .unwrap_or_default();
        let described = format!("pid {} ({application} as {role}, {state}{since})", self.pid);
        printable(&described)
    }
}
