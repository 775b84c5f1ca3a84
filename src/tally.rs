//! `Tally`: counts what is under way, and waits until the count is zero.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::Notify;

/// Counts the operations that are [under way](Tally::one).
#[derive(Debug, Clone, Default)]
pub struct Tally(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    count: AtomicUsize,
    none: Notify,
}

/// One operation, counted until it is dropped.
#[must_use = "it counts until it is dropped"]
pub(crate) struct One(Tally);

impl Tally {
    pub(crate) fn one(&self) -> One {
        self.0.count.fetch_add(1, Ordering::AcqRel);
        One(self.clone())
    }

    pub(crate) fn count(&self) -> usize {
        self.0.count.load(Ordering::Acquire)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.count() == 0
    }

    /// Waits until the count is zero.
    pub(crate) async fn none(&self) {
        loop {
            let mut none = pin!(self.0.none.notified());
            none.as_mut().enable();
            if self.is_empty() {
                return;
            }
            none.await;
        }
    }
}

impl Drop for One {
    fn drop(&mut self) {
        let tally = &self.0.0;
        if tally.count.fetch_sub(1, Ordering::AcqRel) == 1 {
            tally.none.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;

    #[test]
    fn last_release_wakes_waiters() {
        let tally = Tally::default();
        assert!(tally.none().now_or_never().is_some());
        let (first, second) = (tally.one(), tally.one());
        let mut none = Box::pin(tally.none());
        assert!(none.as_mut().now_or_never().is_none());
        drop(second);
        assert!(none.as_mut().now_or_never().is_none());
        drop(first);
        assert!(none.now_or_never().is_some());
    }
}
