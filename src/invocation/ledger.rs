//! What an invocation has done, for the one line of the log about it, its span and its metrics.

use std::collections::HashMap;
use std::fmt::Display;
use std::sync::Arc;
use std::time::Duration;

use crate::config::Settings;
use crate::deadline::Deadline;
use crate::engine::Engine;
use crate::observe::{self, Caller, InvocationFigures};
use crate::teardown::{Outcome, Rested};
use crate::wire::{Fingerprint, Watched, Watching, Work};

/// Returns what is watched of the work, if there is a subscriber, a recorder or a layer that takes
/// it.
pub(super) fn watching(settings: &Settings, times: bool) -> Option<Watching> {
    let logs = observe::logs_ends();
    if !logs && !times && !cfg!(feature = "metrics") {
        return None;
    }
    Some(Watching {
        statements: logs && (settings.repeated_statements > 0 || settings.log_statements),
        texts: settings.log_statements,
        times,
    })
}

#[derive(Default)]
pub(super) struct Ledger {
    work: Work,
    seen: HashMap<u64, (u32, Arc<Fingerprint>)>,
    slowest: Option<(Duration, Option<Arc<Fingerprint>>)>,
    /// What teardown had to remove.
    unclean: Vec<Unclean>,
    is_closed: bool,
}

/// What teardown had to remove from one connection, whose first statement is named.
struct Unclean {
    caller: Option<Caller>,
    outcome: Outcome,
    statement: Option<Arc<Fingerprint>>,
}

impl Ledger {
    /// Notes what a connection was asked for.
    pub(super) fn note(&mut self, work: &Work, watched: Option<Watched>) {
        self.work.add(work);
        let Some(watched) = watched else {
            return;
        };
        for (hash, (times, statement)) in watched.seen {
            let seen = self.seen.entry(hash).or_insert((0, statement));
            seen.0 += times;
        }
        if let Some((took, statement)) = watched.slowest {
            if self.slowest.as_ref().is_none_or(|(most, _)| *most < took) {
                self.slowest = Some((took, statement));
            }
        }
    }

    /// Notes what teardown had to remove from one connection.
    pub(super) fn note_unclean(
        &mut self,
        caller: Option<Caller>,
        rested: &Rested,
        first: Option<Arc<Fingerprint>>,
    ) {
        self.unclean.push(Unclean {
            caller,
            outcome: rested.outcome.clone(),
            statement: first,
        });
    }

    pub(super) fn work(&self) -> Work {
        self.work
    }

    /// Writes the lines about the invocation: one if it was slow or has left something open, and
    /// one for each statement that it has repeated, which is the only one of the process.
    /// Returns false if it is not the first call.
    pub(super) fn close(&mut self, engine: &Engine, request_id: &str, deadline: &Deadline) -> bool {
        if std::mem::replace(&mut self.is_closed, true) {
            return false;
        }
        if !observe::logs_ends() {
            return true;
        }
        let settings = engine.settings();
        let most = settings.repeated_statements;
        let seen = self
            .seen
            .values()
            .filter(|seen| most > 0 && seen.0 as usize > most);
        for (times, statement) in seen {
            if engine.is_news(statement.hash) {
                observe::repeated(request_id, *times, &**statement);
            }
        }
        let slowest = self.slowest.as_ref();
        let figures = InvocationFigures {
            request_id,
            elapsed: deadline.elapsed(),
            statements: self.work.statements,
            round_trips: self.work.round_trips,
            rows: self.work.rows,
            sent: self.work.sent,
            received: self.work.received,
            slowest: slowest.map(|(took, _)| *took),
            slowest_statement: slowest.and_then(|(_, statement)| {
                let statement: &(dyn Display + Send + Sync) = &**statement.as_ref()?;
                Some(statement)
            }),
        };
        if !self.unclean.is_empty() {
            self.log_unclean(&figures);
        } else if figures.elapsed >= settings.slow_invocation && !deadline.is_internal() {
            observe::slow(&figures);
        }
        true
    }

    fn log_unclean(&self, figures: &InvocationFigures<'_>) {
        let joined = |part: fn(&Unclean) -> Option<String>| {
            let parts: Vec<_> = self.unclean.iter().filter_map(part).collect();
            parts.join("; ")
        };
        let outcome = joined(|one| Some(one.outcome.to_string()));
        let left_open_at = joined(|one| Some(one.caller?.to_string()));
        let statement = joined(|one| Some(one.statement.as_ref()?.to_string()));
        let statement = Some(statement.as_str()).filter(|statement| !statement.is_empty());
        observe::unclean(figures, &outcome, &left_open_at, statement);
    }
}
