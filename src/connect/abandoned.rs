//! Closes sessions whose start is abandoned.

use std::time::Duration;

use tokio::runtime::Handle;
use tokio::time::timeout;

use crate::tally::Tally;
use crate::wire::{Naming, Transport, Wire};

/// How long to wait for the server to close one.
const LIMIT: Duration = Duration::from_secs(5);

/// Closes the connection in a task when it is dropped, and waits for the server's end of file:
/// the server may have begun the session already, and has it until it notices.
pub(super) struct CloseOnDrop<'a, T: Close> {
    connection: Option<T>,
    closing: Option<&'a Tally>,
}

/// A connection that is closed with the server's acknowledgement.
pub(super) trait Close: Send + 'static {
    fn close(self) -> Wire;
}

impl Close for Wire {
    fn close(self) -> Wire {
        self
    }
}

impl Close for Box<dyn Transport> {
    fn close(self) -> Wire {
        Wire::new(self, Naming::AsGiven).0
    }
}

impl<'a, T: Close> CloseOnDrop<'a, T> {
    /// Guards a connection, and counts it in `closing` until it is closed.
    pub(super) fn new(connection: T, closing: Option<&'a Tally>) -> Self {
        CloseOnDrop {
            connection: Some(connection),
            closing,
        }
    }

    /// Returns the connection, which is still guarded.
    pub(super) fn get(&mut self) -> &mut T {
        self.connection.as_mut().expect("it is taken at the end")
    }

    /// Disarms the guard: the session has begun.
    pub(super) fn disarm(mut self) -> T {
        self.connection.take().expect("it is taken at the end")
    }
}

impl<T: Close> Drop for CloseOnDrop<'_, T> {
    fn drop(&mut self) {
        if let (Some(connection), Ok(runtime)) = (self.connection.take(), Handle::try_current()) {
            let wire = connection.close();
            let closing = self.closing.map(Tally::one);
            // At once: the process may be frozen before the task runs.
            wire.terminate();
            runtime.spawn(async move {
                let _ = timeout(LIMIT, wire.closed()).await;
                wire.shut_down();
                drop(closing);
            });
        }
    }
}
