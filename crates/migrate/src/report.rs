//! The report of a run.

use std::time::Duration;

use serde::{Serialize, Serializer};

use super::event::{Applied, Blocked, Event, ServerSession};
use super::lint::Finding;

/// The report of a run, successful or not. Serializes to JSON.
#[derive(Debug, Clone, Default, Serialize)]
#[must_use = "the report has the blocking sessions and the invalid indexes"]
#[non_exhaustive]
pub struct Report {
    /// The migrations that were applied, in order.
    pub applied: Vec<Applied>,
    /// The migrations that were recorded in the history without being run.
    pub recorded: Vec<String>,
    /// The migrations that are still pending.
    pub pending: Vec<String>,
    /// The lint's findings in pending migrations.
    pub findings: Vec<Finding>,
    /// The sessions of other runners that locked the lock.
    pub waited_for: Vec<ServerSession>,
    /// The statements that waited for a lock, one for each attempt, as last seen.
    pub blocked: Vec<Blocked>,
    /// The number of retries.
    pub retries: u32,
    /// The blocking sessions that were ended.
    pub terminated: Vec<ServerSession>,
    /// The statements that remove the existing invalid indexes.
    pub invalid_indexes: Vec<String>,
    /// Whether the lock was lost before the end.
    pub lock_lost: bool,
    /// The duration of the run.
    #[serde(rename = "took_ms", serialize_with = "milliseconds")]
    pub took: Duration,
    /// Whether the last entry of `blocked` belongs to the current attempt.
    #[serde(skip)]
    is_blocked: bool,
}

impl Report {
    /// Adds an event. All fields but `took` come from events.
    pub(super) fn record(&mut self, event: &Event) {
        match event {
            Event::Waiting {
                holder: Some(holder),
                ..
            } if self.waited_for.iter().all(|known| known.pid != holder.pid) => {
                self.waited_for.push(holder.clone());
            }
            Event::Planned { pending } => self.pending.clone_from(pending),
            Event::Finding(finding) => self.findings.push(finding.clone()),
            Event::Started { .. } | Event::ToolStarted { .. } => self.is_blocked = false,
            Event::Blocked(blocked) => {
                if self.is_blocked {
                    self.blocked.pop();
                }
                self.blocked.push(blocked.clone());
                self.is_blocked = true;
            }
            Event::Terminated { session } => self.terminated.push(session.clone()),
            Event::Retrying { .. } => self.retries += 1,
            Event::IndexRemoved { index } => {
                let end = format!(" {index};");
                self.invalid_indexes.retain(|line| !line.ends_with(&end));
            }
            Event::InvalidIndex { remove, .. } if !self.invalid_indexes.contains(remove) => {
                self.invalid_indexes.push(remove.clone());
            }
            Event::Applied(applied) => {
                self.pending.retain(|name| *name != applied.migration);
                self.applied.push(applied.clone());
            }
            Event::Recorded { migration } => {
                self.pending.retain(|name| name != migration);
                self.recorded.push(migration.clone());
            }
            Event::LockLost => self.lock_lost = true,
            _ => {}
        }
    }

    /// Returns the wait of the current attempt, as last seen.
    pub(super) fn blocked_now(&self) -> Option<&Blocked> {
        self.blocked.last().filter(|_| self.is_blocked)
    }
}

pub(super) fn milliseconds<S: Serializer>(time: &Duration, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_u64(u64::try_from(time.as_millis()).unwrap_or(u64::MAX))
}

/// The caller's callback for events.
pub(super) type Observer = Box<dyn FnMut(&Event) + Send>;

/// Passes events on to the caller, the log and the report.
pub(super) struct Events {
    observer: Option<Observer>,
    pub(super) report: Report,
    began: tokio::time::Instant,
}

impl Events {
    pub(super) fn new(observer: Option<Observer>) -> Self {
        Events {
            observer,
            report: Report::default(),
            began: tokio::time::Instant::now(),
        }
    }

    pub(super) fn emit(&mut self, event: Event) {
        tracing::info!(target: "antifreeze", %event, "migrate");
        self.report.record(&event);
        if let Some(observer) = &mut self.observer {
            observer(&event);
        }
    }

    pub(super) fn into_report(mut self) -> Report {
        self.report.took = self.began.elapsed();
        self.report
    }
}
