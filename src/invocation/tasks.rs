//! Tracks the tasks that belong to an invocation.

use std::cell::Cell;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, MutexGuard, OnceLock};
use std::task::{Context, Poll};
use std::time::Duration;

use pin_project_lite::pin_project;
use tokio::task::{AbortHandle, JoinHandle};
use tokio::time::timeout;

use crate::lock::Mutex;
use crate::tally::{One, Tally};

/// The tasks of one invocation.
#[derive(Default)]
pub(super) struct Tasks {
    started: Mutex<Vec<AbortHandle>>,
    running: Tally,
    /// Made by the first task, or with the first abort.
    aborted: OnceLock<Arc<AtomicBool>>,
}

thread_local! {
    static CUT_OFF: Cell<bool> = const { Cell::new(false) };
}

/// Drops work before its end: if it holds the invocation's transaction, that must not be
/// committed.
pub(super) fn cut_off<R>(drop: impl FnOnce() -> R) -> R {
    struct Before(bool);
    impl Drop for Before {
        fn drop(&mut self) {
            CUT_OFF.set(self.0);
        }
    }
    let _before = Before(CUT_OFF.replace(true));
    drop()
}

/// Returns whether this thread is dropping work before its end: it was [`cut_off`], or it
/// panicked.
pub(super) fn is_cut_off() -> bool {
    CUT_OFF.get() || std::thread::panicking()
}

pin_project! {
    /// The future of a task. It is [`cut_off`] if the task is aborted at the end of the
    /// invocation, or panics; not if the user aborts the task, as when the user drops a future.
    struct Task<F> {
        #[pin]
        future: Option<F>,
        aborted: Arc<AtomicBool>,
        // Dropped last: a task counts until its future and what that holds has been dropped.
        _running: One,
    }

    impl<F> PinnedDrop for Task<F> {
        fn drop(this: Pin<&mut Self>) {
            let mut this = this.project();
            if this.aborted.load(Ordering::Acquire) {
                cut_off(|| this.future.set(None));
            } else {
                this.future.set(None);
            }
        }
    }
}

impl<F: Future> Future for Task<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let mut this = self.project();
        let future = this.future.as_mut().as_pin_mut();
        let future = future.expect("a task is not polled once it is done");
        match catch_unwind(AssertUnwindSafe(|| future.poll(cx))) {
            Ok(Poll::Pending) => Poll::Pending,
            Ok(done) => {
                this.future.set(None);
                done
            }
            Err(panic) => {
                cut_off(|| this.future.set(None));
                resume_unwind(panic)
            }
        }
    }
}

impl Tasks {
    pub(super) fn spawn<F>(&self, future: F) -> JoinHandle<F::Output>
    where
        F: Future<Output: Send + 'static> + Send + 'static,
    {
        let task = tokio::spawn(Task {
            future: Some(future),
            aborted: Arc::clone(self.aborted.get_or_init(Arc::default)),
            _running: self.running.one(),
        });
        let mut started = self.started();
        started.retain(|task| !task.is_finished());
        started.push(task.abort_handle());
        task
    }

    /// Returns whether no task is running.
    pub(super) fn is_empty(&self) -> bool {
        self.running.is_empty()
    }

    /// Aborts the tasks that still run.
    pub(super) fn abort(&self) {
        let aborted = self.aborted.get_or_init(Arc::default);
        aborted.store(true, Ordering::Release);
        for task in self.started().drain(..) {
            task.abort();
        }
    }

    /// Waits until every task has ended. Returns false if one does not yield in time.
    pub(super) async fn gone(&self, limit: Duration) -> bool {
        timeout(limit, self.running.none()).await.is_ok()
    }

    fn started(&self) -> MutexGuard<'_, Vec<AbortHandle>> {
        self.started.lock()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn aborted_task_is_awaited_until_it_is_dropped() {
        let tasks = Tasks::default();
        let held = Arc::new(());
        let weak = Arc::downgrade(&held);
        let task = tasks.spawn(async move {
            std::future::pending::<()>().await;
            drop(held);
        });
        tokio::task::yield_now().await;
        assert!(!tasks.is_empty());
        tasks.abort();
        assert!(tasks.gone(Duration::from_secs(5)).await);
        assert!(weak.upgrade().is_none() && tasks.is_empty());
        assert!(task.await.expect_err("aborted").is_cancelled());
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn blocking_task_is_given_up() {
        let tasks = Tasks::default();
        let (stop, stopped) = std::sync::mpsc::channel::<()>();
        let (started, starting) = tokio::sync::oneshot::channel();
        tasks.spawn(async move {
            let _ = started.send(());
            let _ = stopped.recv();
        });
        starting.await.expect("started");
        tasks.abort();
        assert!(!tasks.gone(Duration::from_millis(20)).await);
        drop(stop);
        assert!(tasks.gone(Duration::from_secs(5)).await);
    }
}
