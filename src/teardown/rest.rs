//! Brings one connection to rest, step by step.
//!
//! Each step is taken only if the one before did not suffice, and each has a time limit. A
//! connection that cannot be brought to rest is closed.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::{OptionFuture, join};
use tokio::time::{Instant, timeout};

use super::budget::Budget;
use super::report::{Outcome, Step};
use crate::config::{Pooler, Reset};
use crate::connection::{ExclusiveClient, ServerSession};
use crate::limit::Room;
use crate::pool::{Lease, Reservation};
use crate::wire::{ClientState, ServerState, Snapshot, TransactionStatus};

/// The statements that remove session state. Not `DISCARD ALL`: it would deallocate, for good,
/// the prepared statements with which tokio-postgres looks types up.
const RESET: &str = "CLOSE ALL; SET SESSION AUTHORIZATION DEFAULT; RESET ALL; UNLISTEN *; \
                     SELECT pg_advisory_unlock_all(); DISCARD TEMP; DISCARD SEQUENCES";

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

impl Lease {
    /// Ends the turn of the holder if the connection is known, without waiting, to be at rest,
    /// and can be kept. Sends nothing.
    pub(crate) fn try_rest(&self) -> Option<(Rested, Reservation)> {
        let session = self.session();
        if !self.has_read() {
            session.try_pump()?;
            self.has_read().then_some(())?;
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
        self.session().link.wire.disarm();
        // Another driver may have given it back meanwhile.
        let client = client.or_else(|| self.session().exclusive_client());
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
            if self.has_read() || Box::pin(self.read(steps.budget.grace())).await {
                return client;
            }
        }
        // The old client is held until the connection is detached from it.
        if keep && steps.renew(client.is_none(), reset).await {
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

/// The steps of one teardown.
struct Steps<'a> {
    session: &'a ServerSession,
    budget: &'a Budget,
    outcome: Outcome,
    began: Instant,
    round_trips_before: u64,
    is_unclean: bool,
}

impl<'a> Steps<'a> {
    fn new(session: &'a ServerSession, budget: &'a Budget) -> Self {
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
    fn done(self, client: Option<ExclusiveClient>) -> Rested {
        Rested {
            outcome: self.outcome,
            client,
            round_trips: self.session.link.wire.round_trips() - self.round_trips_before,
            elapsed: self.began.elapsed(),
            is_unclean: self.is_unclean,
        }
    }

    /// Brings the session to rest. Returns false if it has to be closed.
    async fn clean(&mut self, keep: bool, reset: Reset, room: &Arc<Room>) -> bool {
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
    /// statements are gone. From another driver it returns to the client that it has. Returns
    /// false if the session has to be closed.
    async fn renew(&mut self, is_lent: bool, reset: Reset) -> bool {
        let session = self.session;
        let snapshot = session.pump();
        let is_known = !matches!(snapshot.server, ServerState::Lost | ServerState::Unsent);
        // Else it is the server that does not come to rest.
        let by_client = is_lent
            || snapshot.client == ClientState::Stalled
            || snapshot.server == ServerState::CopyingIn
            || snapshot.residue.driver;
        let direct = session.link.pooler == Pooler::None;
        if !direct || snapshot.is_over() || !is_known || !by_client {
            return false;
        }
        let wire = &session.link.wire;
        session.detach();
        let mut answered = pin!(wire.answered());
        let mut all = answered.as_mut().now_or_never();
        if all.is_none() {
            all = timeout(self.budget.patience(wire), answered.as_mut())
                .await
                .ok();
            if all.is_none() {
                all = self.cancel_until(answered).await;
            } else {
                self.outcome.did(Step::Settled);
            }
        }
        if all != Some(true) || session.is_being_cancelled() {
            return false;
        }
        let rolls_back = wire.snapshot().status != Some(TransactionStatus::Idle);
        // What another driver has used still has its client.
        let returns = wire.is_diverted() && !wire.snapshot().residue.driver;
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
        if resets || !returns {
            session.forget_parameters();
        }
        if resets {
            self.outcome.did(Step::Reset);
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
        let patience = self.budget.patience(&session.link.wire);
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
    async fn cancel(&mut self) -> bool {
        let cancelled = self.session.cancel(self.budget.step()).await;
        if cancelled && !self.outcome.has(Step::Cancelled) {
            self.outcome.did(Step::Cancelled);
        }
        cancelled
    }

    /// Closes the connection; cancels first if a statement runs.
    async fn close(&mut self) {
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
            all = timeout(budget.grace(), answered.as_mut()).await.ok();
        }
        if all.is_none() && !self.outcome.has(Step::Cancelled) {
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

/// What has to be done about the session state that was left.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Remedy {
    None,
    Reset,
    Close,
}

/// Decides how the session state that was left is removed.
pub(super) fn remedy(snapshot: &Snapshot, reset: Reset, pooler: Pooler) -> Remedy {
    if snapshot.residue.driver {
        return Remedy::Close;
    }
    let wanted = match reset {
        Reset::Always => true,
        Reset::Detected => snapshot.residue.state,
        Reset::Never => false,
    };
    match pooler {
        _ if !wanted => Remedy::None,
        // The statements might run on another server than the one that has the state.
        Pooler::Transaction => Remedy::None,
        // RDS Proxy pins the client to its server for as long as the client stays connected.
        Pooler::RdsProxy => Remedy::Close,
        Pooler::None | Pooler::Session => Remedy::Reset,
    }
}

pub(super) fn is_outside_transaction(snapshot: &Snapshot) -> bool {
    snapshot.is_quiet() && snapshot.status == Some(TransactionStatus::Idle)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::Residue;

    #[test]
    fn remedy_depends_on_the_pooler() {
        let snapshot = |state, driver| Snapshot {
            status: Some(TransactionStatus::Idle),
            server: ServerState::Answered,
            client: ClientState::Waiting,
            residue: Residue { state, driver },
        };
        let clean = snapshot(false, false);
        let dirty = snapshot(true, false);
        for (snapshot, reset, pooler, expected) in [
            (clean, Reset::Detected, Pooler::None, Remedy::None),
            (clean, Reset::Always, Pooler::None, Remedy::Reset),
            (dirty, Reset::Detected, Pooler::None, Remedy::Reset),
            (dirty, Reset::Never, Pooler::None, Remedy::None),
            (dirty, Reset::Detected, Pooler::Session, Remedy::Reset),
            (dirty, Reset::Detected, Pooler::RdsProxy, Remedy::Close),
            (dirty, Reset::Always, Pooler::Transaction, Remedy::None),
            (
                snapshot(false, true),
                Reset::Never,
                Pooler::None,
                Remedy::Close,
            ),
        ] {
            assert_eq!(remedy(&snapshot, reset, pooler), expected);
        }
    }
}
