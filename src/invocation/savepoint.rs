//! Creates savepoints, which roll back a part of the invocation's transaction.

use std::fmt;
use std::future::Future;
use std::ops::Deref;
use std::sync::atomic::Ordering;
use std::task::{Context, Waker};
use std::time::Duration;

use tokio::sync::MutexGuard;
use tokio::time::timeout;
use tokio_postgres::Client;

use super::transaction::Transaction;
use crate::error::{Error, ErrorKind, Result};

/// A savepoint: a part of a [`Transaction`] that can be rolled back by itself.
///
/// The savepoints of a transaction form a stack on the server: rolling one back undoes everything
/// after it. So only one is open at a time, and other clones of the transaction wait for it;
/// nested savepoints are made from [itself](Savepoint::savepoint).
///
/// A plain statement on the transaction does not wait. While a savepoint is open, the statement is
/// part of it, and is undone with it: if parts of a handler run concurrently, put each into a
/// savepoint.
#[must_use = "a savepoint that is dropped is rolled back"]
pub struct Savepoint<'a> {
    transaction: &'a Transaction,
    name: String,
    /// It was released or rolled back.
    ended: bool,
    /// `None` in a nested savepoint.
    _open: Option<MutexGuard<'a, ()>>,
}

impl Transaction {
    /// Creates a savepoint. Dropping it rolls it back.
    ///
    /// Waits while another savepoint of the transaction is open, for `acquire_timeout` at most: a
    /// caller that holds one and asks for a second would wait for itself. [`Savepoint::savepoint`]
    /// creates a nested one.
    ///
    /// ```no_run
    /// # async fn handler() -> Result<(), antifreeze::Error> {
    /// let transaction = antifreeze::transaction().await?;
    /// let savepoint = transaction.savepoint().await?;
    /// match savepoint.execute("insert into partners (name) values ('us')", &[]).await {
    ///     Ok(_) => savepoint.release().await?,
    ///     Err(_) => savepoint.rollback().await?,
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// Those of the server, and [`TransactionInUse`](crate::ErrorKind::TransactionInUse) if
    /// another savepoint stayed open for too long.
    pub async fn savepoint(&self) -> Result<Savepoint<'_>> {
        let savepoints = &self.0.savepoints;
        let limit = self.0.patience();
        let open = timeout(limit, savepoints.open.lock()).await;
        let open = open.map_err(|_| still_open(limit))?;
        Savepoint::begin(self, Some(open)).await
    }
}

impl<'a> Savepoint<'a> {
    async fn begin(transaction: &'a Transaction, open: Option<MutexGuard<'a, ()>>) -> Result<Self> {
        let savepoints = &transaction.0.savepoints;
        let number = savepoints.next.fetch_add(1, Ordering::Relaxed);
        let mut savepoint = Savepoint {
            transaction,
            name: format!("antifreeze_{number}"),
            ended: true,
            _open: open,
        };
        let begin = format!("SAVEPOINT {}", savepoint.name);
        transaction.batch_execute(&begin).await?;
        savepoint.ended = false;
        Ok(savepoint)
    }

    /// Creates a nested savepoint. The outer one cannot be used until it has ended.
    ///
    /// # Errors
    ///
    /// Those of the server.
    pub async fn savepoint(&mut self) -> Result<Savepoint<'_>> {
        Savepoint::begin(self.transaction, None).await
    }

    /// Releases the savepoint: its changes become part of the transaction. If the server refuses,
    /// since a statement had failed, it is rolled back.
    ///
    /// # Errors
    ///
    /// Those of the server.
    pub async fn release(mut self) -> Result<()> {
        let release = format!("RELEASE SAVEPOINT {}", self.name);
        // The RELEASE is queued from here on, so that a drop has nothing to roll back to.
        self.ended = true;
        let released = self.transaction.batch_execute(&release).await;
        self.ended = released.is_ok();
        Ok(released?)
    }

    /// Rolls back to the savepoint, failed statements included.
    ///
    /// # Errors
    ///
    /// Those of the server.
    pub async fn rollback(mut self) -> Result<()> {
        self.ended = true;
        Ok(self.transaction.batch_execute(&self.undo()).await?)
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

fn still_open(after: Duration) -> Error {
    Error::new(
        ErrorKind::TransactionInUse,
        format!("waited {after:.1?} for another savepoint of the same transaction to end"),
    )
    .with_remedy(
        "release it or roll it back first, or make one inside it with `Savepoint::savepoint`",
    )
}
