//! The steps, in order, for one connection.
//!
//! Each is taken only if the one before did not help, and each is bounded. What
//! cannot be brought to rest is closed.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;

use futures_util::FutureExt;
use futures_util::future::join;
use tokio::time::timeout;

use super::{Budget, Outcome, Step};
use crate::config::{Path, Reset, Settings};
use crate::connection::{Home, Session};
use crate::limit::Room;
use crate::wire::{Snapshot, TransactionStatus};

/// What removes session state. Not `DISCARD ALL`: it would deallocate the
/// statements that tokio-postgres looks types up with, for good.
const RESET: &str = "CLOSE ALL; SET SESSION AUTHORIZATION DEFAULT; RESET ALL; UNLISTEN *; \
                     SELECT pg_advisory_unlock_all(); DISCARD TEMP; DISCARD SEQUENCES";

/// How it ended.
pub(crate) struct Rested {
    pub(crate) outcome: Outcome,
    /// The client, if the connection can be kept.
    pub(crate) home: Option<Home>,
}

/// What is known without waiting: the client, if the connection is at rest already.
/// Not one byte is sent for it.
pub(crate) fn at_rest(session: &Session, config: &Settings) -> Option<Home> {
    let home = session.home()?;
    session.wire().disarm();
    let snapshot = session.try_pump()?;
    let clean = is_outside_transaction(&snapshot)
        && remedy(&snapshot, config.reset, session.path()) == Remedy::None
        && !session.is_being_cancelled();
    clean.then_some(home)
}

/// Brings a connection to rest, or closes it: if it is not to be kept, if it cannot
/// be brought to rest, or if its client is not at `home`, for then there is no telling
/// what somebody will do next.
pub(crate) async fn rest(
    session: &Session,
    home: Option<Home>,
    keep: bool,
    config: &Settings,
    room: &Arc<Room>,
    budget: &Budget,
) -> Rested {
    let mut outcome = Outcome::default();
    session.wire().disarm();
    let Some(home) = home else {
        return close(session, outcome, budget).await;
    };
    let Some(snapshot) = settle(session, &mut outcome, budget).await else {
        return close(session, outcome, budget).await;
    };
    let remedy = remedy(&snapshot, config.reset, session.path());
    // What was cancelled above, or before a COMMIT, may yet be hit.
    let keep = keep && !session.is_being_cancelled();
    if !keep || remedy == Remedy::Close {
        return close(session, outcome, budget).await;
    }
    let rolls_back = snapshot.status != Some(TransactionStatus::Idle);
    let resets = remedy == Remedy::Reset;
    let statements = match (rolls_back, resets) {
        (false, false) => {
            return Rested {
                outcome,
                home: Some(home),
            };
        }
        (true, false) => "ROLLBACK".to_owned(),
        (false, true) => format!("{RESET}{}", session.backstops_again()),
        (true, true) => format!("ROLLBACK; {RESET}{}", session.backstops_again()),
    };
    let work = async {
        // A round trip is being paid: the room on the server can be asked for under it.
        let reading = async {
            if let Some(reading) = room.ask_again(&home).await {
                reading.await;
            }
        };
        join(home.batch_execute(&statements), reading).await.0
    };
    let sent = timeout(budget.step(), work).await;
    let snapshot = session.pump();
    if !matches!(sent, Ok(Ok(()))) || !is_outside_transaction(&snapshot) {
        return close(session, outcome, budget).await;
    }
    if rolls_back {
        outcome.did(Step::RolledBack);
    }
    if resets {
        session.wire().forget_residue();
        outcome.did(Step::Reset);
    }
    Rested {
        outcome,
        home: Some(home),
    }
}

/// What has to be done before a pooler is told goodbye. It acknowledges that at once,
/// while its server goes on with its statement, and then knows no more what to cancel; and
/// it throws away a server that still has something to answer, be it the Close of a
/// statement.
///
/// Whoever has the connection can ask for nothing more from here on.
async fn leave(session: &Session, outcome: &mut Outcome, budget: &Budget) {
    session.take_away();
    let snapshot = session.wire().snapshot();
    let mut answered = pin!(session.answered());
    let mut all = answered.as_mut().now_or_never();
    if all.is_none() && snapshot.unsent {
        // A question of ours would have to wait for it, and with it the goodbye.
        if session.cancel(budget.step()).await {
            outcome.did(Step::Cancelled);
        }
        return;
    }
    // The end of a COPY is under way already.
    if all.is_none() && (snapshot.settled || snapshot.copying_in) {
        all = timeout(budget.grace(), answered.as_mut()).await.ok();
    }
    if all.is_none() && !outcome.steps().contains(&Step::Cancelled) {
        all = cancel_until(session, outcome, budget, answered).await;
    }
    if all != Some(true) || session.wire().snapshot().at_rest {
        return;
    }
    let asked = timeout(budget.step(), session.asked("ROLLBACK")).await;
    if asked == Ok(true) && session.wire().snapshot().at_rest {
        outcome.did(Step::RolledBack);
    }
}

/// Waits until nothing is under way, with a CancelRequest if it takes too long.
/// `None`: there is no more to be hoped for.
async fn settle(session: &Session, outcome: &mut Outcome, budget: &Budget) -> Option<Snapshot> {
    let snapshot = session.pump();
    if snapshot.is_quiet() {
        return Some(snapshot);
    }
    // Nobody will send the COPY data that the server waits for; and what is still to be
    // sent is for nobody.
    if snapshot.is_decided() || snapshot.copying_in || snapshot.unsent {
        return None;
    }
    if let Ok(snapshot) = timeout(budget.grace(), session.settled()).await {
        outcome.did(Step::Settled);
        return snapshot.is_quiet().then_some(snapshot);
    }
    // A stream whose rows nobody takes keeps the answer from being read, whether
    // the statement is cancelled or not.
    let snapshot = session.pump();
    if snapshot.is_quiet() || !snapshot.reads {
        return snapshot.is_quiet().then_some(snapshot);
    }
    let settled = cancel_until(session, outcome, budget, session.settled()).await;
    settled.filter(Snapshot::is_quiet)
}

/// Cancels what the server does until `done`, as long as a step may take.
///
/// One request is not always enough: it hits nothing if it overtakes its statement,
/// and of several statements that were sent together only the first.
async fn cancel_until<T>(
    session: &Session,
    outcome: &mut Outcome,
    budget: &Budget,
    done: impl Future<Output = T>,
) -> Option<T> {
    let mut done = pin!(done);
    let cancelling = async {
        loop {
            if !session.cancel(budget.step()).await {
                return None;
            }
            if !outcome.steps().contains(&Step::Cancelled) {
                outcome.did(Step::Cancelled);
            }
            if let Ok(done) = timeout(budget.grace(), done.as_mut()).await {
                return Some(done);
            }
        }
    };
    timeout(budget.step(), cancelling).await.ok()?
}

/// Closes the connection; cancels first if a statement runs.
pub(crate) async fn close(session: &Session, mut outcome: Outcome, budget: &Budget) -> Rested {
    let shut_down = ShutDown(session);
    let direct = session.path() == Path::Direct;
    let snapshot = match direct {
        true => session.pump(),
        false => {
            leave(session, &mut outcome, budget).await;
            session.wire().snapshot()
        }
    };
    // A COPY is ended by CopyFail, which goes out with the Terminate. A pooler has
    // been asked, and could not be asked again.
    let runs = direct && !snapshot.settled && !snapshot.gone && !snapshot.copying_in;
    // Freeze first: a task that still has the client could follow the cancelled
    // statement with another.
    session.end();
    let cancelled = outcome.steps().contains(&Step::Cancelled);
    let mut closed = None;
    if runs && !cancelled {
        let limit = budget.last();
        closed = cancel_until(session, &mut outcome, budget, session.closed(limit))
            .await
            .flatten();
    }
    if closed.is_none() {
        closed = session.closed(budget.last()).await;
    }
    drop(shut_down);
    let acknowledged = closed.unwrap_or(false);
    if runs && !acknowledged {
        // The statement would go on until the server notices that nobody is there.
        session.cancel_detached();
    }
    outcome.did(Step::Closed { acknowledged });
    Rested {
        outcome,
        home: None,
    }
}

/// Cancels what a session still computes whose socket is closed already.
pub(crate) async fn cancel_unheard(session: &Session, budget: &Budget) -> Outcome {
    let mut outcome = Outcome::default();
    if session.cancel(budget.step()).await {
        outcome.did(Step::Cancelled);
    }
    outcome.did(Step::Closed {
        acknowledged: false,
    });
    outcome
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
fn remedy(snapshot: &Snapshot, reset: Reset, path: Path) -> Remedy {
    if snapshot.residue.driver {
        return Remedy::Close;
    }
    let wanted = match reset {
        Reset::Always => true,
        Reset::Detected => snapshot.residue.state,
        Reset::Never => false,
    };
    match path {
        _ if !wanted => Remedy::None,
        // The statements would reach another server than the one that has the state.
        Path::TransactionPooler => Remedy::None,
        // It stays pinned to its server as long as the client stays.
        Path::RdsProxy => Remedy::Close,
        Path::Direct | Path::SessionPooler => Remedy::Reset,
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
    fn what_each_path_allows() {
        let snapshot = |state, driver| Snapshot {
            status: Some(TransactionStatus::Idle),
            settled: true,
            unsent: false,
            at_rest: true,
            flushed: true,
            reads: true,
            copying_in: false,
            lost: false,
            gone: false,
            ended: false,
            dismissed: false,
            residue: Residue { state, driver },
        };
        let clean = snapshot(false, false);
        let dirty = snapshot(true, false);
        for (snapshot, reset, path, expected) in [
            (clean, Reset::Detected, Path::Direct, Remedy::None),
            (clean, Reset::Always, Path::Direct, Remedy::Reset),
            (dirty, Reset::Detected, Path::Direct, Remedy::Reset),
            (dirty, Reset::Never, Path::Direct, Remedy::None),
            (dirty, Reset::Detected, Path::SessionPooler, Remedy::Reset),
            (dirty, Reset::Detected, Path::RdsProxy, Remedy::Close),
            (dirty, Reset::Always, Path::TransactionPooler, Remedy::None),
            (
                snapshot(false, true),
                Reset::Never,
                Path::Direct,
                Remedy::Close,
            ),
        ] {
            assert_eq!(remedy(&snapshot, reset, path), expected);
        }
    }
}
