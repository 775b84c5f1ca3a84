//! The end of an invocation: everything that it used is brought to rest.

use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::join_all;
use tokio::time::{Instant, timeout};
use tokio_postgres::error::Severity;

use super::tasks::cut_off;
use super::transaction::{self, Shared};
use super::{Hook, Inner, Invocation, Phase, Scope, State};
use crate::connection::{Home, Session};
use crate::error::{Error, Result};
use crate::net::Peek;
use crate::observe;
use crate::pool::{Lease, Place};
use crate::teardown::{Budget, Outcome, Teardown, at_rest, cancel_unheard, close, rest};
use crate::wire::TransactionStatus;

/// How long COMMIT may take where there is no deadline: twice the default
/// `statement_timeout`, which is what ends it if the server can be heard.
const COMMIT_LIMIT: Duration = Duration::from_secs(60);

/// What became of the invocation's transaction, if it had one. An error takes the
/// place of the response: what the handler thinks it stored is not there.
pub(crate) type Finished = Result<()>;

impl Invocation {
    /// Ends the invocation at once, if that needs no waiting: every connection is at
    /// rest already and stays open. Not one byte is sent for it.
    pub(crate) fn try_finish(&self) -> bool {
        let inner = &self.inner;
        if inner.transaction.is_some() {
            return false;
        }
        let mut state = inner.state();
        if !inner.tasks.is_empty()
            || !state.deferred.is_empty()
            || !state.after.is_empty()
            || state.asking > 0
            || !inner.leaving.is_empty()
        {
            return false;
        }
        let config = inner.database.settings();
        let mut clean = Vec::with_capacity(state.leases.len());
        for held in &state.leases {
            let Some(place) = held.lease.place() else {
                return false;
            };
            match at_rest(&held.lease.session, config) {
                Some(home) => clean.push((home, place)),
                None => return false,
            }
        }
        state.phase = Phase::Closed;
        let leases = std::mem::take(&mut state.leases);
        let guard = state.guard.take();
        drop(state);
        for (held, (home, place)) in leases.into_iter().zip(clean) {
            inner.report_clean(&held.lease.session);
            held.lease.keep(home, place);
        }
        drop(guard);
        true
    }

    /// Ends the invocation: tasks, clean-ups, transaction, connections, hooks.
    pub(crate) async fn finish(&self, success: bool) -> Finished {
        let finished = self.finish_transaction_after_tasks(success).await;
        self.rest(Which::All).await;
        let leaving = self.inner.leaving.none();
        let _ = timeout(self.inner.budget().step(), leaving).await;
        self.run(After, self.inner.budget().one_step()).await;
        self.inner.state().guard = None;
        finished
    }

    async fn finish_transaction_after_tasks(&self, success: bool) -> Finished {
        let inner = &self.inner;
        self.end_tasks().await;
        // However many there are, a COMMIT has its time.
        self.run(Deferred, inner.budget().before_a_step()).await;
        inner.close_gate();
        // What was started while the clean-ups ran.
        self.end_tasks().await;
        inner.asked(inner.budget().grace()).await;
        self.end_transaction(success).await
    }

    async fn end_tasks(&self) {
        let inner = &self.inner;
        inner.tasks.abort();
        if !inner.tasks.gone(inner.budget().grace()).await {
            observe::cleanup_failed(&inner.request_id, "task", "it does not yield");
        }
    }

    /// Ends what has to be decided before the head of a response whose body goes on
    /// reading.
    pub(crate) async fn finish_head(&self, success: bool) -> Finished {
        let finished = self.end_transaction(success).await;
        match finished {
            // There will be no such body.
            Err(_) => drop(self.finish(false).await),
            // The body has its own connections; those that are home hold locks for
            // nobody.
            Ok(()) => self.rest(Which::Home).await,
        }
        finished
    }

    /// Commits the invocation's transaction, or leaves it to be rolled back.
    async fn end_transaction(&self, success: bool) -> Finished {
        let limit = self.inner.budget().step();
        let Some(shared) = self.inner.transaction.take(limit).await else {
            return Ok(());
        };
        let failed = std::mem::replace(&mut self.inner.state().failed, true);
        if !success || failed {
            // Dropped here, it goes home, and teardown rolls it back.
            return Ok(());
        }
        match Arc::try_unwrap(shared) {
            Err(_) => Err(transaction::in_use()),
            Ok(shared) if shared.is_used() && shared.was_cut_off() => Err(transaction::cut_off()),
            Ok(shared) => commit(&shared, &self.inner.budget()).await,
        }
    }

    /// Brings those leases to rest, in parallel. Each stays with the invocation until
    /// it is, so that none is forgotten if this is dropped halfway.
    async fn rest(&self, which: Which) {
        let inner = &self.inner;
        let budget = inner.budget();
        let rests = inner.to_rest(which).into_iter().map(async |resting| {
            let Resting {
                number,
                session,
                home,
                place,
            } = resting;
            let (began, before) = (Instant::now(), session.wire().round_trips());
            let config = inner.database.settings();
            let room = &inner.database.pools().limits().room;
            let rested = rest(&session, home, place.is_some(), config, room, &budget).await;
            let round_trips = session.wire().round_trips() - before;
            let Some(lease) = inner.release(number) else {
                return;
            };
            let kept = rested.home.is_some();
            inner.report(&session, rested.outcome, kept, round_trips, began);
            if let (Some(home), Some(place)) = (rested.home, place) {
                lease.keep(home, place);
            }
        });
        join_all(rests).await;
    }

    /// Runs hooks one after the other, each guarded and within its time: a step, and all
    /// of them within the budget.
    async fn run(&self, hooks: impl Hooks, budget: Budget) {
        while let Some(hook) = hooks.next(&self.inner) {
            let limit = budget.last();
            let scope = Scope::around(self.clone());
            let mut hook = Box::pin(AssertUnwindSafe(scope.run(hook)).catch_unwind());
            let why = match limit.is_zero() {
                true => "no time was left",
                false => match timeout(limit, &mut hook).await {
                    Ok(Ok(())) => continue,
                    Ok(Err(_)) => "it panicked",
                    Err(_) => "it took too long",
                },
            };
            let _ = cut_off(|| catch_unwind(AssertUnwindSafe(|| drop(hook))));
            observe::cleanup_failed(&self.inner.request_id, hooks.name(), why);
        }
    }

    /// Whoever was to end the invocation is being dropped: what can be done without
    /// waiting is done, and the rest is left to a task that may not get to run.
    pub(crate) fn abandon(&self, say: fn(&str, usize)) {
        if self.try_finish() {
            return;
        }
        let inner = &self.inner;
        inner.close_gate();
        inner.tasks.abort();
        let mut state = inner.state();
        let leases = std::mem::take(&mut state.leases);
        let hooks = (
            std::mem::take(&mut state.deferred),
            std::mem::take(&mut state.after),
        );
        let guard = state.guard.take();
        drop(state);
        drop(hooks);
        let shared = inner.transaction.try_take();
        if leases.is_empty() {
            return;
        }
        say(&inner.request_id, leases.len());
        let closing: Vec<_> = leases
            .into_iter()
            .map(|held| (held.lease.session.end_at_once(), held))
            .collect();
        drop(shared);
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            let invocation = self.clone();
            runtime.spawn(async move {
                let budget = Budget::new(None, invocation.inner.database.pools().round_trip());
                let closes = closing.into_iter().map(async |(said, held)| {
                    let began = Instant::now();
                    let session = &held.lease.session;
                    let outcome = match said {
                        true => close(session, Outcome::default(), &budget).await.outcome,
                        false => cancel_unheard(session, &budget).await,
                    };
                    invocation.inner.report(session, outcome, false, 0, began);
                });
                join_all(closes).await;
                drop(guard);
            });
        }
    }
}

impl Inner {
    /// Takes those leases for resting. From here on nobody can lease them again, nor
    /// cancel anything by a number that was given out before.
    fn to_rest(&self, which: Which) -> Vec<Resting> {
        let mut state = self.state();
        let State {
            leases, next_lease, ..
        } = &mut *state;
        let mut resting = Vec::with_capacity(leases.len());
        for held in leases {
            let home = held.lease.session.home();
            if home.is_none() && which == Which::Home {
                continue;
            }
            // Whoever else is at it, for the invocation's time is over, meets the same number.
            if !std::mem::replace(&mut held.resting, true) {
                held.number = *next_lease;
                *next_lease += 1;
            }
            resting.push(Resting {
                number: held.number,
                session: Arc::clone(&held.lease.session),
                home,
                place: held.lease.place(),
            });
        }
        resting
    }

    fn release(&self, number: u64) -> Option<Lease> {
        let mut state = self.state();
        let at = state.leases.iter().position(|held| held.number == number)?;
        Some(state.leases.swap_remove(at).lease)
    }

    pub(super) fn report(
        &self,
        session: &Session,
        outcome: Outcome,
        kept: bool,
        round_trips: u64,
        began: Instant,
    ) {
        let teardown = Teardown {
            request_id: self.request_id.to_string(),
            process_id: session.process(),
            outcome,
            kept,
            round_trips,
            elapsed: began.elapsed(),
        };
        observe::torn_down(
            &teardown.request_id,
            teardown.process_id,
            &teardown.outcome,
            kept,
            round_trips,
            teardown.elapsed,
        );
        self.database.report(&teardown);
    }

    /// Nothing was to be done.
    pub(super) fn report_clean(&self, session: &Session) {
        self.report(session, Outcome::default(), true, 0, Instant::now());
    }
}

/// COMMIT, and the server's word that it did.
async fn commit(shared: &Shared, budget: &Budget) -> Finished {
    let session = shared.connection.session();
    let snapshot = match timeout(budget.grace(), session.settled()).await {
        Ok(snapshot) => snapshot,
        // A statement still runs whose caller gave up: what it would have done is
        // part of the transaction.
        Err(_) => {
            session.cancel(budget.step()).await;
            let settled = timeout(budget.step(), session.settled()).await;
            settled.map_err(|_| transaction::failed())?
        }
    };
    let fell = session.wire().disarm();
    // Nothing was asked of it: whatever its session is like, nothing can be lost.
    if !shared.is_used() {
        return Ok(());
    }
    // Before the runtime has heard of it, the kernel has.
    if snapshot.is_over() || session.peek() == Peek::Closed {
        return Err(transaction::lost());
    }
    if fell || !snapshot.is_quiet() {
        return Err(transaction::failed());
    }
    match snapshot.status {
        Some(TransactionStatus::InTransaction) => {}
        // It never began, or was ended by hand.
        Some(TransactionStatus::Idle) => return Ok(()),
        // COMMIT would return well and store nothing.
        _ => return Err(transaction::failed()),
    }
    let limit = budget.left().unwrap_or(COMMIT_LIMIT);
    let commit = shared.connection.batch_execute("COMMIT");
    match timeout(limit, commit).await.ok() {
        Some(Ok(())) if session.wire().committed() => Ok(()),
        Some(Ok(())) => Err(transaction::failed()),
        Some(Err(error)) if is_final(&error) => Err(Error::commit_refused(error)),
        Some(Err(error)) => Err(transaction::unknown().with_source(error)),
        None => Err(transaction::unknown()),
    }
}

/// Whether the server itself said that the commit failed. An error that ends the
/// session may come after the commit was made.
pub(super) fn is_final(error: &tokio_postgres::Error) -> bool {
    let severity = error
        .as_db_error()
        .and_then(|error| error.parsed_severity());
    severity == Some(Severity::Error)
}

/// Which leases are brought to rest.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Which {
    All,
    /// Those that nobody uses.
    Home,
}

/// A lease that is being brought to rest.
struct Resting {
    number: u64,
    session: Arc<Session>,
    /// Its client, if nobody uses it.
    home: Option<Home>,
    /// Where it is to be kept, if it is.
    place: Option<Place>,
}

/// Which hooks are run.
trait Hooks {
    fn next(&self, inner: &Inner) -> Option<Hook>;
    fn name(&self) -> &'static str;
}

/// The last one deferred first, as things are taken down in the reverse order of
/// their making.
struct Deferred;

impl Hooks for Deferred {
    fn next(&self, inner: &Inner) -> Option<Hook> {
        inner.state().deferred.pop()
    }

    fn name(&self) -> &'static str {
        "defer"
    }
}

/// In the order of their registration.
struct After;

impl Hooks for After {
    fn next(&self, inner: &Inner) -> Option<Hook> {
        let after = &mut inner.state().after;
        (!after.is_empty()).then(|| after.remove(0))
    }

    fn name(&self) -> &'static str {
        "after"
    }
}

/// Drops `future` without letting a panic of its destructors get away.
pub(super) fn drop_guarded<F: Future>(future: Pin<&mut Option<F>>) -> bool {
    let mut future = future;
    let dropped = catch_unwind(AssertUnwindSafe(|| future.set(None)));
    dropped.is_ok()
}
