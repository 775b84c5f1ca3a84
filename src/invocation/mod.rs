//! Invocations: one call of the function, and everything that it uses.

mod builder;
mod cached;
mod checkout;
mod commit;
mod connection;
mod diverted;
mod finish;
mod leases;
mod ledger;
mod list;
mod live;
mod rest;
mod retry;
mod run;
mod savepoint;
mod scope;
mod state;
mod stream;
mod tasks;
mod transaction;

pub use builder::{IsolationLevel, TransactionBuilder};
pub use connection::{CancelToken, Connection};
pub(crate) use diverted::{DivertedTransaction, HasEnded};
pub(crate) use finish::Ending;
pub(crate) use finish::Watch;
pub(crate) use live::{Attribution, Live, WeakInvocation};
pub use retry::{TransactionRetry, retry_transaction};
pub(crate) use run::{IsOk, Judge, Run};
pub use savepoint::Savepoint;
pub(crate) use scope::Scope;
pub use scope::{connection, invocation, transaction};
pub(crate) use state::Caller;
pub use state::Invocation;
pub use stream::StreamedBody;
pub use transaction::Transaction;

pub use crate::wire::TransactionStatus;
