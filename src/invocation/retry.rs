//! Retries transactions after serialization failures and deadlocks.

use std::fmt;
use std::panic::Location;
use std::time::Duration;

use tokio::time::sleep;

use super::builder::{IsolationLevel, Modes, mode_setters};
use super::commit::{commit, failed};
use super::connection::Connection;
use super::scope::invocation;
use super::state::Caller;
use crate::backoff::Backoff;
use crate::error::{Error, Result};
use crate::wire::TransactionStatus;

/// The default maximum number of attempts.
const ATTEMPTS: u32 = 5;

/// The ceiling of the first delay: about as long as a small transaction takes.
const FIRST: Duration = Duration::from_millis(10);

/// The ceiling of every delay.
const MOST: Duration = Duration::from_secs(1);

/// The SQLSTATEs after which the whole transaction has to be retried:
/// serialization failure and deadlock (manual, "Serialization Failure Handling"), and
/// Aurora DSQL's for conflicting changes of data and of the schema.
const GAVE_WAY: [&[u8]; 4] = [b"40001", b"40P01", b"OC000", b"OC001"];

/// Leases a connection for the current invocation, and runs `work` on it like
/// [`Connection::retry_transaction`].
///
/// # Errors
///
/// Those of [`connection`](super::connection) and of [`Connection::retry_transaction`].
#[track_caller]
pub fn retry_transaction<T, E, F>(work: F) -> impl Future<Output = Result<T, E>>
where
    F: AsyncFnMut(&tokio_postgres::Transaction<'_>) -> Result<T, E>,
    E: From<Error>,
{
    let caller: Caller = Location::caller();
    async move {
        let mut connection = invocation()?.lease(caller).await?;
        connection.retry_transaction(work).await
    }
}

impl Connection {
    /// Runs `work` in a transaction and commits it. After a serialization failure or a deadlock
    /// (SQLSTATE 40001, 40P01, Aurora DSQL's OC000 and OC001) it waits for a moment and retries
    /// the whole transaction, up to five attempts in all, and while the deadline leaves time to
    /// wait.
    ///
    /// Other errors are not retried: the transaction is rolled back, and the error is returned as
    /// it is. `work` may run several times, so do what is not part of the transaction (send a
    /// mail, count) afterwards.
    ///
    /// ```no_run
    /// # async fn handler(from: i32, to: i32) -> Result<(), antifreeze::Error> {
    /// let mut connection = antifreeze::connection().await?;
    /// let left: i64 = connection
    ///     .retry_transaction(async move |transaction| {
    ///         let take = "update accounts set cents = cents - 100 where id = $1 returning cents";
    ///         let give = "update accounts set cents = cents + 100 where id = $1";
    ///         let row = transaction.query_one(take, &[&from]).await?;
    ///         transaction.execute(give, &[&to]).await?;
    ///         Ok::<_, antifreeze::Error>(row.try_get(0)?)
    ///     })
    ///     .await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// Move what `work` uses into it (`async move`): the compiler cannot prove that the future of
    /// a borrowing closure is `Send`, which most hosts require.
    ///
    /// [`build_retry`](Connection::build_retry) has options. The [transaction of the
    /// invocation](super::Invocation::transaction) cannot be retried, since it is committed with
    /// the response.
    ///
    /// # Errors
    ///
    /// Those of `work`, BEGIN and COMMIT. If the connection is lost during COMMIT, the error is
    /// [`CommitUnknown`](crate::ErrorKind::CommitUnknown) and nothing is retried; if a statement
    /// had failed although `work` returned `Ok`, it is
    /// [`TransactionFailed`](crate::ErrorKind::TransactionFailed).
    pub async fn retry_transaction<T, E, F>(&mut self, work: F) -> Result<T, E>
    where
        F: AsyncFnMut(&tokio_postgres::Transaction<'_>) -> Result<T, E>,
        E: From<Error>,
    {
        self.build_retry().run(work).await
    }

    /// Prepares [`retry_transaction`](Connection::retry_transaction) with options.
    ///
    /// ```no_run
    /// # use antifreeze::invocation::IsolationLevel;
    /// # async fn handler() -> Result<(), antifreeze::Error> {
    /// let mut connection = antifreeze::connection().await?;
    /// connection
    ///     .build_retry()
    ///     .isolation_level(IsolationLevel::Serializable)
    ///     .attempts(10)
    ///     .run(async move |transaction| {
    ///         transaction.execute("select book_a_seat()", &[]).await?;
    ///         Ok::<_, antifreeze::Error>(())
    ///     })
    ///     .await
    /// # }
    /// ```
    pub fn build_retry(&mut self) -> TransactionRetry<'_> {
        TransactionRetry {
            connection: self,
            modes: Modes::default(),
            attempts: ATTEMPTS,
        }
    }
}

/// The options of a [retried transaction](Connection::retry_transaction).
#[must_use = "nothing is run until `run` is called"]
pub struct TransactionRetry<'a> {
    connection: &'a mut Connection,
    modes: Modes,
    attempts: u32,
}

/// The result of one attempt.
enum Attempt<T, E> {
    Done(Result<T, E>),
    GaveWay(E),
}

impl TransactionRetry<'_> {
    mode_setters!();

    /// Sets the maximum number of attempts, the first included. Default: 5; 0 counts as 1.
    pub fn attempts(mut self, attempts: u32) -> Self {
        self.attempts = attempts;
        self
    }

    /// Runs it.
    ///
    /// # Errors
    ///
    /// Those of [`Connection::retry_transaction`].
    pub async fn run<T, E, F>(mut self, mut work: F) -> Result<T, E>
    where
        F: AsyncFnMut(&tokio_postgres::Transaction<'_>) -> Result<T, E>,
        E: From<Error>,
    {
        let mut backoff = Backoff::new(FIRST, MOST);
        let mut attempt = 1;
        loop {
            let error = match self.once(&mut work).await {
                Attempt::Done(result) => return result,
                Attempt::GaveWay(error) => error,
            };
            let delay = backoff.next().unwrap_or(MOST);
            let left = self.connection.left();
            if attempt >= self.attempts || left.is_some_and(|left| left <= delay) {
                return Err(error);
            }
            attempt += 1;
            sleep(delay).await;
        }
    }

    async fn once<T, E, F>(&mut self, work: &mut F) -> Attempt<T, E>
    where
        F: AsyncFnMut(&tokio_postgres::Transaction<'_>) -> Result<T, E>,
        E: From<Error>,
    {
        let session = self.connection.session().clone();
        let mut begin = self.connection.build_transaction();
        if let Some(level) = self.modes.isolation_level {
            begin = begin.isolation_level(level);
        }
        if let Some(read_only) = self.modes.read_only {
            begin = begin.read_only(read_only);
        }
        if let Some(deferrable) = self.modes.deferrable {
            begin = begin.deferrable(deferrable);
        }
        let transaction = match begin.start().await {
            Ok(transaction) => transaction,
            Err(error) => return Attempt::Done(Err(Error::from(error).into())),
        };
        session.wire.forget_error();
        // The user's error may be of any type, so the SQLSTATE is taken from the wire. After a
        // rollback to a savepoint there is none.
        let gave_way = |status| {
            let code = session.wire.facts().error;
            status == Some(TransactionStatus::Failed)
                && code.is_some_and(|code| GAVE_WAY.contains(&&code[..]))
        };
        let error = match work(&transaction).await {
            Err(error) => error,
            Ok(value) => {
                let settled = session.settled().await;
                if settled.status == Some(TransactionStatus::Failed) {
                    // COMMIT would succeed and store nothing.
                    failed().into()
                } else {
                    let commit = commit(&session, &settled, false, transaction.commit());
                    return match commit.await {
                        Ok(()) => Attempt::Done(Ok(value)),
                        Err(error) if error.is_retryable() => Attempt::GaveWay(error.into()),
                        Err(error) => Attempt::Done(Err(error.into())),
                    };
                }
            }
        };
        let gave_way = gave_way(session.settled().await.status);
        match transaction.rollback().await {
            Ok(()) if gave_way => Attempt::GaveWay(error),
            _ => Attempt::Done(Err(error)),
        }
    }
}

impl fmt::Debug for TransactionRetry<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TransactionRetry")
            .field("attempts", &self.attempts)
            .finish_non_exhaustive()
    }
}
