//! Reports what teardown did to a connection.

use std::fmt;
use std::time::Duration;

/// The report on one connection: when it was given back at rest, when it was leased again
/// within the invocation, or at the invocation's end.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Teardown {
    /// The host's request id.
    pub request_id: String,
    /// The process id of the server's backend, as in `pg_stat_activity.pid`.
    pub process_id: i32,
    /// The steps that were taken.
    pub outcome: Outcome,
    /// Whether the connection is kept for a later invocation.
    pub kept: bool,
    /// The number of round trips that the teardown took on this connection.
    pub round_trips: u64,
    /// The duration of the teardown.
    pub elapsed: Duration,
    /// Where the connection was checked out that was left open or in use: file, line and
    /// column of the call of `connection()` or `transaction()`.
    pub left_open_at: Option<String>,
}

/// One step of a teardown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Step {
    /// Teardown waited for an answer that was still pending.
    Settled,
    /// A statement was cancelled on the server.
    Cancelled,
    /// An open transaction was rolled back.
    RolledBack,
    /// Session state was removed.
    Reset,
    /// The connection was closed.
    Closed {
        /// Whether the server confirmed that the session has ended. Behind a pooler: whether
        /// the pooler confirmed it, after its server had been brought to rest. Without a
        /// confirmation the server's own timeouts end the session.
        acknowledged: bool,
    },
}

/// The steps that teardown took on one connection, in order. None: the connection was clean.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Outcome {
    steps: Vec<Step>,
}

impl Outcome {
    /// Returns the steps in order.
    pub fn steps(&self) -> &[Step] {
        &self.steps
    }

    /// Returns whether there was nothing to do.
    pub fn is_clean(&self) -> bool {
        self.steps.is_empty()
    }

    /// Returns whether the server confirmed the close; `None` if the connection was not closed.
    pub fn closed(&self) -> Option<bool> {
        self.steps.iter().find_map(|step| match step {
            Step::Closed { acknowledged } => Some(*acknowledged),
            _ => None,
        })
    }

    pub(super) fn did(&mut self, step: Step) {
        self.steps.push(step);
    }

    pub(super) fn has(&self, step: Step) -> bool {
        self.steps.contains(&step)
    }
}

impl fmt::Display for Outcome {
    /// Writes `clean`, or the steps: `cancelled, rolled back`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_clean() {
            return f.write_str("clean");
        }
        for (at, step) in self.steps.iter().enumerate() {
            if at > 0 {
                f.write_str(", ")?;
            }
            f.write_str(match step {
                Step::Settled => "settled",
                Step::Cancelled => "cancelled",
                Step::RolledBack => "rolled back",
                Step::Reset => "reset",
                Step::Closed { acknowledged: true } => "closed",
                Step::Closed {
                    acknowledged: false,
                } => "closed without acknowledgement",
            })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outcome_reads_as_its_steps() {
        let mut outcome = Outcome::default();
        assert_eq!(outcome.to_string(), "clean");
        outcome.did(Step::Cancelled);
        outcome.did(Step::Closed { acknowledged: true });
        assert_eq!(outcome.to_string(), "cancelled, closed");
        assert_eq!(outcome.closed(), Some(true));
    }
}
