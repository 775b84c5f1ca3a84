//! One call of the function, and everything that it used.

mod cached;
mod checkout;
mod finish;
mod lease;
mod retry;
mod run;
mod savepoint;
mod scope;
mod tasks;
mod transaction;
mod watch;

use std::any::Any;
use std::fmt;
use std::future::Future;
use std::panic::Location;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::task::JoinHandle;

pub(crate) use finish::Finished;
pub use lease::{CancelToken, Connection};
pub use retry::{TransactionRetry, retry_transaction};
pub(crate) use run::{Ended, Judge, Run};
pub use savepoint::Savepoint;
pub(crate) use scope::Scope;
pub use scope::{connection, invocation, transaction};
pub use transaction::{IsolationLevel, Transaction, TransactionBuilder};

pub(crate) use watch::Watch;

use crate::database::Database;
use crate::deadline::Deadline;
use crate::error::{Error, Result};
use crate::pool::Lease;
use crate::tally::Tally;
use crate::teardown::Budget;
use tasks::Tasks;
use transaction::Slot;

type Hook = Pin<Box<dyn Future<Output = ()> + Send>>;

/// One call of the function.
///
/// It owns the connections, the transaction and the tasks that the call uses, and
/// brings them to rest before the response leaves. Cheap to clone: a task that was
/// started with `tokio::spawn` does not inherit the invocation, so give it a clone.
///
/// ```no_run
/// # async fn handler() -> Result<(), antifreeze::Error> {
/// let invocation = antifreeze::invocation()?;
/// tokio::spawn(async move {
///     let connection = invocation.connection().await?;
///     connection.execute("select 1", &[]).await?;
///     Ok::<_, antifreeze::Error>(())
/// })
/// .await
/// .expect("the task does not panic")
/// # }
/// ```
#[derive(Clone)]
pub struct Invocation {
    inner: Arc<Inner>,
}

struct Inner {
    database: Database,
    request_id: Box<str>,
    deadline: Deadline,
    transaction: Slot,
    tasks: Tasks,
    state: Mutex<State>,
    /// The gate was closed.
    gate: Notify,
    /// A checkout is done.
    asked: Notify,
    /// Connections that nobody came to have, until the server has closed them.
    leaving: Tally,
    /// A connection came home and is still the invocation's; or none will: the transaction
    /// has it.
    returned: Notify,
}

#[derive(Default)]
struct State {
    phase: Phase,
    leases: Vec<Held>,
    /// Checkouts under way.
    asking: usize,
    next_lease: u64,
    deferred: Vec<Hook>,
    after: Vec<Hook>,
    failed: bool,
    streams: bool,
    /// Dropped when everything is at rest.
    guard: Option<Box<dyn Any + Send>>,
}

/// Who asks for a connection: a place in the source, or an extractor.
pub(crate) type Caller = &'static (dyn fmt::Display + Sync);

/// A lease and the number by which the connection that was given out knows it.
struct Held {
    number: u64,
    lease: Lease,
    /// It was taken to be brought to rest, under a number that no connection knows.
    resting: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Phase {
    #[default]
    Open,
    /// The gate is closed: no more connections are given out.
    Closed,
}

impl Invocation {
    pub(crate) fn new(database: Database, deadline: Deadline, request_id: &str) -> Self {
        Invocation {
            inner: Arc::new(Inner {
                database,
                request_id: request_id.into(),
                deadline,
                transaction: Slot::default(),
                tasks: Tasks::default(),
                state: Mutex::default(),
                gate: Notify::new(),
                asked: Notify::new(),
                leaving: Tally::default(),
                returned: Notify::new(),
            }),
        }
    }

    /// Leases a connection: a kept one, or a new one.
    ///
    /// Each call is another session. Dropping the connection gives it back; if it
    /// is not at rest then, the invocation keeps it until its own end, or until it is
    /// asked for another.
    ///
    /// Where all of `max_connections` are in use it waits for one, for `acquire_timeout`
    /// at most: also for those of this invocation, since another future or task of it may
    /// be about to give one back.
    ///
    /// # Errors
    ///
    /// - [`InvocationEnded`](crate::ErrorKind::InvocationEnded): the response is on
    ///   its way.
    /// - [`WouldWaitForItself`](crate::ErrorKind::WouldWaitForItself): this invocation
    ///   has all of `max_connections` already, and none came back within
    ///   `acquire_timeout` (5 s). At once where none can come back: its
    ///   [transaction](Invocation::transaction) has the only one until the end.
    /// - [`AcquireTimeout`](crate::ErrorKind::AcquireTimeout): others did not give
    ///   one back in time.
    /// - whatever connecting may fail with.
    #[track_caller]
    pub fn connection(&self) -> impl Future<Output = Result<Connection>> + Send + use<> {
        let invocation = self.clone();
        let caller: Caller = Location::caller();
        async move { invocation.lease(caller).await }
    }

    pub(crate) async fn lease(&self, caller: Caller) -> Result<Connection> {
        self.inner.checkout(caller).await
    }

    /// The transaction of this invocation: one, however often it is asked for.
    ///
    /// It begins with its first statement, under the same round trip. It has no
    /// `commit`: the invocation commits before the response leaves if that is a
    /// success (2xx or 3xx, or `Ok`), and rolls back otherwise.
    ///
    /// ```no_run
    /// # async fn handler(name: &str) -> Result<(), Box<dyn std::error::Error>> {
    /// let transaction = antifreeze::invocation()?.transaction().await?;
    /// transaction.execute("insert into partners (name) values ($1)", &[&name]).await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn transaction(&self) -> TransactionBuilder {
        TransactionBuilder::new(self.clone())
    }

    /// Has the invocation's transaction rolled back whatever the response says: for
    /// a GraphQL answer of 200 that carries errors.
    pub fn fail(&self) {
        self.state().failed = true;
    }

    /// Starts a task that belongs to this invocation: inside it
    /// [`connection`] and [`transaction`] work as in the handler.
    ///
    /// What has not been joined when the handler returns is aborted. If it has the
    /// invocation's [transaction](Invocation::transaction) then, half of its work is done:
    /// the transaction is rolled back, and the caller is told
    /// ([`TransactionInUse`](crate::ErrorKind::TransactionInUse)). So it is where a task, or
    /// a clean-up, panics with the transaction in hand.
    ///
    /// Work that is to go on after the response has no place here: see
    /// [the crate's documentation](crate#work-after-the-response).
    pub fn spawn<F>(&self, future: F) -> JoinHandle<F::Output>
    where
        F: Future<Output: Send + 'static> + Send + 'static,
    {
        let scope = Scope::around(self.clone());
        let state = self.state();
        let task = self.inner.tasks.spawn(scope.run(future));
        if state.phase == Phase::Closed {
            task.abort();
        }
        task
    }

    /// Runs `cleanup` when the handler is done and its tasks are, before the
    /// connections are brought to rest: for what other stores leave behind. The
    /// last one deferred runs first.
    ///
    /// It is given up after half a second. All of them together have what the deadline
    /// leaves, less half a second for COMMIT; those that have not begun by then are dropped
    /// unrun, as is one that is deferred when the connections are being brought to rest
    /// already.
    pub fn defer(&self, cleanup: impl Future<Output = ()> + Send + 'static) {
        self.hook(Box::pin(cleanup), |state| &mut state.deferred);
    }

    /// Runs `hook` last, when the connections are at rest and before the response
    /// leaves: for exporters that have to flush what teardown reports.
    ///
    /// All of them together have half a second, and at most half of what the deadline
    /// leaves; those that have not begun by then are dropped unrun, as is one that is
    /// registered when the connections are being brought to rest already.
    pub fn after(&self, hook: impl Future<Output = ()> + Send + 'static) {
        self.hook(Box::pin(hook), |state| &mut state.after);
    }

    fn hook(&self, hook: Hook, list: impl FnOnce(&mut State) -> &mut Vec<Hook>) {
        let mut state = self.state();
        match state.phase {
            Phase::Open => list(&mut state).push(hook),
            // Kept, it would keep what it holds for ever, and that may be ourselves.
            Phase::Closed => {
                drop(state);
                drop(hook);
            }
        }
    }

    /// Has the response's body read from the database while it is sent: teardown
    /// moves from the head of the response to the end of `body`, which is returned
    /// as it is. The last frame is kept back until teardown is done.
    ///
    /// Where no client reads a body (HEAD, 204, 304) it is dropped, and everything is at
    /// rest before the head leaves. A body that is dropped outside the layer has its
    /// connections closed at once, since nothing is sure to run later.
    ///
    /// The invocation's own [transaction](Invocation::transaction) still commits
    /// before the head: its outcome decides the status. From then on it is refused: what
    /// the body is to store, it commits itself in a transaction on a connection.
    ///
    /// It is for responses over HTTP. The answer to a Lambda event is taken as whole, so
    /// that this has no effect there: what still reads from the database then gets an error
    /// ([`Error::is_invocation_ended`]).
    ///
    /// axum has the handler of GET answer HEAD, too: the query is begun for nothing, and cut
    /// off. Give HEAD a handler of its own, `get(list).head(headers)`.
    pub fn stream<B>(&self, body: B) -> B {
        self.state().streams = true;
        body
    }

    /// The host's id of this request; empty where there is none.
    pub fn request_id(&self) -> &str {
        &self.inner.request_id
    }

    /// What is left until the handler is stopped; `None` without a deadline.
    pub fn remaining(&self) -> Option<Duration> {
        self.inner.left()
    }

    /// Keeps `guard` until everything is at rest.
    #[cfg(feature = "vercel")]
    pub(crate) fn guard(&self, guard: impl Any + Send) {
        self.state().guard = Some(Box::new(guard));
    }

    /// Why it had better not begin, where [`LoadShed::Door`](crate::LoadShed::Door) is
    /// asked for.
    pub(crate) fn turned_away(&self) -> Option<Error> {
        let pools = self.inner.database.pools();
        pools.at_the_door(self.inner.left(), self.request_id())
    }

    pub(crate) fn belongs_to(&self, database: &Database) -> bool {
        self.inner.database.is(database)
    }

    pub(crate) fn streams(&self) -> bool {
        self.state().streams
    }

    pub(crate) fn cutoff(&self) -> Option<tokio::time::Instant> {
        let round_trip = self.inner.database.pools().round_trip();
        self.inner.deadline.cutoff(round_trip)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.inner.state()
    }
}

impl Inner {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the handler has left.
    fn left(&self) -> Option<Duration> {
        let round_trip = self.database.pools().round_trip();
        let now = tokio::time::Instant::now();
        let cutoff = self.deadline.cutoff(round_trip)?;
        Some(cutoff.saturating_duration_since(now))
    }

    fn budget(&self) -> Budget {
        Budget::new(self.deadline.end(), self.database.pools().round_trip())
    }

    /// Gives out no more connections, and stops whoever waits for one.
    fn close_gate(&self) {
        self.state().phase = Phase::Closed;
        self.gate.notify_waiters();
    }

    fn check_open(&self) -> Result<()> {
        match self.state().phase {
            Phase::Open => Ok(()),
            Phase::Closed => Err(Error::invocation_ended()),
        }
    }
}

impl fmt::Debug for Invocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.state();
        f.debug_struct("Invocation")
            .field("request_id", &self.inner.request_id)
            .field("remaining", &self.inner.deadline.remaining())
            .field("phase", &state.phase)
            .field("connections", &state.leases.len())
            .finish_non_exhaustive()
    }
}
