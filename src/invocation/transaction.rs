//! The transaction of an invocation: begun with its first statement, ended by the
//! invocation.

use std::fmt;
use std::future::{Future, IntoFuture};
use std::ops::Deref;
use std::panic::Location;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Waker};
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::timeout;
use tokio_postgres::Client;
pub use tokio_postgres::IsolationLevel;

use super::tasks::is_cut_off;
use super::{Caller, Connection, Invocation};
use crate::error::{Error, ErrorKind, Result};
use crate::wire::residue::SET_LOCAL;

/// Where an invocation keeps its transaction.
#[derive(Default)]
pub(super) struct Slot(Mutex<Option<Arc<Shared>>>);

pub(super) struct Shared {
    pub(super) connection: Connection,
    begin: String,
    savepoints: AtomicU64,
    /// Work that used it was not done.
    cut_off: AtomicBool,
}

impl Shared {
    pub(super) fn was_cut_off(&self) -> bool {
        self.cut_off.load(Ordering::Acquire)
    }
}

impl Slot {
    /// There is one, or somebody is about to make it.
    pub(super) fn is_some(&self) -> bool {
        self.0.try_lock().map_or(true, |slot| slot.is_some())
    }

    /// There is one, with its connection.
    pub(super) fn is_begun(&self) -> bool {
        self.0.try_lock().is_ok_and(|slot| slot.is_some())
    }

    /// Takes the transaction out, if there is one. Whoever is still about to make one
    /// after `limit` has not made it.
    pub(super) async fn take(&self, limit: Duration) -> Option<Arc<Shared>> {
        timeout(limit, self.0.lock()).await.ok()?.take()
    }

    /// The same without waiting.
    pub(super) fn try_take(&self) -> Option<Arc<Shared>> {
        self.0.try_lock().ok()?.take()
    }
}

/// Options of the invocation's transaction; await it to have it.
#[derive(Clone)]
#[must_use = "a transaction builder does nothing until it is awaited"]
pub struct TransactionBuilder {
    invocation: Invocation,
    isolation_level: Option<IsolationLevel>,
    read_only: Option<bool>,
    deferrable: Option<bool>,
}

impl TransactionBuilder {
    pub(super) fn new(invocation: Invocation) -> Self {
        TransactionBuilder {
            invocation,
            isolation_level: None,
            read_only: None,
            deferrable: None,
        }
    }

    /// Sets the isolation level. Default: the server's own.
    pub fn isolation_level(mut self, level: IsolationLevel) -> Self {
        self.isolation_level = Some(level);
        self
    }

    /// Whether the transaction may write. Default: the server's own.
    pub fn read_only(mut self, read_only: bool) -> Self {
        self.read_only = Some(read_only);
        self
    }

    /// Whether a serializable, read-only transaction waits until it can run without
    /// the risk of a serialization failure.
    pub fn deferrable(mut self, deferrable: bool) -> Self {
        self.deferrable = Some(deferrable);
        self
    }

    fn begin(&self) -> String {
        let level = self.isolation_level.map(|level| match level {
            IsolationLevel::ReadUncommitted => " ISOLATION LEVEL READ UNCOMMITTED",
            IsolationLevel::RepeatableRead => " ISOLATION LEVEL REPEATABLE READ",
            IsolationLevel::Serializable => " ISOLATION LEVEL SERIALIZABLE",
            _ => " ISOLATION LEVEL READ COMMITTED",
        });
        let access = self.read_only.map(|read_only| match read_only {
            true => " READ ONLY",
            false => " READ WRITE",
        });
        let deferrable = self.deferrable.map(|deferrable| match deferrable {
            true => " DEFERRABLE",
            false => " NOT DEFERRABLE",
        });
        let modes: Vec<_> = [level, access, deferrable].into_iter().flatten().collect();
        format!("BEGIN{}", modes.join(","))
    }

    pub(crate) async fn start(self, caller: Caller) -> Result<Transaction> {
        let begin = self.begin();
        let inner = &self.invocation.inner;
        let mut slot = inner.transaction.0.lock().await;
        inner.check_open()?;
        if let Some(shared) = &*slot {
            // Who asks for nothing in particular takes what there is.
            if begin != "BEGIN" && begin != shared.begin {
                return Err(Error::configuration(format!(
                    "{caller} asks for a transaction with `{begin}`, but this invocation's has \
                     been made with `{}`: agree on the options, or lease a connection and begin \
                     another",
                    shared.begin
                )));
            }
            return Ok(Transaction(Arc::clone(shared)));
        }
        let connection = inner.checkout(caller).await?;
        connection.session().wire().arm(&begin);
        let shared = Arc::new(Shared {
            connection,
            begin,
            savepoints: AtomicU64::new(0),
            cut_off: AtomicBool::new(false),
        });
        *slot = Some(Arc::clone(&shared));
        Ok(Transaction(shared))
    }
}

impl IntoFuture for TransactionBuilder {
    type Output = Result<Transaction>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    #[track_caller]
    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.start(Location::caller()))
    }
}

impl fmt::Debug for TransactionBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("TransactionBuilder")
            .field(&self.begin())
            .finish()
    }
}

/// The transaction of an invocation.
///
/// It derefs to [`tokio_postgres::Client`]: whatever is executed on it is part of the
/// transaction, which begins with the first statement at no cost of its own. Clones
/// are the same transaction. Dropping them decides nothing: the invocation commits
/// or rolls back when the response is known.
///
/// There is no `&mut Client` to be had from it, on purpose: a `transaction()` of
/// tokio-postgres inside would commit the whole. For a part that may fail there is
/// [`savepoint`](Transaction::savepoint).
#[derive(Clone)]
pub struct Transaction(Arc<Shared>);

impl Transaction {
    /// Sets a parameter until the end of the transaction, as row-level security
    /// policies read it with `current_setting(name)`.
    ///
    /// # Errors
    ///
    /// Those of the server.
    pub async fn local(&self, name: &str, value: &str) -> Result<(), tokio_postgres::Error> {
        use tokio_postgres::types::Type;
        self.execute_typed(SET_LOCAL, &[(&name, Type::TEXT), (&value, Type::TEXT)])
            .await?;
        Ok(())
    }

    /// Whether its connection has ended: see [`Connection::is_closed`].
    pub fn is_closed(&self) -> bool {
        self.0.connection.is_closed()
    }

    /// The server's process, as in `pg_stat_activity.pid`.
    pub fn process_id(&self) -> i32 {
        self.0.connection.process_id()
    }

    /// Begins a part that can be rolled back alone. Dropped, it is.
    ///
    /// # Errors
    ///
    /// Those of the server.
    pub async fn savepoint(&self) -> Result<Savepoint<'_>, tokio_postgres::Error> {
        let number = self.0.savepoints.fetch_add(1, Ordering::Relaxed);
        let mut savepoint = Savepoint {
            transaction: self,
            name: format!("antifreeze_{number}"),
            ended: true,
        };
        let begin = format!("SAVEPOINT {}", savepoint.name);
        self.batch_execute(&begin).await?;
        savepoint.ended = false;
        Ok(savepoint)
    }
}

impl Drop for Transaction {
    fn drop(&mut self) {
        if is_cut_off() {
            self.0.cut_off.store(true, Ordering::Release);
        }
    }
}

impl Deref for Transaction {
    type Target = Client;

    fn deref(&self) -> &Client {
        &self.0.connection
    }
}

impl AsRef<Connection> for Transaction {
    /// The connection that it runs on, for its cached statements and its status.
    fn as_ref(&self) -> &Connection {
        &self.0.connection
    }
}

impl fmt::Debug for Transaction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Transaction")
            .field("begin", &self.0.begin)
            .field("connection", &self.0.connection)
            .finish_non_exhaustive()
    }
}

/// A part of a [`Transaction`] that can be rolled back alone.
#[must_use = "a savepoint that is dropped is rolled back"]
pub struct Savepoint<'a> {
    transaction: &'a Transaction,
    name: String,
    ended: bool,
}

impl Savepoint<'_> {
    /// Keeps what was done since: it is part of the transaction from now on.
    ///
    /// # Errors
    ///
    /// Those of the server.
    pub async fn release(mut self) -> Result<(), tokio_postgres::Error> {
        let release = format!("RELEASE SAVEPOINT {}", self.name);
        self.transaction.batch_execute(&release).await?;
        self.ended = true;
        Ok(())
    }

    /// Undoes what was done since, errors included.
    ///
    /// # Errors
    ///
    /// Those of the server.
    pub async fn rollback(mut self) -> Result<(), tokio_postgres::Error> {
        self.ended = true;
        self.transaction.batch_execute(&self.undo()).await
    }

    fn undo(&self) -> String {
        format!("ROLLBACK TO SAVEPOINT {}", self.name)
    }
}

impl Deref for Savepoint<'_> {
    type Target = Client;

    fn deref(&self) -> &Client {
        self.transaction
    }
}

impl Drop for Savepoint<'_> {
    fn drop(&mut self) {
        if self.ended {
            return;
        }
        // A request of tokio-postgres is queued by the first poll of its future.
        let undo = self.undo();
        let mut queued = std::pin::pin!(self.transaction.batch_execute(&undo));
        let mut cx = Context::from_waker(Waker::noop());
        let _ = queued.as_mut().poll(&mut cx);
    }
}

impl fmt::Debug for Savepoint<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Savepoint").field(&self.name).finish()
    }
}

/// Why a transaction could not be committed.
pub(super) fn in_use() -> Error {
    Error::caused(
        ErrorKind::TransactionInUse,
        "the transaction was still in use when the handler returned, and was rolled back",
    )
}

pub(super) fn cut_off() -> Error {
    Error::caused(
        ErrorKind::TransactionInUse,
        "work that used the transaction was cut off before it was done, so the transaction was \
         rolled back",
    )
}

pub(super) fn failed() -> Error {
    Error::new(
        ErrorKind::TransactionFailed,
        "a statement of the transaction had failed, so it was rolled back instead of committed",
    )
    .with_remedy("see to that statement's error, or run what may fail inside a savepoint")
}

pub(super) fn lost() -> Error {
    Error::new(
        ErrorKind::Closed,
        "the connection was lost before COMMIT, so the server rolled the transaction back",
    )
    .with_remedy("run the whole transaction again: nothing of it was stored")
}

pub(super) fn unknown() -> Error {
    Error::caused(
        ErrorKind::CommitUnknown,
        "the connection was lost during COMMIT: whether the transaction was committed is not known",
    )
}
