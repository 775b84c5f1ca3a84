//! Opening a session, once.

use std::time::Duration;

use antifreeze::config::Pooler;
use antifreeze::internal::{self, Manner};
use antifreeze::{Database, Result, Session};
use tokio::time::timeout;

/// How long the server may take to say goodbye.
pub const GOODBYE: Duration = Duration::from_secs(2);

/// Connects, once, as an invocation does: what can heal is not waited for, as
/// [`Ways`](super::Ways) does. Behind a pooler it waits for a server, too, for no longer
/// than `connect_timeout`.
///
/// # Errors
///
/// Those of connecting, and no others;
/// [`TooManyConnections`](antifreeze::ErrorKind::TooManyConnections) if the pooler has no
/// server to give.
pub async fn open(database: &Database) -> Result<Session> {
    open_queued(database, database.settings().connect_timeout).await
}

/// As [`open`], with so long for the pooler to give a server.
pub(super) async fn open_queued(database: &Database, limit: Duration) -> Result<Session> {
    open_in(database, Manner::USUAL, limit).await
}

/// As [`open`], in another manner, and with what a pooler refuses told and not left out.
pub(super) async fn open_strictly(database: &Database, manner: Manner<'_>) -> Result<Session> {
    let limit = database.settings().connect_timeout;
    open_in(database, manner.strict(), limit).await
}

async fn open_in(database: &Database, manner: Manner<'_>, limit: Duration) -> Result<Session> {
    let session = internal::open(internal::connector(database), true, manner).await?;
    // A pooler lets in whom it has no server for, until something is asked.
    if session.pooler() != Pooler::None {
        let asked = timeout(limit, session.simple_query("")).await;
        asked.map_err(|_| internal::error::no_server(limit))??;
    }
    Ok(session)
}
