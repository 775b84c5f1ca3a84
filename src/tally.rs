//! How many of something there are, for who waits until there are none.

use std::sync::Arc;

use tokio::sync::watch;

/// Counts those that are [under way](Tally::one).
#[derive(Debug, Clone, Default)]
pub(crate) struct Tally(Arc<watch::Sender<usize>>);

/// One of them, until it is dropped.
pub(crate) struct One(Tally);

impl Tally {
    pub(crate) fn one(&self) -> One {
        self.0.send_modify(|count| *count += 1);
        One(self.clone())
    }

    pub(crate) fn is_empty(&self) -> bool {
        *self.0.borrow() == 0
    }

    /// Waits until there are none.
    pub(crate) async fn none(&self) {
        // It fails only if nobody counts any more.
        let _ = self.0.subscribe().wait_for(|&count| count == 0).await;
    }
}

impl Drop for One {
    fn drop(&mut self) {
        self.0.0.send_modify(|count| *count -= 1);
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
