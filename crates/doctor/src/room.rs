//! What the server takes.

use antifreeze::Result;
use antifreeze::internal::RESERVED;
use serde::Deserialize;
use tokio_postgres::Client;

use super::activity;

/// Slots of a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[non_exhaustive]
pub struct ServerSlots {
    /// `max_connections`.
    pub max: u64,
    /// Those of them that it keeps from ordinary roles, as it does by itself and as RDS does.
    pub reserved: u64,
    /// Those that others than the one who asks have.
    pub used: u64,
}

/// How many clients the server takes, in one round trip.
///
/// # Errors
///
/// The server's.
pub async fn server_slots(client: &Client) -> Result<ServerSlots> {
    let sql = format!(
        "select json_build_object('max', current_setting('max_connections')::int, \
        'reserved', {RESERVED}, \
        'used', (select count(*) - 1 from pg_stat_activity where usesysid is not null \
        and datid is not null \
        and coalesce(backend_type, 'client backend') = 'client backend'))::text"
    );
    activity::read(client, &sql).await
}
