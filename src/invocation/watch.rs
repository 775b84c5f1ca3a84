//! Ends an invocation that nobody polls at its deadline.

use std::sync::Arc;

use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep_until};

use super::state::Invocation;

/// While it exists, an invocation is ended when its time has come, whether its response
/// is being read or not.
pub(crate) struct Watch(AbortHandle);

impl Invocation {
    /// Ends the invocation at `at`.
    ///
    /// A body is polled only as fast as its client reads it. A client that does not read
    /// at all would keep the connection, and what it has locked, for ever.
    pub(crate) fn watch(&self, at: Instant) -> Watch {
        let inner = Arc::downgrade(&self.inner);
        let watch = tokio::spawn(async move {
            sleep_until(at).await;
            if let Some(inner) = inner.upgrade() {
                let _ = Invocation { inner }.finish(false).await;
            }
        });
        Watch(watch.abort_handle())
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.0.abort();
    }
}
