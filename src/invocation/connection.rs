//! Represents a connection that an invocation has checked out.

use std::fmt;
use std::ops::Deref;
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use tokio_postgres::Client;

use super::leases::Owner;
use crate::connection::{ClientSession, ExclusiveClient, LastParameters, Parameters};
use crate::error::{Error, ErrorKind, Result};
use crate::pool::Lease;
use crate::wire::{Diverted, Names, OwnAnswer, TransactionStatus};

/// How long the user's own CancelRequest may take.
const CANCEL_LIMIT: Duration = Duration::from_secs(5);

/// A connection that an invocation has leased from the pool.
///
/// It derefs to [`tokio_postgres::Client`], for code that takes `&Client` or `&impl
/// GenericClient`. Dropping it gives it back to the invocation, which removes what was left
/// behind. Code that still holds it when the invocation ends gets
/// [`InvocationEnded`](crate::ErrorKind::InvocationEnded).
///
/// `LISTEN` works, but notifications are discarded: an invocation is too short to wait for them.
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
    /// Taken only in `drop`: it must be unlocked before the invocation inspects the session.
    client: Option<ExclusiveClient>,
    session: Arc<ClientSession>,
    lease: Weak<Lease>,
    turn: u64,
    invocation: Weak<dyn Owner>,
}

impl Connection {
    /// Begins a transaction that the caller commits or rolls back.
    ///
    /// It is tokio-postgres's own type. Dropped without a commit, it is rolled back before the
    /// response leaves at the latest.
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

    /// Returns a token that cancels the statement running on this connection. tokio-postgres's own
    /// token does not work here, since it does not know the server's address.
    pub fn cancel_token(&self) -> CancelToken {
        CancelToken {
            lease: Weak::clone(&self.lease),
            turn: self.turn,
        }
    }

    /// Returns the session's transaction status, without asking the server; `None` while a
    /// statement runs.
    pub fn transaction_status(&self) -> Option<TransactionStatus> {
        let snapshot = self.session.pump();
        snapshot.status.filter(|_| snapshot.is_quiet())
    }

    /// Returns whether the connection has ended. The client's own `is_closed` returns true only
    /// after a request on the ended session, which gets the server's reason.
    pub fn is_closed(&self) -> bool {
        self.session.is_over() || Client::is_closed(self)
    }

    /// Returns the process id of the server's backend, as in `pg_stat_activity.pid`.
    pub fn process_id(&self) -> i32 {
        self.session.process()
    }

    pub(super) fn new(
        invocation: Weak<dyn Owner>,
        (lease, turn, client): (Arc<Lease>, u64, ExclusiveClient),
    ) -> Self {
        Connection {
            session: Arc::clone(&client.session),
            client: Some(client),
            lease: Arc::downgrade(&lease),
            turn,
            invocation,
        }
    }

    /// Notes that the response has decided against the transaction that is open here.
    pub(super) fn decide_rollback(&self) {
        if let Some(lease) = self.lease.upgrade() {
            lease.decide_rollback();
        }
    }

    /// Returns the time that the handler has left; zero after the invocation.
    pub(super) fn left(&self) -> Option<Duration> {
        let invocation = self.invocation.upgrade();
        invocation.map_or(Some(Duration::ZERO), |invocation| {
            invocation.leases().left()
        })
    }

    pub(super) fn session(&self) -> &Arc<ClientSession> {
        &self.session
    }

    /// Removes what another driver has set in the session.
    pub(super) fn prepare_for_handler(&self) -> BoxFuture<'_, Result<()>> {
        Box::pin(self.prepare(&[]))
    }

    /// Sets the parameters of the session that another driver asks for.
    pub(crate) async fn prepare(&self, parameters: &Parameters) -> Result<()> {
        let lease = self.lease_for(parameters)?;
        Self::prepared(lease.session().set_parameters(parameters).await)
    }

    /// Does so inside a transaction, until its end.
    pub(super) async fn prepare_inside(
        &self,
        parameters: &Parameters,
        last: &mut LastParameters,
    ) -> Result<()> {
        let lease = self.lease_for(parameters)?;
        let set = lease.session().set_parameters_inside(parameters, last);
        Self::prepared(set.await)
    }

    /// Returns the lease, unless a parameter cannot be set on this path.
    fn lease_for(&self, parameters: &Parameters) -> Result<Arc<Lease>> {
        let lease = self.lease.upgrade().ok_or_else(Error::invocation_ended)?;
        if let Some(name) = lease.session().not_carried(parameters) {
            return Err(Error::caused(
                ErrorKind::ParameterRefused,
                format!("the driver sets `{name}` at its start-up, which the pooler loses"),
            )
            .with_remedy(
                "set it with ALTER ROLE .. SET, and remove it from the driver's options",
            ));
        }
        Ok(lease)
    }

    fn prepared(set: Option<OwnAnswer>) -> Result<()> {
        match set.ok_or_else(Error::lost)?.error {
            None => Ok(()),
            Some(sqlstate) => Err(Error::caused(
                ErrorKind::ParameterRefused,
                format!("the server refused a parameter of the driver's start-up ({sqlstate})"),
            )
            .with_remedy("remove the parameter from the driver's options, or correct its value")),
        }
    }

    /// Returns the ParameterStatus messages with which the server would begin this session.
    pub(crate) fn reported(&self) -> Bytes {
        self.session.wire.reported().freeze()
    }

    /// Diverts the session to another driver. `None`: the connection has ended, or was taken back.
    pub(crate) async fn divert(&mut self) -> Option<Diverted> {
        let lease = self.lease.upgrade()?;
        let diverted = match lease.session().divert(self.client.take()?).await {
            Ok(diverted) => diverted,
            Err(client) => {
                self.client = Some(client);
                return None;
            }
        };
        lease.is_turn(self.turn).then_some(diverted)
    }

    /// Detaches the session, whose requests are then answered with an error.
    pub(super) fn detach(&self) {
        if let Some(lease) = self.lease.upgrade() {
            lease.session().detach();
        }
    }

    /// Returns whether another driver has set parameters of the session.
    pub(super) fn has_parameters(&self) -> bool {
        let lease = self.lease.upgrade();
        lease.is_some_and(|lease| lease.session().has_parameters())
    }

    /// Takes the session back from another driver, if nothing of it is left there. Returns the
    /// names of its statements.
    pub(crate) fn give_back(&self, diverted: &Diverted) -> Option<Names> {
        self.lease.upgrade()?.session().give_back(diverted)
    }

    /// Wakes what drives the client, after the session was given back to it.
    pub(super) fn wake(&self) {
        if let Some(lease) = self.lease.upgrade() {
            lease.session().wake();
        }
    }

    /// Brings the session to rest after another driver has left it.
    pub(crate) async fn rest(self) {
        let invocation = self.invocation.upgrade();
        if let Some((invocation, lease)) = invocation.zip(self.lease.upgrade()) {
            Box::pin(invocation.leases().rest_left(lease, self.turn)).await;
        }
    }

    /// Cancels the statement that runs.
    pub(super) async fn cancel(&self, limit: Duration) {
        if let Some(lease) = self.lease.upgrade() {
            lease.session().cancel(limit).await;
        }
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
            self.session.wait_for_pump();
            invocation.leases().take_back(&invocation, lease, self.turn);
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

/// Cancels the statement that runs on a connection.
#[derive(Clone)]
pub struct CancelToken {
    lease: Weak<Lease>,
    turn: u64,
}

impl CancelToken {
    /// Sends a CancelRequest and waits until the server has received it, so that it cannot hit a
    /// later statement. Does nothing once the connection has been given back. Times out after 5 s.
    ///
    /// The server does not report whether a statement was cancelled.
    ///
    /// # Errors
    ///
    /// The request could not be delivered.
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
            ErrorKind::Unreachable,
            "the statement could not be cancelled: the server did not take the request",
        ))
    }
}

impl fmt::Debug for CancelToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CancelToken")
    }
}
