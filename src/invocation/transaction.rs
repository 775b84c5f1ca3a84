//! The transaction of an invocation, which begins with its first statement and ends with the
//! invocation.

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::{Mutex, MutexGuard};
use tokio_postgres::Client;
use tracing::Span;

use super::connection::Connection;
use super::tasks::is_cut_off;
use crate::connection::LastParameters;
use crate::error::{Error, ErrorKind, Result};
use crate::lock;
use crate::pool::Pool;
use crate::tally::Tally;
use crate::wire::residue::SET_LOCAL;

/// Holds the transaction of an invocation.
#[derive(Default)]
pub(super) struct Slot {
    /// Locked by the caller that makes the transaction. The end does not wait for it: who is next
    /// to lock it may not run any more.
    making: Mutex<()>,
    made: lock::Mutex<Option<Arc<Shared>>>,
    /// The address of the pool whose connection it keeps; 0 while there is none.
    made_in: AtomicUsize,
    /// The end is decided: a transaction begun later could not be committed. Changes while `made`
    /// is locked.
    decided: AtomicBool,
    /// The turns of other drivers, those included that wait for theirs.
    pub(super) turns: Tally,
    /// Those that have executed nothing: a Close, a Sync.
    pub(super) idle_turns: Tally,
}

pub(super) struct Shared {
    pub(super) connection: Connection,
    pub(super) savepoints: Savepoints,
    pub(super) begin: String,
    /// The client was handed out, so a statement may have been sent.
    used: AtomicBool,
    /// Code that used it was dropped before its end.
    pub(super) cut_off: AtomicBool,
    /// Locked while another driver has the session.
    pub(super) diverted: Arc<Mutex<LastParameters>>,
    pub(super) span: Span,
}

/// The savepoints of one transaction.
pub(super) struct Savepoints {
    /// Locked by the outermost open savepoint.
    pub(super) open: Mutex<()>,
    /// How long the next one waits for the lock.
    pub(super) patience: Duration,
    pub(super) next: AtomicU64,
}

impl Slot {
    /// Waits for a caller that is about to make the transaction. The caller may make it, if there
    /// is none, while it holds the guard.
    pub(super) async fn lock(&self) -> MutexGuard<'_, ()> {
        self.making.lock().await
    }

    /// Returns the transaction, if there is one. Fails if the end is decided.
    pub(super) fn made(&self) -> Result<Option<Arc<Shared>>> {
        let made = self.made.lock();
        self.check_undecided()?;
        Ok(made.clone())
    }

    /// Stores the transaction, which has a connection of `pool`. Fails if the end is decided.
    pub(super) fn make(&self, shared: &Arc<Shared>, pool: &Arc<Pool>) -> Result<()> {
        let mut made = self.made.lock();
        self.check_undecided()?;
        *made = Some(Arc::clone(shared));
        self.made_in
            .store(Arc::as_ptr(pool).addr(), Ordering::Release);
        Ok(())
    }

    /// Returns whether there is a transaction.
    pub(super) fn is_some(&self) -> bool {
        self.made_in.load(Ordering::Acquire) != 0 && self.made.lock().is_some()
    }

    /// Returns whether there is an undecided transaction, which keeps its connection of `pool`.
    pub(super) fn is_made_in(&self, pool: &Arc<Pool>) -> bool {
        let made_here = self.made_in.load(Ordering::Acquire) == Arc::as_ptr(pool).addr();
        made_here && !self.decided.load(Ordering::Acquire)
    }

    /// Takes the transaction, if there is one, and refuses later ones.
    pub(super) fn take(&self) -> Option<Arc<Shared>> {
        let mut made = self.made.lock();
        self.decided.store(true, Ordering::Release);
        made.take()
    }

    fn check_undecided(&self) -> Result<()> {
        let undecided = !self.decided.load(Ordering::Acquire);
        undecided.then_some(()).ok_or_else(decided)
    }
}

impl Shared {
    pub(super) fn new(
        connection: Connection,
        begin: String,
        patience: Duration,
        span: Span,
    ) -> Self {
        Shared {
            connection,
            savepoints: Savepoints {
                open: Mutex::default(),
                patience,
                next: AtomicU64::new(0),
            },
            begin,
            used: AtomicBool::new(false),
            cut_off: AtomicBool::new(false),
            diverted: Arc::default(),
            span,
        }
    }

    /// Returns how long a caller waits for another one.
    pub(super) fn patience(&self) -> Duration {
        let patience = self.savepoints.patience;
        let left = self.connection.left();
        left.map_or(patience, |left| left.min(patience))
    }

    /// Code that used it was dropped before its end.
    pub(super) fn was_cut_off(&self) -> bool {
        self.cut_off.load(Ordering::Acquire)
    }

    /// Returns whether a statement may have been sent.
    pub(super) fn is_used(&self) -> bool {
        self.used.load(Ordering::Acquire)
    }

    /// Returns what its span says at its end, if it `ended` so.
    pub(super) fn outcome(&self, ended: &'static str) -> &'static str {
        if self.is_used() { ended } else { "not begun" }
    }
}

/// The transaction of an invocation.
///
/// It derefs to [`tokio_postgres::Client`]. BEGIN is sent together with the first statement, at no
/// extra round trip. Clones are the same transaction. Dropping them has no effect: the invocation
/// commits or rolls back when the response is known.
///
/// It does not give out `&mut Client`, since a nested `transaction()` of tokio-postgres would
/// commit the whole. For a part that may fail, use [`savepoint`](Transaction::savepoint).
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

    /// Returns the connection, and marks the transaction as used.
    pub(super) fn connection(&self) -> &Connection {
        self.0.used.store(true, Ordering::Release);
        &self.0.connection
    }

    /// Returns whether the connection has ended: see [`Connection::is_closed`].
    pub fn is_closed(&self) -> bool {
        self.0.connection.is_closed()
    }

    /// Returns the process id of the server's backend, as in `pg_stat_activity.pid`.
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
        self.connection()
    }
}

impl AsRef<Connection> for Transaction {
    /// Returns the connection, for cached statements and status.
    fn as_ref(&self) -> &Connection {
        self.connection()
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
