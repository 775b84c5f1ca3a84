//! Reads sessions, prepared transactions and connection slots together.

use antifreeze::Result;
use serde::{Deserialize, Serialize};
use tokio_postgres::Client;

use super::activity::{self, SESSIONS, ServerSession};
use super::server_slots::{self, ServerSlots};

/// A transaction that was prepared for a two-phase commit, as `pg_prepared_xacts` shows it. It
/// keeps its locks without a session, until it is committed or rolled back.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct PreparedTransaction {
    /// Its global identifier.
    pub gid: String,
    /// The role that prepared it; `None` if it was dropped since.
    pub owner: Option<String>,
    /// The database that it must be ended in.
    pub database: String,
    /// How long ago it was prepared, in seconds.
    pub seconds: f64,
}

impl PreparedTransaction {
    /// Names its owner: `app`, or `a dropped role`.
    pub fn owner_name(&self) -> &str {
        self.owner.as_deref().unwrap_or("a dropped role")
    }
}

/// Selects the prepared transactions as JSON.
pub(super) const PREPARED: &str = "\
    coalesce((select json_agg(json_build_object('gid', gid, 'owner', owner, \
    'database', database, 'seconds', extract(epoch from clock_timestamp() - prepared)) \
    order by prepared) from pg_prepared_xacts), '[]')";

/// The sessions of the server, its prepared transactions and its connection slots.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[non_exhaustive]
pub struct Overview {
    /// The sessions.
    pub sessions: Vec<ServerSession>,
    /// The prepared transactions, the oldest first.
    pub prepared: Vec<PreparedTransaction>,
    /// The connection slots.
    pub slots: ServerSlots,
}

/// Reads sessions, prepared transactions and connection slots, in one round trip.
///
/// # Errors
///
/// Fails if the query fails, or if its answer cannot be decoded.
pub async fn overview(client: &Client) -> Result<Overview> {
    let sql = format!(
        "select json_build_object('sessions', {SESSIONS}, 'prepared', {PREPARED}, \
        'slots', {})::text",
        server_slots::slots()
    );
    activity::read(client, &sql).await
}
