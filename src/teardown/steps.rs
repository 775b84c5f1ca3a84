//! The steps that bring one session to rest.
//!
//! Each step is taken only if the one before did not suffice, and each has a time limit.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::{OptionFuture, join};
use tokio::time::{Instant, timeout};

use super::budget::Budget;
use super::remedy::{Remedy, is_outside_transaction, remedy};
use super::report::{Outcome, Step};
use crate::config::{Pooler, Reset};
use crate::connection::{ExclusiveClient, ServerSession};
use crate::limit::Room;
use crate::wire::{ClientState, Residue, ServerState, Snapshot, TransactionStatus};

/// The statements that remove session state. Not `DISCARD ALL`: it would deallocate, for good,
/// the prepared statements with which tokio-postgres looks types up.
/// RESET ROLE: to that of ALTER ROLE .. SET role, which servers of before November 2024 lose with
/// the session authorization.
const RESET: &str = "CLOSE ALL; SET SESSION AUTHORIZATION DEFAULT; RESET ROLE; RESET ALL; \
                     UNLISTEN *; SELECT pg_advisory_unlock_all(); DISCARD TEMP; DISCARD SEQUENCES";

/// The result of bringing a lease to rest.
pub(crate) struct Rested {
    pub(crate) outcome: Outcome,
    /// The client, if the connection can be kept.
    pub(crate) client: Option<ExclusiveClient>,
    pub(crate) round_trips: u64,
    pub(crate) elapsed: Duration,
    /// Something was left open, or in use.
    pub(crate) is_unclean: bool,
}

/// The steps of one teardown.
pub(super) struct Steps<'a> {
    session: &'a ServerSession,
    pub(super) budget: &'a Budget,
    pub(super) outcome: Outcome,
    began: Instant,
    round_trips_before: u64,
    pub(super) is_unclean: bool,
}

impl<'a> Steps<'a> {
    pub(super) fn new(session: &'a ServerSession, budget: &'a Budget) -> Self {
        Steps {
            session,
            budget,
            outcome: Outcome::default(),
            began: Instant::now(),
            round_trips_before: session.link.wire.round_trips(),
            is_unclean: false,
        }
    }

    /// Ends the teardown. With a `client` the connection can be kept.
    pub(super) fn done(self, client: Option<ExclusiveClient>) -> Rested {
        Rested {
            outcome: self.outcome,
            client,
            round_trips: self.session.link.wire.round_trips() - self.round_trips_before,
            elapsed: self.began.elapsed(),
            is_unclean: self.is_unclean,
        }
    }

    /// Brings the session to rest. Returns false if it has to be closed.
    pub(super) async fn clean(&mut self, keep: bool, reset: Reset, room: &Arc<Room>) -> bool {
        let session = self.session;
        let Some(snapshot) = self.settle().await else {
            return false;
        };
        let remedy = remedy(&snapshot, reset, session.link.pooler);
        // A CancelRequest sent above, or before a COMMIT, may still arrive.
        if !keep || session.is_being_cancelled() || remedy == Remedy::Close {
            return false;
        }
        let rolls_back = snapshot.status != Some(TransactionStatus::Idle);
        let resets = remedy == Remedy::Reset;
        let statements = match (rolls_back, resets) {
            (false, false) => return true,
            (true, false) => "ROLLBACK".to_owned(),
            (false, true) => format!("{RESET}{}", session.server_timeouts_again()),
            (true, true) => format!("ROLLBACK; {RESET}{}", session.server_timeouts_again()),
        };
        let Some(answer) = session.ask(&statements, true) else {
            return false;
        };
        // The slots of the server can be read during the same round trip.
        let reading = OptionFuture::from(room.ask_again(session));
        session.pump();
        let answers = join(answer, reading);
        let Ok((Some(answer), _)) = timeout(self.budget.step(), answers).await else {
            return false;
        };
        if answer.error.is_some() || !is_outside_transaction(&session.pump()) {
            return false;
        }
        if rolls_back {
            self.outcome.did(Step::RolledBack);
        }
        if resets {
            session.link.wire.forget_residue();
            session.forget_parameters();
            self.outcome.did(Step::Reset);
        }
        true
    }

    /// Brings the session to rest without its client, and gives it a new one: if a task has the
    /// client (`is_lent`), if it waits until a task takes its rows or sends data, or if its
    /// statements are gone. If another driver has the session, it goes back to its parked client.
    /// Returns false if the session has to be closed.
    pub(super) async fn replace_client(&mut self, is_lent: bool, reset: Reset) -> bool {
        let session = self.session;
        let snapshot = session.pump();
        let is_known = !matches!(snapshot.server, ServerState::Lost | ServerState::Unsent);
        // Else it is the server that does not come to rest.
        let by_client = is_lent
            || snapshot.client == ClientState::Stalled
            || snapshot.server == ServerState::CopyingIn
            || snapshot.residue == Residue::Client;
        let direct = session.link.pooler == Pooler::None;
        if !direct || snapshot.is_over() || !is_known || !by_client {
            return false;
        }
        let wire = &session.link.wire;
        session.detach();
        let mut answered = pin!(wire.answered());
        let mut all = answered.as_mut().now_or_never();
        if all.is_none() {
            let limit = self.budget.patience(wire);
            all = timeout(limit, answered.as_mut()).await.ok();
            if all.is_some() {
                self.outcome.did(Step::Settled);
            } else if !wire.snapshot().is_settled() {
                all = self.cancel_until(answered).await;
            }
        }
        if all != Some(true) || session.is_being_cancelled() {
            return false;
        }
        let rolls_back = wire.snapshot().status != Some(TransactionStatus::Idle);
        // What another driver has used still has its client.
        let returns = wire.is_diverted() && wire.snapshot().residue != Residue::Client;
        let resets = match returns {
            true => remedy(&wire.snapshot(), reset, session.link.pooler) == Remedy::Reset,
            false => reset != Reset::Never,
        };
        let mut statements = Vec::new();
        statements.extend(rolls_back.then_some("ROLLBACK"));
        statements.extend(resets.then_some(RESET));
        // The statements of the old client are of no use to a new one.
        statements.extend((!returns).then_some("DEALLOCATE ALL"));
        let mut statements = statements.join("; ");
        if resets {
            statements.push_str(&session.server_timeouts_again());
        }
        if !statements.is_empty() {
            wire.forget_error();
            let asked = timeout(self.budget.step(), wire.asked(&statements)).await;
            if asked != Ok(true) || wire.facts().error.is_some() {
                return false;
            }
        }
        if rolls_back {
            self.outcome.did(Step::RolledBack);
        }
        if resets {
            session.forget_parameters();
            self.outcome.did(Step::Reset);
        } else if !returns {
            session.doubt_parameters();
        }
        wire.forget_residue();
        if returns {
            session.restore()
        } else {
            session.renew()
        }
    }

    /// Waits until no statement is under way, and sends a CancelRequest if that takes too long.
    /// `None`: the session cannot come to rest.
    async fn settle(&mut self) -> Option<Snapshot> {
        let session = self.session;
        let snapshot = session.pump();
        if snapshot.is_quiet() {
            return Some(snapshot);
        }
        // No client will send the COPY data that the server waits for, and no caller needs
        // the answer to what is still unsent.
        if snapshot.is_decided()
            || matches!(
                snapshot.server,
                ServerState::CopyingIn | ServerState::Unsent
            )
        {
            return None;
        }
        // Whether the holder takes its rows does not depend on the server.
        let patience = match snapshot.client {
            ClientState::Stalled => self.budget.grace(),
            _ => self.budget.patience(&session.link.wire),
        };
        if let Ok(snapshot) = timeout(patience, session.settled()).await {
            self.outcome.did(Step::Settled);
            return snapshot.is_quiet().then_some(snapshot);
        }
        // While the holder of a stream does not take its rows, the answer cannot be read,
        // whether the statement is cancelled or not.
        let snapshot = session.pump();
        if snapshot.is_decided() || snapshot.client == ClientState::Stalled {
            return snapshot.is_quiet().then_some(snapshot);
        }
        let settled = self.cancel_until(session.settled()).await;
        settled.filter(Snapshot::is_quiet)
    }

    /// Sends CancelRequests until `done`, for the time of one step.
    ///
    /// One request is not always enough: it has no effect if it arrives before its statement,
    /// and of several statements that were sent together it cancels only the first.
    async fn cancel_until<T>(&mut self, done: impl Future<Output = T>) -> Option<T> {
        let mut done = pin!(done);
        let budget = self.budget;
        let cancelling = async {
            loop {
                if !self.cancel().await {
                    return None;
                }
                if let Ok(done) = timeout(budget.grace(), done.as_mut()).await {
                    return Some(done);
                }
            }
        };
        timeout(budget.step(), cancelling).await.ok()?
    }

    /// Sends a CancelRequest. Returns false if it could not be sent.
    pub(super) async fn cancel(&mut self) -> bool {
        let cancelled = self.session.cancel(self.budget.step()).await;
        if cancelled && !self.outcome.has(Step::Cancelled) {
            self.outcome.did(Step::Cancelled);
        }
        cancelled
    }

    /// Closes the connection; cancels first if a statement runs.
    pub(super) async fn close(&mut self) {
        let (session, budget) = (self.session, self.budget);
        let shut_down = ShutDown(session);
        let direct = session.link.pooler == Pooler::None;
        let snapshot = if direct {
            session.pump()
        } else {
            self.detach_from_pooler().await;
            session.link.wire.snapshot()
        };
        // CopyFail ends a COPY, and is sent with the Terminate. To a pooler `detach_from_pooler`
        // has sent the CancelRequest; after the Terminate it would have no effect.
        let runs = direct && snapshot.is_running();
        // End the session first: a task that still has the client could send another
        // statement behind the cancelled one.
        session.terminate();
        let mut closed = None;
        if runs && !self.outcome.has(Step::Cancelled) {
            let limit = budget.last();
            closed = self.cancel_until(session.closed(limit)).await.flatten();
        }
        if closed.is_none() {
            closed = session.closed(budget.last()).await;
        }
        drop(shut_down);
        let acknowledged = closed.unwrap_or(false);
        if runs && !acknowledged {
            // The statement would go on until the server notices that the client is gone.
            session.cancel_detached();
        }
        self.outcome.did(Step::Closed { acknowledged });
    }

    /// Brings the server behind a pooler to rest, before the Terminate. The pooler closes the
    /// client's connection at once while its server continues with the statement, and can then
    /// no longer cancel it; and it discards a server connection that still owes an answer, even
    /// to the Close of a statement.
    ///
    /// From here on the holder of the connection can send nothing more.
    async fn detach_from_pooler(&mut self) {
        let (session, budget) = (self.session, self.budget);
        session.detach();
        let snapshot = session.link.wire.snapshot();
        let mut answered = pin!(session.link.wire.answered());
        let mut all = answered.as_mut().now_or_never();
        if all.is_none() && snapshot.server == ServerState::Unsent {
            // A ROLLBACK, and with it the Terminate, would have to wait behind it.
            self.cancel().await;
            return;
        }
        // The end of a COPY has already been sent.
        if all.is_none() && snapshot.is_settled() {
            all = timeout(budget.step(), answered).await.ok();
        } else if all.is_none() && !self.outcome.has(Step::Cancelled) {
            all = self.cancel_until(answered).await;
        }
        if all != Some(true) || session.link.wire.snapshot().is_at_rest() {
            return;
        }
        let asked = timeout(budget.step(), session.link.wire.asked("ROLLBACK")).await;
        if asked == Ok(true) && session.link.wire.snapshot().is_at_rest() {
            self.outcome.did(Step::RolledBack);
        }
    }
}

/// Shuts the socket down when dropped, so that nothing more is sent whatever happens.
struct ShutDown<'a>(&'a ServerSession);

impl Drop for ShutDown<'_> {
    fn drop(&mut self) {
        self.0.link.wire.shut_down();
    }
}
