//! Brings the connections of an invocation to rest.

use std::fmt::Display;
use std::sync::Arc;

use futures_util::future::{BoxFuture, join_all};
use tokio::time::timeout;
use tracing::Instrument;

use super::leases::Leases;
use super::list::remove;
use crate::connection::ExclusiveClient;
use crate::observe::span;
use crate::pool::Lease;
use crate::teardown::{Budget, Rested};

/// Selects the leases that are brought to rest.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Selection {
    All,
    /// Those whose connection was dropped.
    Unused,
}

impl Leases {
    /// Brings leases to rest, in parallel. Each stays with the invocation until it is at rest, so
    /// that none is lost if this future is dropped halfway.
    pub(super) async fn rest(&self, selection: Selection) {
        // If the invocation is abandoned meanwhile, what is almost at rest must not be taken.
        let _closing = self.closing.one();
        let budget = self.budget();
        let rests = self.take_turns(selection).into_iter();
        let rests = rests.map(async |(lease, client)| {
            lease.end_of_turns().await;
            lease.wait_while_reading(budget.step()).await;
            let reservation = lease.reserve();
            let keep = reservation.is_some();
            let rested = self.bring_to_rest(&lease, client, keep, &budget).await;
            // If it is not there any more, the invocation was abandoned.
            if remove(&mut self.state().leases, &lease) {
                self.give_back(lease, rested, reservation);
            }
        });
        join_all(rests).await;
    }

    /// Ends the turns of the selected leases: they cannot be leased again, and tokens given out
    /// before have no effect.
    fn take_turns(&self, selection: Selection) -> Vec<(Arc<Lease>, Option<ExclusiveClient>)> {
        let state = self.state();
        let taken = state.leases.iter().filter_map(|lease| {
            let client = lease.session().exclusive_client();
            if client.is_none() && selection == Selection::Unused {
                return None;
            }
            lease.next_turn();
            Some((Arc::clone(lease), client))
        });
        taken.collect()
    }

    /// Brings a connection to rest that another driver has left, however it has left it.
    pub(super) async fn rest_left(&self, lease: Arc<Lease>, turn: u64) {
        // The end of the invocation waits for it.
        let closing = {
            let mut state = self.state();
            if !lease.is_turn(turn) || !remove(&mut state.leases, &lease) {
                return;
            }
            lease.next_turn();
            state.left_by_drivers.push(Arc::clone(&lease));
            self.closing.one()
        };
        let reservation = lease.reserve();
        let (keep, budget) = (reservation.is_some(), self.budget());
        let rested = self.bring_to_rest(&lease, None, keep, &budget).await;
        // If it is not there any more, the invocation was abandoned.
        if remove(&mut self.state().left_by_drivers, &lease) {
            self.give_back(lease, rested, reservation);
        }
        drop(closing);
        self.returned.notify_waiters();
    }

    /// Waits for the connections that are being closed, or brought to rest, beside the teardown.
    /// Each may take a step to cancel, to read, to roll back and to be closed.
    pub(super) async fn wait_for_closing(&self) {
        for _ in 0..4 {
            let closing = timeout(self.budget().step(), self.closing.none());
            if closing.await.is_ok() {
                break;
            }
        }
    }

    /// Brings a connection to rest, or closes it, in a span of its own.
    pub(super) async fn bring_to_rest(
        &self,
        lease: &Lease,
        client: Option<ExclusiveClient>,
        keep: bool,
        budget: &Budget,
    ) -> Rested {
        let span = span::teardown(&self.span.get());
        let rest: BoxFuture<'_, _> =
            Box::pin(lease.rest(client, keep, budget).instrument(span.clone()));
        let rested = rest.await;
        let left_open_at = lease.caller().0.filter(|_| rested.is_unclean);
        let left_open_at = left_open_at.map(|caller| caller as &dyn Display);
        let kept = rested.client.is_some();
        span::torn_down(
            &span,
            &rested.outcome,
            kept,
            rested.round_trips,
            left_open_at,
        );
        rested
    }
}
