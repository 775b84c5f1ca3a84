//! The transaction of an invocation: begun with its first statement, ended by the
//! invocation.

use std::fmt;
use std::future::{Future, IntoFuture};
use std::ops::Deref;
use std::panic::Location;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::timeout;
use tokio_postgres::Client;
pub use tokio_postgres::IsolationLevel;

use super::savepoint::Savepoints;
use super::tasks::is_cut_off;
use super::{Caller, Connection, Invocation};
use crate::error::{Error, ErrorKind, Result};
use crate::wire::residue::SET_LOCAL;

/// Where an invocation keeps its transaction.
#[derive(Default)]
pub(super) struct Slot {
    transaction: Mutex<Option<Arc<Shared>>>,
    made: AtomicBool,
    /// What becomes of it is decided: none that is made later could be committed.
    decided: AtomicBool,
}

pub(super) struct Shared {
    pub(super) connection: Connection,
    pub(super) savepoints: Savepoints,
    begin: String,
    /// Somebody had its client.
    used: AtomicBool,
    /// Work that used it was not done.
    cut_off: AtomicBool,
}

impl Slot {
    /// There is one, or somebody is about to make it.
    pub(super) fn is_some(&self) -> bool {
        let slot = self.transaction.try_lock();
        slot.map_or(true, |slot| slot.is_some())
    }

    /// There is one. It keeps its connection until it is decided.
    pub(super) fn is_made(&self) -> bool {
        self.made.load(Ordering::Acquire) && !self.decided.load(Ordering::Acquire)
    }

    /// Takes the transaction out for good, if there is one. Whoever is still about to
    /// make one after `limit` has not made it.
    pub(super) async fn take(&self, limit: Duration) -> Option<Arc<Shared>> {
        self.decided.store(true, Ordering::Release);
        timeout(limit, self.transaction.lock()).await.ok()?.take()
    }

    /// The same without waiting.
    pub(super) fn try_take(&self) -> Option<Arc<Shared>> {
        self.decided.store(true, Ordering::Release);
        self.transaction.try_lock().ok()?.take()
    }

    fn check_undecided(&self) -> Result<()> {
        match self.decided.load(Ordering::Acquire) {
            true => Err(decided()),
            false => Ok(()),
        }
    }
}

impl Shared {
    /// Work that used it was not done.
    pub(super) fn was_cut_off(&self) -> bool {
        self.cut_off.load(Ordering::Acquire)
    }

    /// Something may have been asked of it.
    pub(super) fn is_used(&self) -> bool {
        self.used.load(Ordering::Acquire)
    }

    fn client(&self) -> &Connection {
        self.used.store(true, Ordering::Release);
        &self.connection
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
        let mut slot = inner.transaction.transaction.lock().await;
        inner.check_open()?;
        inner.transaction.check_undecided()?;
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
        inner.transaction.check_undecided()?;
        connection.session().wire().arm(&begin);
        let shared = Arc::new(Shared {
            connection,
            savepoints: Savepoints::new(inner.database.settings().acquire_timeout),
            begin,
            used: AtomicBool::new(false),
            cut_off: AtomicBool::new(false),
        });
        *slot = Some(Arc::clone(&shared));
        inner.transaction.made.store(true, Ordering::Release);
        drop(slot);
        // Who waits for this connection need not wait any more.
        inner.returned.notify_waiters();
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
pub struct Transaction(pub(super) Arc<Shared>);

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
        self.0.client()
    }
}

impl AsRef<Connection> for Transaction {
    /// The connection that it runs on, for its cached statements and its status.
    fn as_ref(&self) -> &Connection {
        self.0.client()
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

fn decided() -> Error {
    Error::new(
        ErrorKind::InvocationEnded,
        "the invocation's transaction was asked for after the head of the response was decided, \
         when it can no longer be committed",
    )
    .with_remedy(
        "use it before the handler returns; a streamed body leases a connection and commits a \
         transaction of its own",
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
