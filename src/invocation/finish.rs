//! The end of an invocation: everything that it used is brought to rest.

use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;

use futures_util::FutureExt;
use futures_util::future::join_all;
use tokio::time::{Instant, timeout};
use tokio_postgres::error::Severity;

use super::transaction::{self, Shared};
use super::{Held, Hook, Inner, Invocation, Phase, Scope};
use crate::error::Result;
use crate::net::Peek;
use crate::observe;
use crate::pool::Lease;
use crate::teardown::{Budget, Outcome, Teardown, at_rest, close, rest};
use crate::wire::TransactionStatus;

/// What became of the invocation's transaction, if it had one. An error takes the
/// place of the response: what the handler thinks it stored is not there.
pub(crate) type Finished = Result<()>;

impl Invocation {
    /// Ends the invocation at once, if that needs no waiting: every connection is at
    /// rest already and stays open. Not one byte is sent for it.
    pub(crate) fn try_finish(&self) -> bool {
        let inner = &self.inner;
        if !inner.tasks.is_empty() || inner.transaction.is_some() {
            return false;
        }
        let mut state = inner.state();
        if !state.deferred.is_empty() || !state.after.is_empty() || state.asking > 0 {
            return false;
        }
        let config = inner.database.config();
        let mut clean = Vec::with_capacity(state.leases.len());
        for held in &state.leases {
            let session = &held.lease.session;
            let keeps = held.lease.pool().keeps(session);
            match at_rest(session, config).filter(|_| keeps) {
                Some(home) => clean.push(home),
                None => return false,
            }
        }
        state.phase = Phase::Closed;
        let leases = std::mem::take(&mut state.leases);
        let guard = state.guard.take();
        drop(state);
        for (held, home) in leases.into_iter().zip(clean) {
            inner.report_clean(&held.lease);
            held.lease.keep(home);
        }
        drop(guard);
        true
    }

    /// Ends the invocation: tasks, clean-ups, transaction, connections, hooks.
    pub(crate) async fn finish(&self, success: bool) -> Finished {
        let finished = self.finish_transaction_after_tasks(success).await;
        self.rest_all().await;
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
        inner.state().phase = Phase::Closed;
        self.end_transaction(success).await
    }

    /// Ends what has to be decided before the head of a response whose body goes on
    /// reading.
    pub(crate) async fn finish_head(&self, success: bool) -> Finished {
        let finished = self.end_transaction(success).await;
        if finished.is_err() {
            // There will be no such body.
            let _ = self.finish(false).await;
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

    /// Brings every lease to rest, in parallel. Each stays with the invocation until
    /// it is, so that none is forgotten if this is dropped halfway.
    async fn rest_all(&self) {
        let inner = &self.inner;
        let budget = inner.budget();
        let leases: Vec<_> = {
            let state = inner.state();
            let lease = |held: &Held| (held.number, Arc::clone(&held.lease.session));
            state.leases.iter().map(lease).collect()
        };
        let rests = leases.into_iter().map(async |(number, session)| {
            let (began, before) = (Instant::now(), session.wire().round_trips());
            let keep = inner.keeps(number);
            let config = inner.database.config();
            let rested = rest(&session, session.home(), keep, config, &budget).await;
            let round_trips = session.wire().round_trips() - before;
            let Some(lease) = inner.release(number) else {
                return;
            };
            inner.report(
                &lease,
                rested.outcome,
                rested.home.is_some(),
                round_trips,
                began,
            );
            if let Some(home) = rested.home {
                lease.keep(home);
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

    /// The layer's own future is being dropped: what can be done without waiting is
    /// done, and the rest is left to a task that may not get to run.
    pub(crate) fn abandon(&self) {
        let inner = &self.inner;
        inner.tasks.abort();
        let mut state = inner.state();
        if state.phase == Phase::Closed && state.leases.is_empty() {
            return;
        }
        state.phase = Phase::Closed;
        let leases = std::mem::take(&mut state.leases);
        let hooks = (
            std::mem::take(&mut state.deferred),
            std::mem::take(&mut state.after),
        );
        drop(state);
        drop(hooks);
        let shared = inner.transaction.try_take();
        observe::abandoned(&inner.request_id, leases.len());
        for held in &leases {
            held.lease.session.end();
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
                    inner.report(&held.lease, rested.outcome, false, 0, began);
                });
                join_all(closes).await;
                invocation.inner.state().guard = None;
            });
        }
    }
}

impl Inner {
    fn keeps(&self, number: u64) -> bool {
        let state = self.state();
        let mut leases = state.leases.iter();
        leases.any(|held| held.number == number && held.lease.pool().keeps(&held.lease.session))
    }

    fn release(&self, number: u64) -> Option<Lease> {
        let mut state = self.state();
        let at = state.leases.iter().position(|held| held.number == number)?;
        Some(state.leases.swap_remove(at).lease)
    }

    fn report(
        &self,
        lease: &Lease,
        outcome: Outcome,
        kept: bool,
        round_trips: u64,
        began: Instant,
    ) {
        let teardown = Teardown {
            request_id: self.request_id.to_string(),
            process_id: lease.session.process(),
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
    pub(super) fn report_clean(&self, lease: &Lease) {
        self.report(lease, Outcome::default(), true, 0, Instant::now());
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
    let commit = shared.connection.batch_execute("COMMIT");
    let committed = match budget.left() {
        Some(left) => timeout(left, commit).await.ok(),
        None => Some(commit.await),
    };
    match committed {
        Some(Ok(())) if session.wire().committed() => Ok(()),
        Some(Ok(())) => Err(transaction::failed()),
        Some(Err(error)) if is_final(&error) => Err(transaction::refused(error)),
        Some(Err(error)) => Err(transaction::unknown().with_source(error)),
        None => Err(transaction::unknown()),
    }
}

/// Whether the server itself said that the commit failed. An error that ends the
/// session may come after the commit was made.
fn is_final(error: &tokio_postgres::Error) -> bool {
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
