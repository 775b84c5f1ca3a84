//! The health report and its JSON. `docs/health.md` explains each, and
//! `docs/health.schema.json` is its schema.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use http::StatusCode;
use serde::{Serialize, Serializer};

use super::migrations::Pending;
use crate::config::{Settings, SettingsReport};
use crate::error::ErrorKind;

/// How a database and this process's connections to it are.
///
/// Made by [`Database::health`](crate::Database::health). What is not known is `None`,
/// and never zero.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
#[must_use]
pub struct Health {
    /// The whole in one word: what a load balancer goes by.
    pub status: Status,
    /// Whether the database can be reached.
    pub database: Reached,
    /// This process's side.
    pub postgres: Process,
    /// What the server said of itself when it was last asked.
    pub server: Option<Server>,
}

/// How it is, in one word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Status {
    /// The server answers and has room.
    Ok,
    /// More of its slots are taken than [`Config::high_water_mark`](crate::Config::high_water_mark)
    /// says.
    Crowded,
    /// It cannot be reached.
    Unavailable,
    /// It could not be asked without taking a connection from a request, and what is
    /// known is too old.
    Unknown,
}

/// Whether the database can be reached. In JSON `"connected"`, `"unknown"`, or the
/// [kind](ErrorKind) of error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Reached {
    /// It answered.
    Connected,
    /// It did not.
    Failed(ErrorKind),
    /// It was not asked for a while.
    Unknown,
}

/// The pool of the current tokio runtime, what it goes by, and what keeps it from
/// connecting.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Process {
    /// The most connections that there may be.
    pub pool_size: usize,
    /// Those that invocations have.
    pub checked_out: usize,
    /// Those that are kept for the next.
    pub idle: usize,
    /// `checked_out` of `pool_size`: `"2/5"`.
    pub connection_usage: String,
    /// The same: `"40.0%"`.
    pub usage_percentage: String,
    /// A checkout has to wait now.
    pub pool_full: bool,
    /// What needs attention. A pool of one is full whenever it works: that is
    /// none.
    pub warning: Option<String>,
    /// The circuit breaker, while it is open.
    pub circuit: Option<Circuit>,
    /// The size of its pool that a pooler named when it refused a connection.
    pub pooler_pool_size: Option<u32>,
    /// The settings in force.
    pub settings: SettingsReport,
}

/// A circuit breaker that is open: one tries, and the others wait for it.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Circuit {
    /// For how long it has been.
    pub open_seconds: f64,
    /// What has opened it.
    #[serde(serialize_with = "shown")]
    pub kind: ErrorKind,
    /// When the next try is due.
    pub next_try_seconds: f64,
}

/// What the server said of itself.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
#[non_exhaustive]
pub struct Server {
    /// How long ago.
    pub age_seconds: f64,
    /// What a round trip took then, in milliseconds.
    pub latency_ms: Option<f64>,
    /// Its version.
    pub version: Option<String>,
    /// The slots that are not reserved for others.
    pub limit: Option<u32>,
    /// Those that clients have.
    pub used: Option<u32>,
    /// Slots that this role cannot have.
    pub reserved: Option<u32>,
    /// `used` of `limit`: `"40.0%"`.
    pub usage_percentage: Option<String>,
    /// The role's own slots, if it has a limit.
    pub role: Option<Slots>,
    /// The database's own slots, if it has a limit.
    pub database: Option<Slots>,
    /// Sessions by `application_name`; beyond fifty names, the rest is `"(others)"`.
    pub by_application: Option<BTreeMap<String, u32>>,
    /// Sessions by role; beyond fifty, the rest is `"(others)"`.
    pub by_user: Option<BTreeMap<String, u32>>,
    /// Sessions by state; `"unknown"` are those whose state this role may not see.
    pub by_state: Option<BTreeMap<String, u32>>,
    /// Sessions that are idle in a transaction, aborted ones too.
    pub idle_in_transaction: Option<u32>,
    /// For how long the first of them has been; 0 if there is none.
    pub oldest_idle_in_transaction_seconds: Option<f64>,
    /// How old the oldest transaction of another session is; 0 if there is none.
    pub longest_transaction_seconds: Option<f64>,
    /// The server's timeouts, as they were for our session, in its own words.
    pub timeouts: Option<BTreeMap<String, String>>,
    /// Migrations that were not run, if any are expected: see
    /// [`Database::expect_migrations`](crate::Database::expect_migrations).
    pub migrations: Option<Pending>,
    /// What to do to have what is unknown here known.
    pub hint: Option<String>,
}

/// Slots, and how many are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Slots {
    /// All.
    pub limit: u32,
    /// Those that are taken.
    pub used: u32,
}

/// From here on, in percent, a pool of several is nearly full.
const NEARLY: usize = 80;

impl Health {
    /// 503 if the server is crowded or cannot be reached, else 200. What this process's
    /// own pool is doing says nothing about the server.
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
                "all connections are checked out: who asks next waits up to {:.1?} \
                 (max_connections, acquire_timeout)",
                config.acquire_timeout
            )),
            _ if checked_out.saturating_mul(100) >= size.saturating_mul(NEARLY) => {
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

/// Whole milliseconds: more is noise.
pub(super) fn seconds(time: Duration) -> f64 {
    (time.as_secs_f64() * 1000.0).round() / 1000.0
}

/// `"40.0%"`. Of nothing, all is taken.
pub(super) fn percentage(part: u64, whole: u64) -> String {
    let percent = match whole {
        0 => 100.0,
        _ => part as f64 * 100.0 / whole as f64,
    };
    format!("{percent:.1}%")
}

impl fmt::Display for Reached {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reached::Connected => f.write_str("connected"),
            Reached::Failed(kind) => kind.fmt(f),
            Reached::Unknown => f.write_str("unknown"),
        }
    }
}

impl Serialize for Reached {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

fn shown<S: Serializer>(kind: &ErrorKind, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(kind)
}

#[cfg(test)]
mod tests;
