//! A connection checked out by an invocation.

use std::fmt;
use std::ops::Deref;
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio_postgres::types::Type;
use tokio_postgres::{Client, Statement};

use super::Inner;
use crate::connection::{Home, Session};
use crate::error::{Error, Result};
use crate::wire::TransactionStatus;

/// How long the user's own CancelRequest may take.
const CANCEL_LIMIT: Duration = Duration::from_secs(5);

/// A connection that an invocation leases.
///
/// It is a [`tokio_postgres::Client`] to whoever takes `&Client` or
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
    /// Taken only in `drop`: it has to go home before the invocation looks.
    home: Option<Home>,
    session: Arc<Session>,
    number: u64,
    invocation: Weak<Inner>,
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

    /// Prepares a statement, or finds it prepared already: a statement that is
    /// repeated, in this invocation or a later one on the same connection, costs one
    /// round trip. At most `statement_cache` of them are kept, and none once the server has
    /// said that the schema has changed under one.
    /// [`query_cached`](Connection::query_cached) and its like prepare and execute in one.
    ///
    /// # Errors
    ///
    /// Those of [`Client::prepare`].
    pub async fn prepare_cached(&self, sql: &str) -> Result<Statement, tokio_postgres::Error> {
        self.session.prepare(self, sql, &[]).await
    }

    /// Like [`prepare_cached`](Connection::prepare_cached), with the types of the
    /// first parameters given.
    ///
    /// # Errors
    ///
    /// Those of [`Client::prepare_typed`].
    pub async fn prepare_typed_cached(
        &self,
        sql: &str,
        types: &[Type],
    ) -> Result<Statement, tokio_postgres::Error> {
        self.session.prepare(self, sql, types).await
    }

    /// What can cancel the statement that runs on this connection. Use this one, not
    /// tokio-postgres's own: that does not know the way to the server.
    pub fn cancel_token(&self) -> CancelToken {
        CancelToken {
            session: Arc::downgrade(&self.session),
            number: self.number,
            invocation: Weak::clone(&self.invocation),
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
    /// kept for whoever asks next.
    pub fn is_closed(&self) -> bool {
        self.session.is_over() || Client::is_closed(self)
    }

    /// The server's process, as in `pg_stat_activity.pid`.
    pub fn process_id(&self) -> i32 {
        self.session.process()
    }

    pub(super) fn new(
        invocation: &Arc<Inner>,
        number: u64,
        session: Arc<Session>,
        home: Home,
    ) -> Self {
        Connection {
            home: Some(home),
            session,
            number,
            invocation: Arc::downgrade(invocation),
        }
    }

    /// What the handler has left; nothing once its invocation is gone.
    pub(super) fn left(&self) -> Option<Duration> {
        let invocation = self.invocation.upgrade();
        invocation.map_or(Some(Duration::ZERO), |invocation| invocation.left())
    }

    pub(super) fn session(&self) -> &Arc<Session> {
        &self.session
    }

    fn client_mut(&mut self) -> &mut Client {
        self.home.as_deref_mut().expect(TAKEN_IN_DROP)
    }
}

const TAKEN_IN_DROP: &str = "the client is taken in drop alone";

impl Deref for Connection {
    type Target = Client;

    fn deref(&self) -> &Client {
        self.home.as_deref().expect(TAKEN_IN_DROP)
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        drop(self.home.take());
        if let Some(invocation) = self.invocation.upgrade() {
            invocation.came_home(self.number);
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
    session: Weak<Session>,
    number: u64,
    invocation: Weak<Inner>,
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
        let (Some(session), Some(invocation)) = (self.session.upgrade(), self.invocation.upgrade())
        else {
            return Ok(());
        };
        let has = || invocation.has(self.number);
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
