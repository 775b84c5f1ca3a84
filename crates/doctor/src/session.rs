//! Opens a session, without retries.

use std::time::Duration;

use antifreeze::config::Pooler;
use antifreeze::internal::{self, Manner};
use antifreeze::{Database, Result, Session};
use tokio::time::timeout;

/// How long to wait for the server to confirm that a session is closed.
pub const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// Opens a session as an invocation does, with a single attempt;
/// [`Routes`](super::Routes) retries instead. Behind a pooler it also waits until the pooler
/// assigns a server, for `connect_timeout` at most.
///
/// # Errors
///
/// Fails if connecting fails, with
/// [`TooManyConnections`](antifreeze::ErrorKind::TooManyConnections) if the server has no
/// slot or the pooler assigns no server in time.
pub async fn open(database: &Database) -> Result<Session> {
    open_queued(database, database.settings().connect_timeout).await
}

/// Opens a session as [`open`] does, with `limit` for the pooler to assign a server.
pub(super) async fn open_queued(database: &Database, limit: Duration) -> Result<Session> {
    open_in(database, Manner::USUAL, limit).await
}

/// Opens a session as [`open`] does, but fails if a pooler refuses a setting, instead of
/// leaving it out.
pub(super) async fn open_strictly(database: &Database, manner: Manner<'_>) -> Result<Session> {
    let limit = database.settings().connect_timeout;
    open_in(database, manner.strict(), limit).await
}

async fn open_in(database: &Database, manner: Manner<'_>, limit: Duration) -> Result<Session> {
    let session = internal::open(internal::connector(database), true, manner).await?;
    // A pooler accepts clients without a server; it assigns one at the first query.
    if session.pooler() != Pooler::None {
        let answered = timeout(limit, session.simple_query("")).await;
        answered.map_err(|_| internal::error::no_server(limit))??;
    }
    Ok(session)
}
