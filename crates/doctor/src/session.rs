//! Opens a session, without retries.

use std::time::Duration;

use antifreeze::config::Pooler;
use antifreeze::internal::{self, ConnectOptions};
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
    open_in(database, ConnectOptions::DEFAULT, limit).await
}

/// Opens a session as [`open`] does, but fails if a pooler refuses a setting, instead of
/// leaving it out.
pub(super) async fn open_strictly(
    database: &Database,
    options: ConnectOptions<'_>,
) -> Result<Session> {
    let limit = database.settings().connect_timeout;
    let options = ConnectOptions {
        strict: true,
        ..options
    };
    open_in(database, options, limit).await
}

async fn open_in(
    database: &Database,
    options: ConnectOptions<'_>,
    limit: Duration,
) -> Result<Session> {
    let options = ConnectOptions {
        once: true,
        ..options
    };
    let session = internal::open(internal::connector(database), options).await?;
    // A pooler accepts clients without a server; it assigns one at the first query.
    if session.pooler() != Pooler::None {
        let answered = timeout(limit, session.simple_query("")).await;
        answered.map_err(|_| internal::error::no_server(limit))??;
    }
    Ok(session)
}
