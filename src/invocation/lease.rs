//! A connection checked out by an invocation.

use std::fmt;
use std::ops::Deref;
use std::pin::pin;
use std::sync::{Arc, Weak};
use std::time::Duration;

use futures_util::future::{Either, select};
use tokio::time::{Instant, timeout};
use tokio_postgres::types::Type;
use tokio_postgres::{Client, Statement};

use super::{Caller, Held, Inner, Phase, Scope, State};
use crate::connection::{Home, Session};
use crate::error::{Error, Result};
use crate::pool::Lease;
use crate::teardown::{at_rest, rest};
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

    /// The server's process, as in `pg_stat_activity.pid`.
    pub fn process_id(&self) -> i32 {
        self.session.process()
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

impl Inner {
    pub(super) async fn checkout(self: &Arc<Self>, caller: Caller) -> Result<Connection> {
        let mut asking = Asking::start(self, caller)?;
        let leasing = async {
            if let Some(connection) = self.lease_again(&mut asking).await? {
                return Ok(connection);
            }
            let (lease, home) = self.database.pools().checkout(self.left()).await?;
            self.give_out(lease, home, &mut asking)
        };
        // A checkout must not outlive the invocation: what it opens would stay behind.
        match select(pin!(leasing), pin!(self.closed())).await {
            Either::Left((connection, _)) => connection,
            Either::Right(((), _)) => Err(Error::invocation_ended()),
        }
    }

    /// Waits until the gate is closed.
    async fn closed(&self) {
        let mut closing = pin!(self.gate.notified());
        closing.as_mut().enable();
        if self.check_open().is_ok() {
            closing.await;
        }
    }

    /// Waits until no checkout is under way any more, as the gate is closed.
    pub(super) async fn asked(&self, limit: Duration) {
        let asked = async {
            loop {
                let mut asked = pin!(self.asked.notified());
                asked.as_mut().enable();
                if self.state().asking == 0 {
                    break;
                }
                asked.await;
            }
        };
        let _ = timeout(limit, asked).await;
    }

    /// A connection that came home without being at rest, brought to rest.
    async fn lease_again(self: &Arc<Self>, asking: &mut Asking<'_>) -> Result<Option<Connection>> {
        let here = self.database.pools().here();
        let found = {
            let mut state = self.state();
            let number = state.next_lease;
            let found = state.leases.iter_mut().find_map(|held| {
                let home = held.lease.session.home()?;
                // Under its old number somebody may still wish to cancel something.
                let found = held.lease.belongs_to(&here).then_some((held, home));
                found.map(|(held, home)| {
                    held.number = number;
                    (Arc::clone(&held.lease.session), home)
                })
            });
            if found.is_some() {
                state.next_lease += 1;
                // From here on it counts as one that is away.
                asking.done(&mut state);
            }
            found.map(|(session, home)| (number, session, home))
        };
        let Some((number, session, home)) = found else {
            return Ok(None);
        };
        let (began, before) = (Instant::now(), session.wire().round_trips());
        let config = self.database.config();
        let budget = self.budget();
        let rested = rest(&session, Some(home), true, config, &budget).await;
        let round_trips = session.wire().round_trips() - before;
        let kept = rested.home.is_some();
        let mut state = self.state();
        let Some(at) = state.leases.iter().position(|held| held.number == number) else {
            return Err(Error::invocation_ended());
        };
        let again = rested.home.map(|home| Connection {
            home: Some(home),
            session: Arc::clone(&session),
            number,
            invocation: Arc::downgrade(self),
        });
        if again.is_none() {
            let lease = state.leases.swap_remove(at).lease;
            asking.again(&mut state);
            drop(state);
            drop(lease);
        } else {
            drop(state);
        }
        self.report(&session, rested.outcome, kept, round_trips, began);
        Ok(again)
    }

    /// Notes the lease, unless the gate was closed meanwhile.
    fn give_out(
        self: &Arc<Self>,
        lease: Lease,
        home: Home,
        asking: &mut Asking<'_>,
    ) -> Result<Connection> {
        let mut state = self.state();
        if state.phase == Phase::Closed {
            drop(state);
            match lease.place() {
                Some(place) => lease.keep(home, place),
                None => lease.session.end(),
            }
            return Err(Error::invocation_ended());
        }
        let number = state.next_lease;
        state.next_lease += 1;
        let session = Arc::clone(&lease.session);
        state.leases.push(Held { number, lease });
        asking.done(&mut state);
        Ok(Connection {
            home: Some(home),
            session,
            number,
            invocation: Arc::downgrade(self),
        })
    }

    /// A connection was dropped. At rest it is free for others at once; else it
    /// stays here, for the next checkout or the teardown.
    fn came_home(&self, number: u64) {
        let mut state = self.state();
        let found = state.leases.iter().position(|held| held.number == number);
        let (Some(at), Phase::Open) = (found, state.phase) else {
            return;
        };
        let lease = &state.leases[at].lease;
        let Some(place) = lease.place() else {
            return;
        };
        if let Some(home) = at_rest(&lease.session, self.database.config()) {
            let lease = state.leases.swap_remove(at).lease;
            drop(state);
            self.report_clean(&lease.session);
            lease.keep(home, place);
        }
    }

    /// Whoever knows the connection by this number has it still.
    fn has(&self, number: u64) -> bool {
        let state = self.state();
        state.phase == Phase::Open && state.leases.iter().any(|held| held.number == number)
    }

    /// How many connections somebody uses or is about to.
    pub(super) fn in_use(state: &State) -> usize {
        let away = |held: &&Held| held.lease.session.home().is_none();
        state.leases.iter().filter(away).count() + state.asking
    }
}

/// A checkout under way: until it is done it counts as a connection that the invocation
/// has.
struct Asking<'a> {
    inner: &'a Inner,
    counts: bool,
}

impl<'a> Asking<'a> {
    fn start(inner: &'a Inner, caller: Caller) -> Result<Self> {
        let pool = inner.database.pools().here();
        // What the invocations around this one hold will not come back before it ends.
        let outer = Scope::in_use_around(inner);
        let mut state = inner.state();
        if state.phase == Phase::Closed {
            return Err(Error::invocation_ended());
        }
        let held = Inner::in_use(&state) + outer;
        if held >= pool.max_connections() {
            return Err(Error::would_wait_for_itself(held, caller));
        }
        state.asking += 1;
        Ok(Asking {
            inner,
            counts: true,
        })
    }

    fn done(&mut self, state: &mut State) {
        if std::mem::take(&mut self.counts) {
            state.asking -= 1;
            self.inner.asked.notify_waiters();
        }
    }

    fn again(&mut self, state: &mut State) {
        if !std::mem::replace(&mut self.counts, true) {
            state.asking += 1;
        }
    }
}

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        let inner = self.inner;
        self.done(&mut inner.state());
    }
}
