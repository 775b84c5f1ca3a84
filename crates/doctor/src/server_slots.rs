//! Reads the server's connection slots.

use antifreeze::Result;
use antifreeze::internal::RESERVED;
use serde::Deserialize;
use tokio_postgres::Client;

use super::activity;

/// The connection slots of a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[non_exhaustive]
pub struct ServerSlots {
    /// `max_connections`.
    pub max: u64,
    /// Slots among them that are not available to ordinary roles: PostgreSQL's reserved
    /// connections, and those of RDS.
    pub reserved: u64,
    /// Slots in use, without that of the session that asks.
    pub used: u64,
}

/// Reads the server's connection slots, in one round trip.
///
/// # Errors
///
/// Fails if the query fails, or if its answer cannot be decoded.
pub async fn server_slots(client: &Client) -> Result<ServerSlots> {
    activity::read(client, &format!("select {}::text", slots())).await
}

/// Selects the connection slots as JSON.
pub(super) fn slots() -> String {
    format!(
        "json_build_object('max', current_setting('max_connections')::int, \
        'reserved', {RESERVED}, \
        'used', (select count(*) - 1 from pg_stat_activity where usesysid is not null \
        and datid is not null \
        and coalesce(backend_type, 'client backend') = 'client backend'))"
    )
}
