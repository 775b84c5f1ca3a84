//! Represents a connection that an invocation has checked out.

use std::fmt;
use std::ops::Deref;
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio_postgres::Client;

use super::leases::Leases;
use crate::connection::{ExclusiveClient, ServerSession};
use crate::error::{Error, Result};
use crate::pool::Lease;
use crate::wire::TransactionStatus;

/// How long the user's own CancelRequest may take.
const CANCEL_LIMIT: Duration = Duration::from_secs(5);

/// A connection that an invocation leases.
///
/// It is a [`tokio_postgres::Client`] for code that takes `&Client` or
/// `&impl GenericClient`. Dropping it gives it back to the invocation, which sees to
/// it that nothing is left behind; whatever still holds it when the invocation ends
/// meets errors that say so.
///
/// `LISTEN` works, but what is notified is not passed on: an invocation that ends before
/// the process freezes is no place to wait for it.
///
/// ```no_run
/// # async fn handler() -> Result<(), Box<dyn std::error::Error>> {
/// async fn count(client: &impl tokio_postgres::GenericClient) -> Result<i64, tokio_postgres::Error> {
///     client.query_one("select count(*) from partners", &[]).await?.try_get(0)
/// }
///
/// let mut connection = antifreeze::connection().await?;
/// let before = count(&*connection).await?;
/// let transaction = connection.transaction().await?;
/// transaction.execute("delete from partners", &[]).await?;
/// transaction.commit().await?;
/// # Ok(())
/// # }
/// ```
#[must_use = "a connection that is dropped is given back"]
pub struct Connection {
    /// Taken only in `drop`: it has to be free before the invocation looks.
    client: Option<ExclusiveClient>,
    session: Arc<ServerSession>,
    lease: Weak<Lease>,
    turn: u64,
    invocation: Weak<Leases>,
}

impl Connection {
    /// Begins a transaction that the caller ends.
    ///
    /// From here on it is tokio-postgres's own type. Dropped without a commit it is
    /// rolled back, at the latest before the response leaves.
    ///
    /// # Errors
    ///
    /// Those of [`Client::transaction`].
    pub async fn transaction(
        &mut self,
    ) -> Result<tokio_postgres::Transaction<'_>, tokio_postgres::Error> {
        self.client_mut().transaction().await
    }

    /// Begins a transaction with options: [`Client::build_transaction`].
    pub fn build_transaction(&mut self) -> tokio_postgres::TransactionBuilder<'_> {
        self.client_mut().build_transaction()
    }

    /// What can cancel the statement that runs on this connection. Use this one, not
    /// tokio-postgres's own: that does not know the way to the server.
    pub fn cancel_token(&self) -> CancelToken {
        CancelToken {
            lease: Weak::clone(&self.lease),
            turn: self.turn,
        }
    }

    /// Where the session stands between two statements, without asking the server.
    /// `None` while a statement is under way.
    pub fn transaction_status(&self) -> Option<TransactionStatus> {
        let snapshot = self.session.pump();
        snapshot.status.filter(|_| snapshot.is_quiet())
    }

    /// Whether the connection has ended. The client's own `is_closed` says so only once
    /// something was asked of a session that the server has ended: the server's reason is
    /// kept for the next request.
    pub fn is_closed(&self) -> bool {
        self.session.is_over() || Client::is_closed(self)
    }

    /// The server's process, as in `pg_stat_activity.pid`.
    pub fn process_id(&self) -> i32 {
        self.session.process()
    }

    pub(super) fn new(
        invocation: &Arc<Leases>,
        (lease, turn, client): (Arc<Lease>, u64, ExclusiveClient),
    ) -> Self {
        Connection {
            client: Some(client),
            session: Arc::clone(lease.session()),
            lease: Arc::downgrade(&lease),
            turn,
            invocation: Arc::downgrade(invocation),
        }
    }

    /// What the handler has left; nothing once its invocation is gone.
    pub(super) fn left(&self) -> Option<Duration> {
        let invocation = self.invocation.upgrade();
        invocation.map_or(Some(Duration::ZERO), |invocation| invocation.left())
    }

    pub(super) fn session(&self) -> &Arc<ServerSession> {
        &self.session
    }

    fn client_mut(&mut self) -> &mut Client {
        self.client.as_deref_mut().expect(TAKEN_IN_DROP)
    }
}

const TAKEN_IN_DROP: &str = "the client is taken in drop alone";

impl Deref for Connection {
    type Target = Client;

    fn deref(&self) -> &Client {
        self.client.as_deref().expect(TAKEN_IN_DROP)
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        drop(self.client.take());
        let invocation = self.invocation.upgrade();
        if let Some((invocation, lease)) = invocation.zip(self.lease.upgrade()) {
            invocation.take_back(lease, self.turn);
        }
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection")
            .field("process_id", &self.process_id())
            .finish_non_exhaustive()
    }
}

/// Cancels the statement that a connection runs.
#[derive(Clone)]
pub struct CancelToken {
    lease: Weak<Lease>,
    turn: u64,
}

impl CancelToken {
    /// Asks the server to cancel, and waits until it has taken the request: a later
    /// statement is safe from it. Does nothing once the connection has been given
    /// back. Gives up after 5 s.
    ///
    /// The server does not say whether there was anything to cancel.
    ///
    /// # Errors
    ///
    /// The server could not be asked.
    pub async fn cancel(&self) -> Result<()> {
        let lease = || self.lease.upgrade();
        let Some(session) = lease().map(|lease| Arc::clone(lease.session())) else {
            return Ok(());
        };
        let has = || lease().is_some_and(|lease| lease.is_turn(self.turn));
        if session.cancel_for_user(has, CANCEL_LIMIT).await {
            return Ok(());
        }
        Err(Error::new(
            crate::ErrorKind::Unreachable,
            "the statement could not be cancelled: the server did not take the request",
        ))
    }
}

impl fmt::Debug for CancelToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CancelToken")
    }
}
