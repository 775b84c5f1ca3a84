//! Closes a session whose caller gives up while it begins.

use std::time::Duration;

use tokio::runtime::Handle;
use tokio::time::timeout;

use crate::tally::Tally;
use crate::wire::Wire;

/// How long the server may take to close it.
const LIMIT: Duration = Duration::from_secs(5);

/// Closes the connection and waits for the server's end of file, in a task, unless the
/// session has begun and is somebody's: the server may have let us in already, and then it
/// has a session until it has noticed.
pub(super) struct HalfOpen<'a> {
    wire: Option<Wire>,
    leaving: Option<&'a Tally>,
}

impl<'a> HalfOpen<'a> {
    /// Until it is closed it counts as one of those that are `leaving`.
    pub(super) fn new(wire: Wire, leaving: Option<&'a Tally>) -> Self {
        HalfOpen {
            wire: Some(wire),
            leaving,
        }
    }

    /// The session has begun.
    pub(super) fn done(mut self) {
        self.wire = None;
    }
}

impl Drop for HalfOpen<'_> {
    fn drop(&mut self) {
        let (Some(wire), Ok(runtime)) = (self.wire.take(), Handle::try_current()) else {
            return;
        };
        // At once: the process may be frozen before the task runs.
        wire.terminate();
        let leaving = self.leaving.map(Tally::one);
        runtime.spawn(async move {
            let _ = timeout(LIMIT, wire.closed()).await;
            wire.shut_down();
            drop(leaving);
        });
    }
}
