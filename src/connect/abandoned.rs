//! Closes sessions whose start is abandoned.

use std::time::Duration;

use tokio::runtime::Handle;
use tokio::time::timeout;

use crate::tally::Tally;
use crate::wire::Wire;

/// How long to wait for the server to close one.
const LIMIT: Duration = Duration::from_secs(5);

/// Closes the connection in a task when it is dropped, and waits for the server's end of file:
/// the server may have begun the session already, and has it until it notices.
pub(super) struct CloseOnDrop<'a> {
    wire: Option<Wire>,
    closing: Option<&'a Tally>,
}

impl<'a> CloseOnDrop<'a> {
    /// Guards `wire`, and counts it in `closing` until it is closed.
    pub(super) fn new(wire: Wire, closing: Option<&'a Tally>) -> Self {
        let wire = Some(wire);
        CloseOnDrop { wire, closing }
    }

    /// Disarms the guard: the session has begun.
    pub(super) fn disarm(mut self) {
        self.wire = None;
    }
}

impl Drop for CloseOnDrop<'_> {
    fn drop(&mut self) {
        if let (Some(wire), Ok(runtime)) = (self.wire.take(), Handle::try_current()) {
            let closing = self.closing.map(Tally::one);
            runtime.spawn(async move {
                let _ = timeout(LIMIT, wire.closed()).await;
                wire.shut_down();
                drop(closing);
            });
        }
    }
}
