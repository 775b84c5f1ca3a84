//! Defines the health report and its JSON. `docs/health.md` explains each field, and
//! `docs/health.schema.json` is its schema.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use http::StatusCode;
use serde::{Deserialize, Serialize, Serializer};

use super::migrations::PendingMigrations;
use crate::config::{Settings, SettingsReport};
use crate::error::ErrorKind;
use crate::limit::Slots;

/// The health of a database and of this process's connections to it.
///
/// Returned by [`Database::health`](crate::Database::health). An unknown figure is `None`, never
/// zero.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
#[must_use]
pub struct Health {
    /// The status, which decides the HTTP status.
    pub status: Status,
    /// Whether the database can be reached.
    pub database: Reachability,
    /// The pool of this process.
    pub postgres: Process,
    /// The server, as of its last answer.
    pub server: Option<Server>,
}

/// The status of a database.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Status {
    /// The server answers and has free slots.
    Ok,
    /// More of its slots are taken than
    /// [`Config::high_water_mark`](crate::Config::high_water_mark) says.
    Crowded,
    /// The server cannot be reached.
    Unavailable,
    /// The server could not be asked without taking a connection from a request, and its last
    /// answer is too old.
    Unknown,
}

/// Whether the database can be reached. In JSON `"connected"`, `"unknown"`, or the
/// [kind](ErrorKind) of error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Reachability {
    /// The server answered.
    Connected,
    /// Connecting or the query failed.
    Failed(ErrorKind),
    /// The server was not asked recently.
    Unknown,
}

/// The pool of the current tokio runtime, its settings, and the circuit breaker.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Process {
    /// The maximum number of connections.
    pub pool_size: usize,
    /// The number of connections leased to invocations.
    pub checked_out: usize,
    /// The number of connections kept for later invocations.
    pub idle: usize,
    /// `checked_out` of `pool_size`: `"2/5"`.
    pub connection_usage: String,
    /// The same: `"40.0%"`.
    pub usage_percentage: String,
    /// Whether a checkout has to wait now.
    pub pool_full: bool,
    /// A warning that the pool is full or nearly full. A pool of one has none: it is full whenever
    /// it works.
    pub warning: Option<String>,
    /// The circuit breaker, while it is open.
    pub circuit: Option<Circuit>,
    /// The size of its pool that a pooler named when it refused a connection.
    pub pooler_pool_size: Option<u32>,
    /// The settings in force.
    pub settings: SettingsReport,
}

/// A circuit breaker that is open: one caller tries to connect, and the others wait for it.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Circuit {
    /// How long it has been open.
    pub open_seconds: f64,
    /// The kind of the last error.
    #[serde(serialize_with = "shown")]
    pub kind: ErrorKind,
    /// The time until the next try is due.
    pub next_try_seconds: f64,
}

/// The server, as of its last answer.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct Server {
    /// The age of the answer.
    pub age_seconds: f64,
    /// The duration of a round trip in milliseconds.
    pub latency_ms: Option<f64>,
    /// Its version.
    pub version: Option<String>,
    /// The number of slots that are not reserved for other roles.
    pub limit: Option<u32>,
    /// The number of slots in use.
    pub used: Option<u32>,
    /// The number of slots that this role cannot use.
    pub reserved: Option<u32>,
    /// `used` of `limit`: `"40.0%"`.
    pub usage_percentage: Option<String>,
    /// The role's own slots, if it has a limit.
    pub role: Option<Slots>,
    /// The database's own slots, if it has a limit.
    pub database: Option<Slots>,
    /// The sessions by `application_name`; beyond fifty names, the rest is `"(others)"`.
    pub by_application: Option<BTreeMap<String, u32>>,
    /// The sessions by role; beyond fifty, the rest is `"(others)"`.
    pub by_user: Option<BTreeMap<String, u32>>,
    /// The sessions by state; `"unknown"` are those whose state this role may not see.
    pub by_state: Option<BTreeMap<String, u32>>,
    /// The number of sessions that are idle in a transaction, failed ones included.
    pub idle_in_transaction: Option<u32>,
    /// How long the first of them has been idle; 0 if there is none.
    pub oldest_idle_in_transaction_seconds: Option<f64>,
    /// The age of the oldest transaction of another session; 0 if there is none.
    pub longest_transaction_seconds: Option<f64>,
    /// The timeouts in effect for the reading's session, as `SHOW` prints them.
    pub timeouts: Option<BTreeMap<String, String>>,
    /// The migrations that were not run, of those passed to
    /// [`Database::expect_migrations`](crate::Database::expect_migrations).
    pub migrations: Option<PendingMigrations>,
    /// What to run to make unknown figures known.
    pub hint: Option<String>,
}

/// The part of a pool, in percent, from which it is nearly full.
const NEARLY_FULL: usize = 80;

impl Health {
    /// Returns 503 if the server is crowded or cannot be reached, else 200. The state of this
    /// process's pool does not change it.
    pub fn status_code(&self) -> StatusCode {
        match self.status {
            Status::Ok | Status::Unknown => StatusCode::OK,
            Status::Crowded | Status::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        }
    }
}

impl Process {
    pub(super) fn new(config: &Settings, checked_out: usize, idle: usize) -> Self {
        let size = config.max_connections;
        let full = checked_out >= size;
        let warning = match size {
            // It is full whenever it works.
            0 | 1 => None,
            _ if full => Some(format!(
                "all connections are checked out: the next checkout waits up to {:.1?} \
                 (max_connections, acquire_timeout)",
                config.acquire_timeout
            )),
            _ if checked_out.saturating_mul(100) >= size.saturating_mul(NEARLY_FULL) => {
                Some("nearly all connections are checked out (max_connections)".to_owned())
            }
            _ => None,
        };
        Process {
            pool_size: size,
            checked_out,
            idle,
            connection_usage: format!("{checked_out}/{size}"),
            usage_percentage: percentage(checked_out as u64, size as u64),
            pool_full: full,
            warning,
            circuit: None,
            pooler_pool_size: None,
            settings: config.report(),
        }
    }
}

/// Converts to seconds, rounded to milliseconds.
pub(super) fn seconds(time: Duration) -> f64 {
    (time.as_secs_f64() * 1000.0).round() / 1000.0
}

/// Formats a percentage: `"40.0%"`. Of zero, all is in use.
pub(super) fn percentage(part: u64, whole: u64) -> String {
    let percent = match whole {
        0 => 100.0,
        _ => part as f64 * 100.0 / whole as f64,
    };
    format!("{percent:.1}%")
}

impl fmt::Display for Reachability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reachability::Connected => f.write_str("connected"),
            Reachability::Failed(kind) => kind.fmt(f),
            Reachability::Unknown => f.write_str("unknown"),
        }
    }
}

impl Serialize for Reachability {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

fn shown<S: Serializer>(kind: &ErrorKind, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(kind)
}

#[cfg(test)]
mod tests;
