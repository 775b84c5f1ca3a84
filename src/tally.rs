//! `Tally`: counts what is under way, and waits until the count is zero.

use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use tokio::sync::Notify;

/// Counts the operations that are [under way](Tally::one). Allocates for the first one, so that
/// an invocation without any has no cost.
#[derive(Debug, Default)]
pub struct Tally(OnceLock<Arc<Inner>>);

#[derive(Debug, Default)]
struct Inner {
    count: AtomicUsize,
    none: Notify,
}

/// One operation, counted until it is dropped.
#[must_use = "it counts until it is dropped"]
pub(crate) struct One(Arc<Inner>);

impl Tally {
    pub(crate) fn one(&self) -> One {
        let inner = self.0.get_or_init(Arc::default);
        inner.count.fetch_add(1, Ordering::AcqRel);
        One(Arc::clone(inner))
    }

    pub(crate) fn count(&self) -> usize {
        let inner = self.0.get();
        inner.map_or(0, |inner| inner.count.load(Ordering::Acquire))
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.count() == 0
    }

    /// Waits until the count is zero.
    pub(crate) async fn none(&self) {
        let Some(inner) = self.0.get() else {
            return;
        };
        loop {
            let mut none = pin!(inner.none.notified());
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
        if self.0.count.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.0.none.notify_waiters();
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
