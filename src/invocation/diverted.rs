//! Diverts the invocation's transaction to another driver, one request at a time.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::{Mutex, OwnedMutexGuard};
use tokio::time::timeout;

use super::builder::TransactionBuilder;
use super::commit;
use super::connection::CancelToken;
use super::state::Invocation;
use super::transaction::Transaction;
use crate::connection::{LastParameters, Parameters};
use crate::error::{Error, ErrorKind, Result};
use crate::tally::One;
use crate::wire::{Diverted, TransactionStatus};

/// How often the transaction is asked for while statements of the handler come in between.
const TRIES: usize = 16;

/// The invocation's transaction while another driver has it.
pub(crate) struct DivertedTransaction {
    transaction: Transaction,
    /// Other connections to the transaction wait for it.
    _turn: OwnedMutexGuard<LastParameters>,
    has_ended: HasEnded,
    /// Until it executes a statement.
    idle: Option<One>,
    // Dropped last: the end of the invocation waits until the transaction is not held here.
    _counted: One,
}

/// Whether the turn of a driver in the transaction has ended. Locked while the driver cancels.
pub(crate) type HasEnded = Arc<Mutex<bool>>;

impl Invocation {
    /// Lends the transaction, which begins with the first statement. Waits until nothing else uses
    /// it.
    pub(crate) async fn divert_transaction(
        &self,
        parameters: &Parameters,
    ) -> Result<(DivertedTransaction, Diverted)> {
        let slot = &self.inner.transaction;
        let (counted, idle) = (slot.turns.one(), slot.idle_turns.one());
        let builder = TransactionBuilder::of(Some(self.clone())).for_driver();
        let transaction = Box::pin(builder.start(&"another driver")).await?;
        let limit = transaction.0.patience();
        let turn = Arc::clone(&transaction.0.diverted).lock_owned();
        let turn = timeout(limit, turn).await;
        let mut turn = turn.map_err(|_| in_use(limit, "the rows of another one to be read"))?;
        if transaction.0.was_cut_off() {
            return Err(commit::cut_off());
        }
        for _ in 0..TRIES {
            if let Some(diverted) = transaction.try_divert(parameters, &mut turn).await? {
                let lent = DivertedTransaction {
                    transaction,
                    _turn: turn,
                    has_ended: HasEnded::default(),
                    idle: Some(idle),
                    _counted: counted,
                };
                return Ok((lent, diverted));
            }
        }
        Err(Error::lost())
    }
}

impl Transaction {
    /// Lends the transaction, once a statement of the handler is answered. `None`: another came
    /// in between.
    async fn try_divert(
        &self,
        parameters: &Parameters,
        last: &mut LastParameters,
    ) -> Result<Option<Diverted>> {
        let connection = self.connection();
        let session = connection.session();
        let limit = self.0.patience();
        let settled = timeout(limit, session.settled()).await;
        let settled = settled.map_err(|_| in_use(limit, "a statement of the handler to end"))?;
        let ends = session.wire.facts().ends;
        let prepared = match settled.status {
            Some(TransactionStatus::InTransaction) => {
                connection.prepare_inside(parameters, last).await
            }
            // It refuses everything but its end.
            Some(TransactionStatus::Failed) => Ok(()),
            _ => {
                let prepared = connection.prepare(parameters).await;
                if prepared.is_ok() {
                    *last = LastParameters::new(parameters, ends);
                }
                prepared
            }
        };
        match prepared {
            Err(error) if error.kind() != ErrorKind::Closed || session.is_over() => Err(error),
            Err(_) => Ok(None),
            Ok(()) => {
                let diverted = session.divert().await;
                let ended = session.wire.facts().ends != ends;
                if let Some(diverted) = diverted.as_ref().filter(|_| ended) {
                    // The handler has ended the transaction meanwhile.
                    diverted.give_back(true);
                    connection.wake();
                }
                Ok(diverted.filter(|_| !ended))
            }
        }
    }
}

fn in_use(after: Duration, what: &str) -> Error {
    Error::new(
        ErrorKind::TransactionInUse,
        format!("another driver waited {after:.1?} for {what}"),
    )
    .with_remedy("read the rows of a stream, or end a COPY, before another driver goes on")
}

impl DivertedTransaction {
    pub(crate) fn cancel_token(&self) -> CancelToken {
        self.transaction.0.connection.cancel_token()
    }

    pub(crate) fn has_ended(&self) -> HasEnded {
        Arc::clone(&self.has_ended)
    }

    /// Notes that the driver executes a statement.
    pub(crate) fn executes(&mut self) {
        self.idle = None;
    }

    /// Ends the driver's turn. A CancelRequest that is on its way is waited for: it would cancel
    /// what is executed next.
    pub(crate) async fn end_turn(&self) {
        *self.has_ended.lock().await = true;
    }

    /// Goes on after the driver has given the session back.
    pub(crate) fn give_back(self) {
        self.transaction.0.connection.wake();
    }

    /// Notes that the driver was cut off in the middle of the transaction.
    pub(crate) fn cut_off(self) {
        self.transaction.0.cut_off.store(true, Ordering::Release);
        // Else what uses it next would wait for a driver that is gone.
        self.transaction.0.connection.detach();
    }
}
