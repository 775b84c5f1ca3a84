//! The end of an invocation: everything that it used is brought to rest.

use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::join_all;
use tokio::time::{Instant, timeout};
use tokio_postgres::error::Severity;

use super::transaction::{self, Shared};
use super::{Held, Hook, Inner, Invocation, Phase, Scope};
use crate::connection::Session;
use crate::error::{Error, Result};
use crate::net::Peek;
use crate::observe;
use crate::pool::{Lease, Place};
use crate::teardown::{Budget, Outcome, Teardown, at_rest, close, rest};
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
        {
            return false;
        }
        let config = inner.database.config();
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
        self.rest(|_| true).await;
        self.run(After).await;
        self.inner.state().guard = None;
        finished
    }

    async fn finish_transaction_after_tasks(&self, success: bool) -> Finished {
        let inner = &self.inner;
        inner.tasks.abort();
        if !inner.tasks.gone(inner.budget().grace()).await {
            observe::cleanup_failed(&inner.request_id, "task", "it does not yield");
        }
        self.run(Deferred).await;
        inner.close_gate();
        // What was started while the clean-ups ran.
        inner.tasks.abort();
        inner.asked(inner.budget().grace()).await;
        self.end_transaction(success).await
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
            Ok(()) => self.rest(|session| session.home().is_some()).await,
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
        let in_use = Arc::strong_count(&shared) > 1;
        match success && !failed {
            // Dropped here, it goes home, and teardown rolls it back.
            false => Ok(()),
            true if in_use => Err(transaction::in_use()),
            true => commit(&shared, &self.inner.budget()).await,
        }
    }

    /// Brings those leases to rest, in parallel. Each stays with the invocation until
    /// it is, so that none is forgotten if this is dropped halfway.
    async fn rest(&self, which: impl Fn(&Session) -> bool) {
        let inner = &self.inner;
        let budget = inner.budget();
        let leases: Vec<_> = {
            let state = inner.state();
            let those = |held: &&Held| which(&held.lease.session);
            let lease = |held: &Held| (held.number, Arc::clone(&held.lease.session));
            state.leases.iter().filter(those).map(lease).collect()
        };
        let rests = leases.into_iter().map(async |(number, session)| {
            let (began, before) = (Instant::now(), session.wire().round_trips());
            let place = inner.place(number);
            let config = inner.database.config();
            let room = &inner.database.pools().limits().room;
            let home = session.home();
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

    /// Runs hooks one after the other, each within its time and guarded.
    async fn run(&self, which: impl Which) {
        loop {
            let Some(hook) = which.next(&self.inner) else {
                return;
            };
            let limit = self.inner.budget().step();
            let scope = Scope::around(self.clone());
            let hook = AssertUnwindSafe(scope.run(hook)).catch_unwind();
            let why = match timeout(limit, hook).await {
                Ok(Ok(())) => continue,
                Ok(Err(_)) => "it panicked",
                Err(_) => "it took too long",
            };
            observe::cleanup_failed(&self.inner.request_id, which.name(), why);
        }
    }

    /// Whoever was to end the invocation is being dropped: what can be done without
    /// waiting is done, and the rest is left to a task that may not get to run.
    pub(crate) fn abandon(&self, say: fn(&str, usize)) {
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
        for held in &leases {
            held.lease.session.abandon();
        }
        drop(shared);
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            let invocation = self.clone();
            runtime.spawn(async move {
                let budget = Budget::new(None, invocation.inner.database.pools().round_trip());
                let closes = leases.into_iter().map(async |held| {
                    let began = Instant::now();
                    let session = &held.lease.session;
                    let rested = close(session, Outcome::default(), &budget).await;
                    let inner = &invocation.inner;
                    inner.report(session, rested.outcome, false, 0, began);
                });
                join_all(closes).await;
                drop(guard);
            });
        }
    }
}

impl Inner {
    fn place(&self, number: u64) -> Option<Place> {
        let state = self.state();
        let held = state.leases.iter().find(|held| held.number == number)?;
        held.lease.place()
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

/// Which hooks are run.
trait Which {
    fn next(&self, inner: &Inner) -> Option<Hook>;
    fn name(&self) -> &'static str;
}

/// The last one deferred first, as things are taken down in the reverse order of
/// their making.
struct Deferred;

impl Which for Deferred {
    fn next(&self, inner: &Inner) -> Option<Hook> {
        inner.state().deferred.pop()
    }

    fn name(&self) -> &'static str {
        "defer"
    }
}

/// In the order of their registration.
struct After;

impl Which for After {
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
    let dropped = std::panic::catch_unwind(AssertUnwindSafe(|| future.set(None)));
    dropped.is_ok()
}
