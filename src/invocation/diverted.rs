//! Diverts the invocation's transaction to another driver, one request at a time.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::sync::OwnedMutexGuard;

use super::builder::TransactionBuilder;
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
}

impl Invocation {
    /// Lends the transaction, which begins with the first statement. Waits until nothing else uses
    /// it.
    pub(crate) async fn divert_transaction(
        &self,
        parameters: &Parameters,
    ) -> Result<(DivertedTransaction, Diverted)> {
        let builder = TransactionBuilder::of(Some(self.clone()));
        let transaction = Box::pin(builder.start(&"another driver")).await?;
        let turn = Arc::clone(&transaction.0.diverted).lock_owned().await;
        if !transaction.0.is_used() {
            transaction.0.connection.prepare(parameters).await?;
        }
        let connection = transaction.connection();
        let lost = || Error::caused(ErrorKind::Closed, "the connection was lost");
        loop {
            if let Some(diverted) = connection.session().wire.divert() {
                let _turn = turn;
                return Ok((DivertedTransaction { transaction, _turn }, diverted));
            }
            if connection.session().settled().await.is_over() {
                return Err(lost());
            }
        }
    }
}

impl DivertedTransaction {
    pub(crate) fn cancel_token(&self) -> CancelToken {
        self.transaction.0.connection.cancel_token()
    }

    /// Goes on after the driver has given the session back.
    pub(crate) fn give_back(self) {
        self.transaction.0.connection.wake();
    }

    /// Notes that the driver was cut off in the middle of the transaction.
    pub(crate) fn cut_off(self) {
        self.transaction.0.cut_off.store(true, Ordering::Release);
    }
}
