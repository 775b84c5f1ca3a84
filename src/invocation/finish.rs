//! Ends an invocation: everything that it used is brought to rest.

use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared, join_all};
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep_until, timeout, timeout_at};

use super::commit;
use super::live::Live;
use super::rest::Selection;
use super::scope::Scope;
use super::state::{Agenda, Hook, Invocation};
use super::tasks::cut_off;
use crate::deadline::FAR;
use crate::error::Result;
use crate::observe::{self, span};
use crate::teardown::Budget;

/// The result of the invocation's transaction. An error replaces the response, since what the
/// handler stored is not there.
pub(crate) type Finished = Result<()>;

impl Invocation {
    /// Ends the invocation if every connection is at rest already and stays open. Sends nothing.
    pub(super) fn try_finish(&self) -> bool {
        let inner = &self.inner;
        let mut agenda = self.agenda();
        let idle = !inner.transaction.is_some()
            && inner.tasks.is_empty()
            && agenda.deferred.is_empty()
            && agenda.after.is_empty();
        if !idle {
            return false;
        }
        let Some(rested) = inner.leases.try_close() else {
            return false;
        };
        // Asked behind the closed gate: until then another driver may begin one.
        let has_common = Live::of(self.engine()).has_common();
        let guard = agenda.guard.take_if(|_| !has_common);
        drop(agenda);
        for (lease, rested, reservation) in rested {
            inner.leases.give_back(lease, rested, Some(reservation));
        }
        if has_common {
            return false;
        }
        inner.leases.log_end();
        inner.leases.span.close();
        drop(guard);
        true
    }

    /// Ends the invocation in this order: tasks, deferred clean-ups, transaction, connections,
    /// hooks.
    pub(crate) async fn finish(&self, success: bool) -> Finished {
        let leases = &self.inner.leases;
        let finished = self.finish_transaction_after_tasks(success).await;
        leases.rest(Selection::All).await;
        leases.wait_for_closing().await;
        Live::of(self.engine())
            .end_common(leases.deadline.end())
            .await;
        leases.log_end();
        if leases.span.close() {
            // This poll is the last one inside it: the hooks find it closed, and can flush it.
            tokio::task::yield_now().await;
        }
        // In the order of their registration.
        let next = |agenda: &mut Agenda| agenda.after.pop_front();
        self.run("after", next, leases.budget().one_step()).await;
        self.agenda().guard = None;
        finished
    }

    async fn finish_transaction_after_tasks(&self, success: bool) -> Finished {
        let leases = &self.inner.leases;
        self.end_tasks().await;
        // The last one deferred runs first. However many there are, time for COMMIT is reserved.
        let next = |agenda: &mut Agenda| agenda.deferred.pop_back();
        let budget = leases.budget().before_a_step();
        self.run("defer", next, budget).await;
        leases.close_gate();
        // Tasks that the clean-ups started.
        self.end_tasks().await;
        let _ = timeout(leases.budget().grace(), leases.checkouts.none()).await;
        self.end_transaction(success).await
    }

    async fn end_tasks(&self) {
        let inner = &self.inner;
        inner.tasks.abort();
        if !inner.tasks.gone(inner.leases.budget().grace()).await {
            observe::cleanup_failed(self.request_id(), "task", "it does not yield");
        }
    }

    /// Ends the transaction before the head of a response whose body continues to read from the
    /// database.
    pub(crate) async fn finish_head(&self, success: bool) -> Finished {
        let finished = self.end_transaction(success).await;
        match finished {
            // The error response has no such body.
            Err(_) => drop(self.finish(false).await),
            // The body has its own connections; dropped ones may hold locks that are not needed
            // any more.
            Ok(()) => self.inner.leases.rest(Selection::Unused).await,
        }
        finished
    }

    /// Commits the invocation's transaction, or drops it for teardown to roll back.
    async fn end_transaction(&self, success: bool) -> Finished {
        let budget = self.inner.leases.budget();
        let Some(shared) = self.inner.transaction.take() else {
            return Ok(());
        };
        // A second end, that of a body or of its watch, never commits.
        let failed = std::mem::replace(&mut self.agenda().failed, true);
        if !success || failed {
            // Dropping it gives its connection back, and teardown rolls it back.
            shared.connection.decide_rollback();
            span::ended(&shared.span, shared.outcome("rolled back"));
            return Ok(());
        }
        // What drivers send beside their statements, without waiting, owes only an answer; and the
        // end of a statement's answer may be on its way.
        let slot = &self.inner.transaction;
        let _ = timeout(budget.step(), slot.idle_turns.none()).await;
        let _ = timeout(budget.grace(), slot.turns.none()).await;
        let (span, outcome) = (shared.span.clone(), shared.outcome("committed"));
        let committed = match Arc::try_unwrap(shared) {
            Err(_) => Err(commit::in_use()),
            Ok(shared) if shared.is_used() && shared.was_cut_off() => Err(commit::cut_off()),
            Ok(shared) if !shared.is_used() => Ok(()),
            Ok(shared) => span::within(span::commit(&span), shared.commit(&budget)).await,
        };
        match &committed {
            Ok(()) => span::ended(&span, outcome),
            Err(error) => span::failed(&span, error),
        }
        committed
    }

    /// Runs hooks one after the other. Each may panic and may take the time of one step; all
    /// together may take the budget.
    async fn run(
        &self,
        what: &'static str,
        next: impl Fn(&mut Agenda) -> Option<Hook>,
        budget: Budget,
    ) {
        let next = || next(&mut self.agenda());
        while let Some(hook) = next() {
            let limit = budget.last();
            let scope = Scope::around(self.clone());
            let mut hook = Box::pin(AssertUnwindSafe(scope.run(hook)).catch_unwind());
            let why = if limit.is_zero() {
                "no time was left"
            } else {
                match timeout(limit, &mut hook).await {
                    Ok(Ok(())) => continue,
                    Ok(Err(_)) => "it panicked",
                    Err(_) => "it took too long",
                }
            };
            let _ = cut_off(|| catch_unwind(AssertUnwindSafe(|| drop(hook))));
            observe::cleanup_failed(self.request_id(), what, why);
        }
    }

    /// Ends the invocation when the future that should have ended it is dropped: does what is
    /// possible without waiting, and spawns a task for the rest, which may not get to run.
    pub(crate) fn abandon(&self, say: fn(&str, usize)) {
        if self.try_finish() {
            return;
        }
        let inner = &self.inner;
        inner.leases.close_gate();
        inner.tasks.abort();
        let mut agenda = self.agenda();
        let hooks = (
            std::mem::take(&mut agenda.deferred),
            std::mem::take(&mut agenda.after),
        );
        let guard = agenda.guard.take();
        drop(agenda);
        let mut leases = inner.leases.take_all();
        if let Some(common) = Live::of(self.engine()).take_common() {
            common.inner.leases.close_gate();
            leases.extend(common.inner.leases.take_all());
        }
        drop(hooks);
        let shared = inner.transaction.take();
        if leases.is_empty() {
            return;
        }
        say(self.request_id(), leases.len());
        inner.leases.span.close();
        let closing: Vec<_> = leases
            .into_iter()
            .map(|lease| {
                // Not pumped: that would send what a dropped handle has queued.
                let left = !lease.is_at_rest(&lease.session().link.wire.snapshot());
                (left, lease.session().end_at_once(), lease)
            })
            .collect();
        drop(shared);
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            let inner = Arc::clone(inner);
            runtime.spawn(async move {
                let leases = &inner.leases;
                let budget = Budget::new(None, leases.engine.pools().round_trip());
                let closes = closing
                    .into_iter()
                    .map(async |(left, terminate_sent, lease)| {
                        let rested = lease.close_ended(terminate_sent, left, &budget).await;
                        leases.give_back(lease, rested, None);
                    });
                join_all(closes).await;
                leases.log_end();
                drop(guard);
            });
        }
    }
}

/// Ends an invocation at a given time, even if its response is not being read, until it is
/// dropped.
pub(crate) struct Watch(AbortHandle);

/// The end of an invocation. Each clone can drive it.
pub(crate) type End = Shared<BoxFuture<'static, ()>>;

impl Watch {
    /// Drives `end` from `at` on.
    ///
    /// A body is polled only as fast as its client reads. A client that does not read would keep
    /// the connection and its locks forever.
    pub(crate) fn new(end: &End, at: Instant) -> Self {
        // A body that is dropped before then drops what it has begun, and abandons the rest.
        let end = end.downgrade();
        let watch = tokio::spawn(async move {
            sleep_until(at).await;
            if let Some(end) = end.and_then(|end| end.upgrade()) {
                end.await;
            }
        });
        Watch(watch.abort_handle())
    }
}

impl Invocation {
    /// Prepares the end of an invocation whose body has ended, or is ended from outside.
    pub(crate) fn end(&self) -> End {
        let invocation = self.clone();
        let end = async move {
            if !invocation.try_finish() {
                let _ = invocation.finish(false).await;
            }
        };
        end.boxed().shared()
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// The end of an invocation. If it is dropped before it is done, the invocation is abandoned.
pub(crate) struct Ending {
    invocation: Invocation,
    teardown: TeardownState,
    /// Only the head has ended: the body ends the invocation, even if nothing streams any more.
    pub(super) streams: bool,
    /// Logs an abandoned invocation: the request id and the number of its connections.
    abandoned: fn(&str, usize),
}

enum TeardownState {
    NotBegun,
    Runs(Pin<Box<dyn Future<Output = Finished> + Send>>),
    Done,
}

impl Ending {
    pub(crate) fn new(invocation: Invocation, abandoned: fn(&str, usize)) -> Self {
        Ending {
            invocation,
            teardown: TeardownState::NotBegun,
            streams: false,
            abandoned,
        }
    }

    /// Drives an end that others drive too.
    pub(crate) fn of(invocation: Invocation, end: End, abandoned: fn(&str, usize)) -> Self {
        let mut ending = Ending::new(invocation, abandoned);
        ending.teardown = TeardownState::Runs(Box::pin(end.map(Ok)));
        ending
    }

    pub(crate) fn invocation(&self) -> &Invocation {
        &self.invocation
    }

    /// Begins the end, or, if the body `streams`, the end of the head.
    pub(super) fn begin(&mut self, success: bool, streams: bool) {
        let invocation = self.invocation.clone();
        self.streams = streams;
        self.teardown = if streams {
            TeardownState::Runs(Box::pin(
                async move { invocation.finish_head(success).await },
            ))
        } else if invocation.try_finish() {
            TeardownState::Done
        } else {
            TeardownState::Runs(Box::pin(async move { invocation.finish(success).await }))
        };
    }

    pub(super) fn has_begun(&self) -> bool {
        !matches!(self.teardown, TeardownState::NotBegun)
    }
}

impl Future for Ending {
    type Output = Finished;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Finished> {
        if !self.has_begun() {
            self.begin(false, false);
        }
        let TeardownState::Runs(teardown) = &mut self.teardown else {
            return Poll::Ready(Ok(()));
        };
        let finished = ready!(teardown.as_mut().poll(cx));
        self.teardown = TeardownState::Done;
        Poll::Ready(finished)
    }
}

impl Drop for Ending {
    fn drop(&mut self) {
        if !matches!(self.teardown, TeardownState::Done) {
            self.teardown = TeardownState::NotBegun;
            self.invocation.abandon(self.abandoned);
        }
    }
}

impl Live {
    /// Ends what should end with the last invocation, if none is under way. It is abandoned if
    /// that takes until `end`, or if this future is dropped.
    pub(crate) async fn end_common(&self, end: Option<Instant>) {
        if let Some(common) = self.take_common() {
            let ending = Ending::new(common, observe::abandoned);
            let end = end.unwrap_or_else(|| Instant::now() + FAR);
            let _ = timeout_at(end, ending).await;
        }
    }
}
