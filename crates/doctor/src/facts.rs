//! Reads the server's version, settings, limits and sessions in one round trip.

use std::collections::HashMap;

use antifreeze::Result;
use antifreeze::internal::RESERVED;
use serde::Deserialize;
use tokio_postgres::Client;

use super::activity::{self, SESSIONS, ServerSession};
use super::overview::{PREPARED, PreparedTransaction};

/// The state of the server.
#[derive(Debug, Deserialize)]
pub(super) struct Facts {
    pub(super) version: String,
    pub(super) role: String,
    pub(super) database: String,
    pub(super) superuser: Option<bool>,
    /// Whether the role has `pg_read_all_stats`; `None` where the server has no such role.
    pub(super) sees_all: Option<bool>,
    pub(super) uses_reserved: Option<bool>,
    pub(super) in_recovery: bool,
    pub(super) max: i64,
    /// Slots that are not available to ordinary roles.
    pub(super) held_back: i64,
    /// Those among them for `pg_use_reserved_connections` (PostgreSQL 16 and newer).
    pub(super) reserved: i64,
    /// `-1` means no limit.
    pub(super) role_limit: Option<i64>,
    pub(super) database_limit: Option<i64>,
    pub(super) settings: HashMap<String, Setting>,
    pub(super) sessions: Vec<ServerSession>,
    pub(super) prepared: Vec<PreparedTransaction>,
    /// The server's own processes, as far as the role may see them.
    pub(super) workers: Vec<Worker>,
}

/// A process of the server's own.
#[derive(Debug, Deserialize)]
pub(super) struct Worker {
    pub(super) pid: i32,
    /// The backend type: `autovacuum worker`, `logical replication worker`, or the name of an
    /// extension's.
    pub(super) kind: String,
    /// The subscription that it applies.
    pub(super) subscription: Option<String>,
    /// What it does: `autovacuum: VACUUM public.partners (to prevent wraparound)`.
    pub(super) query: String,
}

/// Selects the server's own processes as JSON.
const WORKERS: &str = "\
    coalesce((select json_agg(json_build_object('pid', pid, 'kind', backend_type, \
    'subscription', (select quote_ident(subname) from pg_stat_subscription s \
        where s.pid = a.pid limit 1), \
    'query', coalesce(query, ''))) from pg_stat_activity a \
    where backend_type not in ('client backend', 'walsender')), '[]')";

#[derive(Debug, Clone, Deserialize)]
pub(super) struct Setting {
    pub(super) value: String,
    pub(super) source: String,
}

/// The settings to read.
const SETTINGS: &str = "'statement_timeout', 'idle_in_transaction_session_timeout', \
    'idle_session_timeout', 'transaction_timeout', 'lock_timeout', 'jit', \
    'default_transaction_read_only', 'client_connection_check_interval'";

fn settings() -> String {
    format!(
        "(select json_object_agg(name, json_build_object('value', setting, 'source', source)) \
         from pg_settings where name in ({SETTINGS}))"
    )
}

impl Facts {
    pub(super) async fn ask(client: &Client) -> Result<Self> {
        let member = |role: &str| {
            format!("(select pg_has_role(oid, 'usage') from pg_roles where rolname = '{role}')")
        };
        let sql = format!(
            "select json_build_object(\
            'version', current_setting('server_version'), \
            'role', current_user::text, 'database', current_database()::text, \
            'superuser', (select rolsuper from pg_roles where rolname = current_user), \
            'sees_all', {}, 'uses_reserved', {}, \
            'in_recovery', pg_is_in_recovery(), \
            'max', current_setting('max_connections')::int, \
            'held_back', {}, \
            'reserved', coalesce(current_setting('reserved_connections', true), '0')::int, \
            'role_limit', (select rolconnlimit from pg_roles where rolname = current_user), \
            'database_limit', (select datconnlimit from pg_database \
                where datname = current_database()), \
            'settings', {}, 'prepared', {PREPARED}, 'workers', {WORKERS}, \
            'sessions', {SESSIONS})::text",
            member("pg_read_all_stats"),
            member("pg_use_reserved_connections"),
            RESERVED,
            settings(),
        );
        activity::read(client, &sql).await
    }

    /// Runs `sql`, then reads the settings.
    pub(super) async fn settings_after(
        sql: &str,
        client: &Client,
    ) -> Result<HashMap<String, Setting>> {
        activity::read(client, &format!("{sql}; select {}::text", settings())).await
    }

    /// Returns a setting's value in its own unit, milliseconds for timeouts.
    pub(super) fn value(&self, name: &str) -> Option<&str> {
        self.settings
            .get(name)
            .map(|setting| setting.value.as_str())
    }

    /// Counts the sessions whose state the role may not see.
    pub(super) fn hidden(&self) -> usize {
        let hidden = self
            .sessions
            .iter()
            .filter(|session| session.kind.is_none());
        hidden.count()
    }

    pub(super) fn clients(&self) -> impl Iterator<Item = &ServerSession> {
        self.sessions.iter().filter(|session| session.is_client())
    }
}
