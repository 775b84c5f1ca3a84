//! Leases connections for an invocation.

use std::panic::Location;
use std::pin::pin;
use std::sync::Arc;

use futures_util::future::{BoxFuture, Either, select};

use super::connection::Connection;
use super::scope::Scope;
use super::state::{Caller, Invocation};
use crate::error::{Error, Result};
use crate::observe::{Stamp, span};
use crate::pool::Permit;
use crate::tally::One;

impl Invocation {
    /// Leases an idle connection, or opens one.
    ///
    /// Each call returns another session. Dropping the connection gives it back; if it is not at
    /// rest then, the invocation keeps it until its end or until its next call of this function.
    ///
    /// If all `max_connections` are in use, it waits for one, at most `acquire_timeout`: also for
    /// those of this invocation, since another of its futures or tasks may be about to give one
    /// back.
    ///
    /// # Errors
    ///
    /// - [`InvocationEnded`](crate::ErrorKind::InvocationEnded): the response is on
    ///   its way.
    /// - [`PoolSelfDeadlock`](crate::ErrorKind::PoolSelfDeadlock): this invocation
    ///   has all of `max_connections` already, and none came back within
    ///   `acquire_timeout` (5 s). At once where none can come back: its
    ///   [transaction](Invocation::transaction) has the only one until the end.
    /// - [`AcquireTimeout`](crate::ErrorKind::AcquireTimeout): others did not give
    ///   one back in time.
    /// - those of connecting.
    #[track_caller]
    pub fn connection(&self) -> impl Future<Output = Result<Connection>> + Send + use<> {
        let invocation = self.clone();
        let caller: Caller = Location::caller();
        async move { invocation.lease(caller).await }
    }

    /// Leases an idle connection at once if that is possible. Everything else is boxed, so that
    /// the futures of handlers stay small.
    pub(crate) async fn lease(&self, caller: Caller) -> Result<Connection> {
        let connection = self.lease_for_driver(caller).await?;
        if connection.has_parameters() {
            connection.prepare_for_handler().await?;
        }
        Ok(connection)
    }

    /// [Leases](Invocation::lease) for another driver, whose parameters the session may have.
    pub(crate) async fn lease_for_driver(&self, caller: Caller) -> Result<Connection> {
        let leases = &self.inner.leases;
        if let Some(leased) = leases.try_lease(caller) {
            return Ok(self.connection_of(leased));
        }
        self.wait(caller).await
    }

    /// Waits for a connection. Boxed by a function that is not async: in the future of an async
    /// function all of this would be compiled again with each handler.
    fn wait(&self, caller: Caller) -> BoxFuture<'_, Result<Connection>> {
        let leases = &self.inner.leases;
        let span = span::checkout(&self.span(), &leases.engine.peer().pool);
        let begin = Stamp::now();
        Box::pin(async move {
            let leased = span::within(span, self.wait_for_lease(caller)).await?;
            leases.engine.pools().meters.waited_since(begin);
            Ok(leased)
        })
    }

    async fn wait_for_lease(&self, caller: Caller) -> Result<Connection> {
        let leases = &self.inner.leases;
        let mut checkout = Some(leases.begin()?);
        let leasing = async {
            let permit = match self.permit(caller, &mut checkout).await? {
                Either::Left(permit) => permit,
                Either::Right(connection) => return Ok(connection),
            };
            let granted = leases.deadline.whole();
            let leased = permit.checkout(leases.left(), granted, &leases.closing);
            let (lease, client) = leased.await?;
            let leased = leases.add(lease, client, caller, &mut checkout)?;
            Ok(self.connection_of(leased))
        };
        // A checkout must not outlive the invocation: the connection that it opens would stay
        // behind.
        match select(pin!(leasing), pin!(leases.closed())).await {
            Either::Left((connection, _)) => connection,
            Either::Right(((), _)) => Err(Error::invocation_ended()),
        }
    }

    /// Waits for a permit for another connection, or for an unused connection of this invocation.
    async fn permit(
        &self,
        caller: Caller,
        checkout: &mut Option<One>,
    ) -> Result<Either<Permit, Connection>> {
        let leases = &self.inner.leases;
        let pool = leases.engine.pools().here();
        let max = pool.max_connections();
        let mut permit = pin!(Arc::clone(&pool).permit(leases.left()));
        loop {
            let mut returned = pin!(leases.returned.notified());
            returned.as_mut().enable();
            if let Some(leased) = leases.recycle(caller, checkout).await? {
                span::checked_out("recycled");
                return Ok(Either::Right(self.connection_of(leased)));
            }
            if Scope::transactions(self, &pool) >= max {
                return Err(Error::pool_self_deadlock(max, caller));
            }
            match select(permit.as_mut(), returned).await {
                Either::Left((Ok(permit), _)) => return Ok(Either::Left(permit)),
                Either::Left((Err(error), _)) => {
                    let held = Scope::in_use(self, &pool);
                    return Err(if held >= max {
                        Error::pool_self_deadlock(held, caller)
                    } else {
                        error
                    });
                }
                Either::Right(_) => {}
            }
        }
    }
}
