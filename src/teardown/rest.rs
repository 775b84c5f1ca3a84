//! The steps that bring one connection to rest, in order.
//!
//! Each is taken only if the one before did not help, and each is bounded. What
//! cannot be brought to rest is closed.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::join;
use tokio::time::{Instant, timeout};

use super::budget::Budget;
use super::report::{Outcome, Step};
use crate::config::{Pooler, Reset};
use crate::connection::{ExclusiveClient, Session};
use crate::limit::Room;
use crate::pool::{Lease, Reservation};
use crate::wire::{ClientState, ServerState, Snapshot, TransactionStatus};

/// What removes session state. Not `DISCARD ALL`: it would deallocate the
/// statements that tokio-postgres looks types up with, for good.
const RESET: &str = "CLOSE ALL; SET SESSION AUTHORIZATION DEFAULT; RESET ALL; UNLISTEN *; \
                     SELECT pg_advisory_unlock_all(); DISCARD TEMP; DISCARD SEQUENCES";

/// How a lease was brought to rest.
pub(crate) struct Rested {
    pub(crate) outcome: Outcome,
    /// The client, if the connection can be kept.
    pub(crate) client: Option<ExclusiveClient>,
    pub(crate) round_trips: u64,
    pub(crate) elapsed: Duration,
}

impl Lease {
    /// Ends the turn of its holder if the connection is at rest and can be kept, which is
    /// known without waiting. Not one byte is sent for it.
    pub(crate) fn try_rest(&self) -> Option<(Rested, Reservation)> {
        let reservation = self.reserve()?;
        let session = self.session();
        let client = self.end_turn_if(|| {
            let client = session.exclusive_client()?;
            session.wire().disarm();
            let snapshot = session.try_pump()?;
            let clean = is_outside_transaction(&snapshot)
                && remedy(&snapshot, self.settings().reset, session.pooler()) == Remedy::None
                && !session.is_being_cancelled();
            clean.then_some(client)
        })?;
        let rested = Rested {
            outcome: Outcome::default(),
            client: Some(client),
            round_trips: 0,
            elapsed: Duration::ZERO,
        };
        Some((rested, reservation))
    }

    /// Brings the connection to rest, or closes it: if it is not to be kept, if it cannot
    /// be brought to rest, or if its `client` is not at hand, for then there is no telling
    /// what its holder will do next.
    pub(crate) async fn rest(
        &self,
        client: Option<ExclusiveClient>,
        keep: bool,
        budget: &Budget,
    ) -> Rested {
        let mut steps = Steps::new(self.session(), budget);
        self.session().wire().disarm();
        let kept = match &client {
            Some(client) => {
                let reset = self.settings().reset;
                steps.clean(client, keep, reset, self.room()).await
            }
            None => false,
        };
        if !kept {
            steps.close().await;
        }
        steps.done(client.filter(|_| kept))
    }

    /// Closes the connection, once its session was [ended](Session::end_at_once): what that
    /// did not tell the server to end is cancelled.
    pub(crate) async fn close_ended(&self, said_goodbye: bool, budget: &Budget) -> Rested {
        let mut steps = Steps::new(self.session(), budget);
        if said_goodbye {
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

/// Closes the connection; cancels first if a statement runs. Whether the server confirmed it.
pub(crate) async fn close(session: &Session, budget: &Budget) -> bool {
    let mut steps = Steps::new(session, budget);
    steps.close().await;
    steps.outcome.closed() == Some(true)
}

/// The steps of one teardown.
struct Steps<'a> {
    session: &'a Session,
    budget: &'a Budget,
    outcome: Outcome,
    began: Instant,
    round_trips_before: u64,
}

impl<'a> Steps<'a> {
    fn new(session: &'a Session, budget: &'a Budget) -> Self {
        Steps {
            session,
            budget,
            outcome: Outcome::default(),
            began: Instant::now(),
            round_trips_before: session.wire().round_trips(),
        }
    }

    /// `client`: the connection can be kept.
    fn done(self, client: Option<ExclusiveClient>) -> Rested {
        Rested {
            outcome: self.outcome,
            client,
            round_trips: self.session.wire().round_trips() - self.round_trips_before,
            elapsed: self.began.elapsed(),
        }
    }

    /// Brings the session to rest. False if it has to be closed.
    async fn clean(
        &mut self,
        client: &ExclusiveClient,
        keep: bool,
        reset: Reset,
        room: &Arc<Room>,
    ) -> bool {
        let session = self.session;
        let Some(snapshot) = self.settle().await else {
            return false;
        };
        let remedy = remedy(&snapshot, reset, session.pooler());
        // What was cancelled above, or before a COMMIT, may yet be hit.
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
        let work = async {
            // A round trip is being paid: the room on the server can be asked for under it.
            let reading = async {
                if let Some(reading) = room.ask_again(client).await {
                    reading.await;
                }
            };
            join(client.batch_execute(&statements), reading).await.0
        };
        let sent = timeout(self.budget.step(), work).await;
        let snapshot = session.pump();
        if !matches!(sent, Ok(Ok(()))) || !is_outside_transaction(&snapshot) {
            return false;
        }
        if rolls_back {
            self.outcome.did(Step::RolledBack);
        }
        if resets {
            session.wire().forget_residue();
            self.outcome.did(Step::Reset);
        }
        true
    }

    /// Waits until nothing is under way, with a CancelRequest if it takes too long.
    /// `None`: there is no more to be hoped for.
    async fn settle(&mut self) -> Option<Snapshot> {
        let session = self.session;
        let snapshot = session.pump();
        if snapshot.is_quiet() {
            return Some(snapshot);
        }
        // Nobody will send the COPY data that the server waits for; and what is still to be
        // sent is for nobody.
        if snapshot.is_decided()
            || matches!(
                snapshot.server,
                ServerState::CopyingIn | ServerState::Unsent
            )
        {
            return None;
        }
        if let Ok(snapshot) = timeout(self.budget.grace(), session.settled()).await {
            self.outcome.did(Step::Settled);
            return snapshot.is_quiet().then_some(snapshot);
        }
        // A stream whose rows nobody takes keeps the answer from being read, whether
        // the statement is cancelled or not.
        let snapshot = session.pump();
        if snapshot.is_decided() || snapshot.client == ClientState::Stalled {
            return snapshot.is_quiet().then_some(snapshot);
        }
        let settled = self.cancel_until(session.settled()).await;
        settled.filter(Snapshot::is_quiet)
    }

    /// Cancels what the server does until `done`, as long as a step may take.
    ///
    /// One request is not always enough: it hits nothing if it overtakes its statement,
    /// and of several statements that were sent together only the first.
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

    /// Cancels what the server does. False if it cannot be asked.
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
        let direct = session.pooler() == Pooler::None;
        let snapshot = if direct {
            session.pump()
        } else {
            self.leave().await;
            session.wire().snapshot()
        };
        // A COPY is ended by CopyFail, which goes out with the Terminate. A pooler has
        // been asked, and could not be asked again.
        let runs = direct && snapshot.is_running();
        // Freeze first: a task that still has the client could follow the cancelled
        // statement with another.
        session.end();
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

    /// Does what has to be done before a pooler is told goodbye. It acknowledges that at
    /// once, while its server goes on with its statement, and then knows no more what to
    /// cancel; and it throws away a server that still has something to answer, be it the
    /// Close of a statement.
    ///
    /// The holder of the connection can ask for nothing more from here on.
    async fn leave(&mut self) {
        let (session, budget) = (self.session, self.budget);
        session.take_away();
        let snapshot = session.wire().snapshot();
        let mut answered = pin!(session.answered());
        let mut all = answered.as_mut().now_or_never();
        if all.is_none() && snapshot.server == ServerState::Unsent {
            // A question of ours would have to wait for it, and with it the goodbye.
            self.cancel().await;
            return;
        }
        // The end of a COPY is under way already.
        if all.is_none() && snapshot.is_settled() {
            all = timeout(budget.grace(), answered.as_mut()).await.ok();
        }
        if all.is_none() && !self.outcome.has(Step::Cancelled) {
            all = self.cancel_until(answered).await;
        }
        if all != Some(true) || session.wire().snapshot().is_at_rest() {
            return;
        }
        let asked = timeout(budget.step(), session.asked("ROLLBACK")).await;
        if asked == Ok(true) && session.wire().snapshot().is_at_rest() {
            self.outcome.did(Step::RolledBack);
        }
    }
}

/// Whatever happens, nothing more passes through the socket.
struct ShutDown<'a>(&'a Session);

impl Drop for ShutDown<'_> {
    fn drop(&mut self) {
        self.0.shut_down();
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Remedy {
    None,
    Reset,
    Close,
}

/// What the session state that was left calls for.
fn remedy(snapshot: &Snapshot, reset: Reset, pooler: Pooler) -> Remedy {
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
        // The statements would reach another server than the one that has the state.
        Pooler::Transaction => Remedy::None,
        // It stays pinned to its server as long as the client stays.
        Pooler::RdsProxy => Remedy::Close,
        Pooler::None | Pooler::Session => Remedy::Reset,
    }
}

fn is_outside_transaction(snapshot: &Snapshot) -> bool {
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
