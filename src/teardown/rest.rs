//! Brings a leased connection to rest. One that cannot be brought to rest is closed.

use std::time::Duration;

use super::budget::Budget;
use super::remedy::{Remedy, is_outside_transaction, remedy};
use super::report::{Outcome, Step};
use super::steps::{Rested, Steps};
use crate::connection::{ExclusiveClient, ServerSession};
use crate::pool::{Lease, Reservation};

impl Lease {
    /// Ends the turn of the holder if the connection is known, without waiting, to be at rest,
    /// and can be kept. Sends nothing.
    pub(crate) fn try_rest(&self) -> Option<(Rested, Reservation)> {
        let session = self.session();
        if !self.reading_is_done() {
            session.try_pump()?;
            self.reading_is_done().then_some(())?;
        }
        let reservation = self.reserve()?;
        let client = self.end_turn_if(|| {
            let client = session.exclusive_client()?;
            session.link.wire.disarm();
            let snapshot = client.session.try_pump()?;
            let clean = is_outside_transaction(&snapshot)
                && remedy(&snapshot, self.settings().reset, session.link.pooler) == Remedy::None
                && !session.is_being_cancelled();
            clean.then_some(client)
        })?;
        let rested = Rested {
            outcome: Outcome::default(),
            client: Some(client),
            round_trips: 0,
            elapsed: Duration::ZERO,
            is_unclean: false,
        };
        Some((rested, reservation))
    }

    /// Brings the connection to rest, or closes it: if it is not to be kept, or if it cannot be
    /// brought to rest. Without a `client`, which a task has, the session gets a new one.
    pub(crate) async fn rest(
        &self,
        client: Option<ExclusiveClient>,
        keep: bool,
        budget: &Budget,
    ) -> Rested {
        let mut steps = Steps::new(self.session(), budget);
        // Another driver may have given it back meanwhile.
        let client = client.or_else(|| self.session().exclusive_client());
        // With the client: who has it may arm.
        self.session().link.wire.disarm();
        let in_use = client.is_none() && !self.ends_for_driver();
        let left = !self.is_at_rest(&self.session().pump());
        let client = self.take_steps(&mut steps, client, keep).await;
        steps.is_unclean = in_use || left && self.removed(&steps.outcome, keep);
        steps.done(client)
    }

    /// Returns the client, if the connection can be kept.
    async fn take_steps(
        &self,
        steps: &mut Steps<'_>,
        client: Option<ExclusiveClient>,
        keep: bool,
    ) -> Option<ExclusiveClient> {
        let reset = self.settings().reset;
        let is_diverted = self.session().link.wire.is_diverted();
        if client.is_some() && !is_diverted && steps.clean(keep, reset, self.room()).await {
            // Boxed: rarely needed, and deep in the futures of every handler.
            if self.reading_is_done() || Box::pin(self.wait_for_reading(steps.budget.grace())).await
            {
                return client;
            }
        }
        // The old client is held until the connection is detached from it.
        if keep && steps.replace_client(client.is_none(), reset).await {
            let renewed = self.session().exclusive_client();
            if renewed.is_some() {
                return renewed;
            }
        }
        steps.close().await;
        None
    }

    /// Closes the connection after its session was [ended](ServerSession::end_at_once). If no
    /// Terminate could be sent, cancels what the server is executing. `left`: it was not at rest.
    pub(crate) async fn close_ended(
        &self,
        terminate_sent: bool,
        left: bool,
        budget: &Budget,
    ) -> Rested {
        let mut steps = Steps::new(self.session(), budget);
        steps.is_unclean = left;
        if terminate_sent {
            steps.close().await;
        } else {
            steps.cancel().await;
            steps.outcome.did(Step::Closed {
                acknowledged: false,
            });
        }
        Rested {
            round_trips: 0,
            ..steps.done(None)
        }
    }
}

/// Closes the connection; cancels first if a statement runs. Returns whether the server
/// confirmed the close.
pub(crate) async fn close(session: &ServerSession, budget: &Budget) -> bool {
    let mut steps = Steps::new(session, budget);
    steps.close().await;
    steps.outcome.closed() == Some(true)
}
