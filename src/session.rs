//! Provides a session outside of any pool and invocation.

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::time::Instant;
use tokio_postgres::Client;

use crate::clock::{Clock, System};
use crate::config::Pooler;
use crate::connect::{ConnectOptions, Connector};
use crate::connection::{self, ExclusiveClient};
use crate::deadline::FAR;
use crate::error::{Error, ErrorKind, Result};
use crate::teardown::{Budget, close};
use crate::wire::TransactionStatus;

/// A session outside of any pool and invocation, for a job that keeps one session.
///
/// It derefs to a [`Client`]. [`Database::session`](crate::Database::session) opens it, and only
/// [`close`](Session::close) ends it cleanly.
///
/// ```no_run
/// # async fn main_() -> Result<(), Box<dyn std::error::Error>> {
/// use std::time::Duration;
///
/// let database = antifreeze::Database::from_env()?;
/// let session = database.session().await?;
/// session.batch_execute("refresh materialized view concurrently sales").await?;
/// assert!(session.close(Duration::from_secs(2)).await);
/// # Ok(())
/// # }
/// ```
#[must_use = "a session that is dropped is closed"]
pub struct Session {
    session: Arc<connection::ServerSession>,
    /// Taken only when the session is closed.
    client: Option<ExclusiveClient>,
}

impl Session {
    pub(crate) async fn open(
        connector: &Arc<Connector>,
        options: ConnectOptions<'_>,
    ) -> Result<Self> {
        let now = System.now();
        let open = connection::ServerSession::open(connector, None, options, now, || {});
        let open: BoxFuture<'_, _> = Box::pin(open);
        let session = open.await?;
        let client = session
            .exclusive_client()
            .ok_or_else(|| Error::new(ErrorKind::Closed, "the session ended as it began"))?;
        Ok(Session {
            session,
            client: Some(client),
        })
    }

    /// Returns the process id that the server, or a pooler, sent at startup.
    pub fn process_id(&self) -> i32 {
        self.session.process()
    }

    /// Returns the transaction status that the server reported last, without asking it.
    pub fn transaction_status(&self) -> Option<TransactionStatus> {
        self.session.pump().status
    }

    /// Returns whether the session has ended.
    pub fn is_closed(&self) -> bool {
        self.session.is_over()
    }

    /// Returns the pooler in front of the server, as configured or detected.
    pub fn pooler(&self) -> Pooler {
        self.session.link.pooler
    }

    /// Cancels the running statement, and waits until the server has received the request. Returns
    /// false if it did not within `limit`.
    pub async fn cancel(&self, limit: Duration) -> bool {
        self.session.cancel(limit).await
    }

    /// Cancels the running statement and closes the session. Returns true if the server has
    /// confirmed the close, and so has rolled back and released its locks; false if it did not
    /// within `limit`.
    pub async fn close(mut self, limit: Duration) -> bool {
        let end = Instant::now() + limit.min(FAR);
        let budget = Budget::new(Some(end), self.session.link.round_trip).unhurried();
        let client = self.client.take();
        let close: BoxFuture<'_, _> = Box::pin(close(&self.session, &budget));
        let acknowledged = close.await;
        drop(client);
        acknowledged
    }
}

impl Deref for Session {
    type Target = Client;

    fn deref(&self) -> &Client {
        self.client.as_ref().expect("it is taken only at the end")
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if self.client.take().is_some() {
            self.session.cancel_detached();
            self.session.terminate();
        }
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session")
            .field("process_id", &self.process_id())
            .finish_non_exhaustive()
    }
}
