//! What came of it.

use std::time::Duration;

use serde::{Serialize, Serializer};

use super::event::{Applied, Blocked, Event, Session};
use super::lint::Finding;

/// What came of it, whether it came to its end or not. Serializes to JSON.
#[derive(Debug, Clone, Default, Serialize)]
#[must_use = "it says who was in the way, and what was left behind"]
#[non_exhaustive]
pub struct Report {
    /// What was run and written into the history, in this order.
    pub applied: Vec<Applied>,
    /// What was written into the history without being run.
    pub recorded: Vec<String>,
    /// What is still to be run.
    pub pending: Vec<String>,
    /// What the lint found in it.
    pub findings: Vec<Finding>,
    /// Who else ran migrations while we waited.
    pub waited_for: Vec<Session>,
    /// Who was in the way, once for each attempt, as it was seen last.
    pub blocked: Vec<Blocked>,
    /// How often something gave way and was tried again.
    pub retries: u32,
    /// Who was ended, as consented.
    pub terminated: Vec<Session>,
    /// Invalid indexes that are there, each as the line that removes it.
    pub invalid_indexes: Vec<String>,
    /// The lock was lost before the end.
    pub lock_lost: bool,
    /// How long it all took.
    #[serde(rename = "took_ms", serialize_with = "milliseconds")]
    pub took: Duration,
    /// Somebody blocks the attempt under way, and is in `blocked`.
    #[serde(skip)]
    is_blocked: bool,
}

impl Report {
    /// Every fact is an event before it is in here.
    pub(super) fn note(&mut self, event: &Event) {
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
            Event::IndexLeft { remove, .. } if !self.invalid_indexes.contains(remove) => {
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

    /// Who blocks the attempt under way, as it was seen last.
    pub(super) fn blocked_now(&self) -> Option<&Blocked> {
        self.blocked.last().filter(|_| self.is_blocked)
    }
}

pub(super) fn milliseconds<S: Serializer>(time: &Duration, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_u64(u64::try_from(time.as_millis()).unwrap_or(u64::MAX))
}

/// Somebody who is told what happens.
pub(super) type Observer = Box<dyn FnMut(&Event) + Send>;

/// Tells the user, the log and the report.
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

    pub(super) fn tell(&mut self, event: Event) {
        tracing::info!(target: "antifreeze", %event, "migrate");
        self.report.note(&event);
        if let Some(observer) = &mut self.observer {
            observer(&event);
        }
    }

    pub(super) fn into_report(mut self) -> Report {
        self.report.took = self.began.elapsed();
        self.report
    }
}
