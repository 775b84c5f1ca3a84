//! Diverts the invocation's transaction to another driver, one request at a time.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::sync::{Mutex, OwnedMutexGuard};

use super::builder::TransactionBuilder;
use super::commit;
use super::connection::CancelToken;
use super::state::Invocation;
use super::transaction::Transaction;
use crate::connection::Parameters;
use crate::error::{Error, ErrorKind, Result};
use crate::wire::Diverted;

/// The invocation's transaction while another driver has it.
pub(crate) struct DivertedTransaction {
    transaction: Transaction,
    /// Other connections to the transaction wait for it.
    _turn: OwnedMutexGuard<()>,
    has_ended: HasEnded,
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
        let builder = TransactionBuilder::of(Some(self.clone())).for_driver();
        let transaction = Box::pin(builder.start(&"another driver")).await?;
        let turn = Arc::clone(&transaction.0.diverted).lock_owned().await;
        if transaction.0.was_cut_off() {
            return Err(commit::cut_off());
        }
        let begun = transaction.0.is_used();
        let connection = transaction.connection();
        if begun {
            connection.prepare_inside(parameters).await?;
        } else {
            connection.prepare(parameters).await?;
        }
        let lost = || Error::caused(ErrorKind::Closed, "the connection was lost");
        let diverted = connection.session().divert().await.ok_or_else(lost)?;
        let lent = DivertedTransaction {
            transaction,
            _turn: turn,
            has_ended: HasEnded::default(),
        };
        Ok((lent, diverted))
    }
}

impl DivertedTransaction {
    pub(crate) fn cancel_token(&self) -> CancelToken {
        self.transaction.0.connection.cancel_token()
    }

    pub(crate) fn has_ended(&self) -> HasEnded {
        Arc::clone(&self.has_ended)
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
