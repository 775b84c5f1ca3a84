//! `Teardown`: reports what was done to a connection.

use std::fmt;
use std::time::Duration;

/// What became of one connection: when it was given back at rest, when it was leased again
/// within the invocation, or at the invocation's end.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Teardown {
    /// The host's id of the request.
    pub request_id: String,
    /// The server's process, as in `pg_stat_activity.pid`.
    pub process_id: i32,
    /// What was done.
    pub outcome: Outcome,
    /// The connection is kept for a later invocation.
    pub kept: bool,
    /// Round trips that it took on this connection.
    pub round_trips: u64,
    /// How long it took.
    pub elapsed: Duration,
}

/// One thing that teardown did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Step {
    /// An answer was still owed, and was waited for.
    Settled,
    /// A statement was cancelled on the server.
    Cancelled,
    /// An open transaction was rolled back.
    RolledBack,
    /// Session state was removed.
    Reset,
    /// The connection was closed.
    Closed {
        /// The server confirmed it: the session has ended. Behind a pooler: the pooler
        /// did, and its server had been brought to rest before. If not, it ends by the
        /// server's own timeouts.
        acknowledged: bool,
    },
}

/// What teardown did to one connection, in order. Nothing: it was clean.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Outcome {
    steps: Vec<Step>,
}

impl Outcome {
    /// What was done, in order.
    pub fn steps(&self) -> &[Step] {
        &self.steps
    }

    /// There was nothing to do.
    pub fn is_clean(&self) -> bool {
        self.steps.is_empty()
    }

    /// The connection was closed, and the server confirmed it or not.
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
    /// `clean`, or what was done: `cancelled, rolled back`.
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
