//! What was measured of one candidate in one scenario.

use std::collections::BTreeMap;

use serde_json::{Value, json};

/// One run of one candidate in one scenario.
#[derive(Clone, Debug, Default)]
pub struct Cell {
    pub run: usize,
    pub candidate: &'static str,
    pub scenario: &'static str,
    pub sent: usize,
    pub answered: usize,
    /// The others, by kind.
    pub failed: BTreeMap<String, usize>,
    /// Of those that were answered, in milliseconds.
    pub p50: Option<f64>,
    pub p99: Option<f64>,
    /// Of all, also of those that failed.
    pub worst: f64,
    /// How long the ALTER TABLE took right after, or how long it waited before it gave up.
    pub alter: f64,
    pub alter_gave_up: bool,
    /// Sessions that were not idle when every process stood still.
    pub busy_sessions: f64,
    pub most_slots: f64,
    pub idle_in_transaction_s: f64,
    pub round_trips: f64,
    pub connects: f64,
    /// For each request, if no process has ended meanwhile.
    pub cpu: Option<f64>,
    /// The resident memory of a process, in megabytes.
    pub memory: Option<f64>,
    /// From the start of a process to its first `/next`.
    pub start: Option<f64>,
}

/// A figure of every cell, less of which is better.
pub struct Figure {
    pub key: &'static str,
    pub label: &'static str,
    pub unit: &'static str,
    pub of: fn(&Cell) -> Option<f64>,
    /// What differs by less than this is not told apart.
    pub least: f64,
}

pub const FIGURES: [Figure; 12] = [
    figure("p50_ms", "p50", "ms", |cell| cell.p50, 2.0),
    figure("p99_ms", "p99", "ms", |cell| cell.p99, 2.0),
    figure("worst_ms", "worst", "ms", |cell| Some(cell.worst), 1.0),
    figure(
        "alter_table_ms",
        "ALTER TABLE",
        "ms",
        |cell| Some(cell.alter),
        20.0,
    ),
    figure(
        "busy_sessions",
        "busy sessions",
        "",
        |cell| Some(cell.busy_sessions),
        1.0,
    ),
    figure(
        "most_slots",
        "most slots",
        "",
        |cell| Some(cell.most_slots),
        2.0,
    ),
    figure(
        "idle_in_transaction_s",
        "idle in transaction",
        "s",
        |cell| Some(cell.idle_in_transaction_s),
        0.1,
    ),
    figure(
        "round_trips",
        "round trips",
        "",
        |cell| Some(cell.round_trips),
        1.0,
    ),
    figure("connects", "connects", "", |cell| Some(cell.connects), 1.0),
    figure(
        "cpu_ms_per_request",
        "CPU per request",
        "ms",
        |cell| cell.cpu,
        0.1,
    ),
    figure("memory_mb", "memory", "MB", |cell| cell.memory, 0.5),
    figure("start_ms", "start", "ms", |cell| cell.start, 5.0),
];

const fn figure(
    key: &'static str,
    label: &'static str,
    unit: &'static str,
    of: fn(&Cell) -> Option<f64>,
    least: f64,
) -> Figure {
    Figure {
        key,
        label,
        unit,
        of,
        least,
    }
}

/// A figure by its key.
pub fn figure_of(key: &str) -> &'static Figure {
    static ALL: [Figure; 12] = FIGURES;
    ALL.iter()
        .find(|figure| figure.key == key)
        .unwrap_or(&ALL[0])
}

impl Cell {
    pub fn json(&self) -> Value {
        let mut cell = json!({
            "run": self.run,
            "candidate": self.candidate,
            "scenario": self.scenario,
            "sent": self.sent,
            "answered": self.answered,
            "failed": self.failed,
            "alter_table_gave_up": self.alter_gave_up,
        });
        for figure in &FIGURES {
            cell[figure.key] = (figure.of)(self).map(rounded).into();
        }
        cell
    }
}

/// To a thousandth: more would only be noise in the file.
pub fn rounded(value: f64) -> f64 {
    (value * 1e3).round() / 1e3
}

/// The nearest rank; `None` without samples. The samples are sorted.
pub fn percentile(sorted: &[f64], share: f64) -> Option<f64> {
    let rank = (share * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.max(1) - 1).copied()
}
