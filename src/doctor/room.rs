//! What the server takes.

use serde::Deserialize;
use tokio_postgres::Client;

use super::activity;
use crate::error::Result;
use crate::limit::reserved;

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

const QUERY: &str = concat!(
    "select json_build_object('max', current_setting('max_connections')::int, 'reserved', ",
    reserved!(),
    ", 'used', (select count(*) - 1 from pg_stat_activity where usesysid is not null \
    and datid is not null and coalesce(backend_type, 'client backend') = 'client backend'))::text",
);

/// How many clients the server takes, in one round trip.
///
/// # Errors
///
/// The server's.
pub async fn server_slots(client: &Client) -> Result<ServerSlots> {
    activity::read(client, QUERY).await
}
