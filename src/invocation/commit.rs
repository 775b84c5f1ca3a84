//! Commits, and decides whether the server has committed.

use std::future::Future;
use std::time::Duration;

use tokio::time::timeout;
use tokio_postgres::error::Severity;

use super::transaction::Shared;
use crate::connection::ClientSession;
use crate::error::{Error, ErrorKind, Result};
use crate::net::Peek;
use crate::teardown::Budget;
use crate::wire::{Snapshot, TransactionStatus};

/// The time limit of COMMIT without a deadline: twice the default `statement_timeout`, which ends
/// it as long as the server is reachable.
const COMMIT_LIMIT: Duration = Duration::from_secs(60);

impl Shared {
    /// Commits the invocation's transaction.
    pub(super) async fn commit(&self, budget: &Budget) -> Result<()> {
        let session = self.connection.session();
        let snapshot = match timeout(budget.grace(), session.settled()).await {
            Ok(snapshot) => snapshot,
            // A statement still runs whose future was dropped: its changes would be part of the
            // transaction.
            Err(_) => {
                self.connection.cancel(budget.step()).await;
                let settled = timeout(budget.step(), session.settled()).await;
                settled.map_err(|_| failed())?
            }
        };
        let has_failed = session.wire.disarm();
        let limit = budget.left().unwrap_or(COMMIT_LIMIT);
        let send = self.connection.batch_execute("COMMIT");
        let commit = commit(session, &snapshot, has_failed, send);
        timeout(limit, commit)
            .await
            .unwrap_or_else(|_| Err(unknown()))
    }
}

/// Sends COMMIT by `send`, unless it could store nothing, and checks that the server committed.
/// `has_failed`: the wire has seen the transaction fail.
pub(super) async fn commit(
    session: &ClientSession,
    snapshot: &Snapshot,
    has_failed: bool,
    send: impl Future<Output = Result<(), tokio_postgres::Error>>,
) -> Result<()> {
    // It never began, or the handler ended it by hand.
    if snapshot.is_quiet() && !has_failed && snapshot.status == Some(TransactionStatus::Idle) {
        return Ok(());
    }
    // The kernel may know of a closed socket before the runtime does.
    if snapshot.is_over() || session.socket.peek() == Peek::Closed {
        return Err(lost());
    }
    if has_failed || !snapshot.is_quiet() {
        return Err(failed());
    }
    if snapshot.status != Some(TransactionStatus::InTransaction) {
        // COMMIT would succeed and store nothing.
        return Err(failed());
    }
    match send.await {
        Ok(()) if session.wire.facts().committed => Ok(()),
        // It was answered; but a teardown has taken the session since, and the answer is forgotten.
        Ok(()) if session.wire.snapshot().is_over() => Err(unknown()),
        Ok(()) => Err(failed()),
        Err(error) if is_final(&error) => Err(Error::commit_refused(error)),
        Err(error) => Err(unknown().with_source(error)),
    }
}

/// Returns whether the error proves that the server did not commit. An error that ends the session
/// may follow a commit; so may one of class 08, by which a pooler or the wire itself says that the
/// answer is lost, and 40003, `statement_completion_unknown`.
fn is_final(error: &tokio_postgres::Error) -> bool {
    error.as_db_error().is_some_and(|error| {
        let code = error.code().code();
        let is_unknown = code.starts_with("08") || code == "40003";
        error.parsed_severity() == Some(Severity::Error) && !is_unknown
    })
}

/// The transaction could not be committed since it is still in use.
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

fn lost() -> Error {
    Error::new(
        ErrorKind::Closed,
        "the connection was lost before COMMIT, so the server rolled the transaction back",
    )
    .with_remedy("run the whole transaction again: nothing of it was stored")
}

fn unknown() -> Error {
    Error::caused(
        ErrorKind::CommitUnknown,
        "the connection was lost during COMMIT: whether the transaction was committed is not known",
    )
}
