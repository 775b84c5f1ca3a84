//! Builds the invocation's transaction from its options.

use std::fmt;
use std::future::{Future, IntoFuture};
use std::panic::Location;
use std::pin::Pin;
use std::sync::Arc;

pub use tokio_postgres::IsolationLevel;

use super::state::{Caller, Invocation};
use super::transaction::{Shared, Transaction};
use crate::error::{Error, Result};
use crate::observe::span;

impl Invocation {
    /// Returns the transaction of this invocation: every call returns the same one.
    ///
    /// It begins with its first statement, in the same round trip. It has no `commit`: the
    /// invocation commits before the response leaves if that is a success (2xx or 3xx, or `Ok`),
    /// and rolls back otherwise.
    ///
    /// ```no_run
    /// # async fn handler(name: &str) -> Result<(), Box<dyn std::error::Error>> {
    /// let transaction = antifreeze::invocation()?.transaction().await?;
    /// transaction.execute("insert into partners (name) values ($1)", &[&name]).await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn transaction(&self) -> TransactionBuilder {
        TransactionBuilder::of(Some(self.clone()))
    }
}

/// The modes of a BEGIN.
#[derive(Clone, Copy, Default)]
pub(super) struct Modes {
    pub(super) isolation_level: Option<IsolationLevel>,
    pub(super) read_only: Option<bool>,
    pub(super) deferrable: Option<bool>,
}

/// The setters of the modes, for several builders.
macro_rules! mode_setters {
    () => {
        /// Sets the isolation level. Default: the server's own.
        pub fn isolation_level(mut self, level: IsolationLevel) -> Self {
            self.modes.isolation_level = Some(level);
            self
        }

        /// Sets whether the transaction is read-only. Default: the server's own.
        pub fn read_only(mut self, read_only: bool) -> Self {
            self.modes.read_only = Some(read_only);
            self
        }

        /// Sets whether a serializable, read-only transaction waits until it can run without the
        /// risk of a serialization failure.
        pub fn deferrable(mut self, deferrable: bool) -> Self {
            self.modes.deferrable = Some(deferrable);
            self
        }
    };
}
pub(super) use mode_setters;

impl Modes {
    fn begin(self) -> String {
        let level = self.isolation_level.map(|level| match level {
            IsolationLevel::ReadUncommitted => " ISOLATION LEVEL READ UNCOMMITTED",
            IsolationLevel::RepeatableRead => " ISOLATION LEVEL REPEATABLE READ",
            IsolationLevel::Serializable => " ISOLATION LEVEL SERIALIZABLE",
            _ => " ISOLATION LEVEL READ COMMITTED",
        });
        let one_of = |option: Option<bool>, yes, no| option.map(|is| if is { yes } else { no });
        let access = one_of(self.read_only, " READ ONLY", " READ WRITE");
        let deferrable = one_of(self.deferrable, " DEFERRABLE", " NOT DEFERRABLE");
        let modes: Vec<_> = [level, access, deferrable].into_iter().flatten().collect();
        format!("BEGIN{}", modes.join(","))
    }
}

/// The options of the invocation's transaction; awaiting it returns the transaction.
#[derive(Clone)]
#[must_use = "a transaction builder does nothing until it is awaited"]
pub struct TransactionBuilder {
    /// `None`: called outside an invocation.
    invocation: Option<Invocation>,
    modes: Modes,
    /// Another driver begins it, whose parameters the session may have.
    for_driver: bool,
}

impl TransactionBuilder {
    pub(crate) fn of(invocation: Option<Invocation>) -> Self {
        TransactionBuilder {
            invocation,
            modes: Modes::default(),
            for_driver: false,
        }
    }

    pub(crate) fn for_driver(mut self) -> Self {
        self.for_driver = true;
        self
    }

    mode_setters!();

    pub(crate) async fn start(self, caller: Caller) -> Result<Transaction> {
        let begin = self.modes.begin();
        let invocation = self.invocation.ok_or_else(Error::not_in_invocation)?;
        let (leases, transaction) = (&invocation.inner.leases, &invocation.inner.transaction);
        let making = transaction.lock().await;
        leases.check_open()?;
        if let Some(shared) = transaction.made()? {
            // A caller that sets no options joins the invocation's transaction.
            if begin != "BEGIN" && begin != shared.begin {
                return Err(Error::configuration(format!(
                    "{caller} asks for a transaction with `{begin}`, but this invocation's has \
                     been made with `{}`: agree on the options, or lease a connection and begin \
                     another",
                    shared.begin
                )));
            }
            return Ok(Transaction(shared));
        }
        let connection = match self.for_driver {
            true => invocation.lease_for_driver(caller).await?,
            false => invocation.lease(caller).await?,
        };
        connection.session().wire.arm(&begin);
        let patience = leases.engine.settings().acquire_timeout;
        let span = span::transaction(&invocation.span(), leases.engine.peer());
        let shared = Arc::new(Shared::new(connection, begin, patience, span));
        transaction
            .make(&shared, &leases.engine.pools().here())
            .inspect_err(|error| span::failed(&shared.span, error))?;
        drop(making);
        // Checkouts that wait for this connection can go on.
        leases.returned.notify_waiters();
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
            .field(&self.modes.begin())
            .finish()
    }
}
