//! What was seen, and its JSON.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use crate::function::{Answer, Description};

pub struct Report {
    pub wait: Duration,
    /// The server's version.
    pub server: String,
    pub with: Description,
    pub without: Option<Description>,
    pub endings: Vec<Ending>,
}

pub struct Ending {
    pub name: String,
    pub does: String,
    pub with: Seen,
    pub without: Option<Seen>,
}

/// What one ending has left.
pub struct Seen {
    pub answer: Answer,
    /// Whether the function has come as far as its first row.
    pub is_reached: bool,
    pub at_once: Look,
    pub later: Look,
    /// How long the migration took; nothing if it gave up.
    pub alter_table: Option<Duration>,
}

/// One look at the server.
#[derive(PartialEq)]
pub struct Look {
    pub sessions: Vec<FunctionSession>,
    /// Whether the temporary table of an ending is there.
    pub temporary: bool,
}

#[derive(PartialEq)]
pub struct FunctionSession {
    pub state: String,
    pub table_lock: bool,
    pub advisory_lock: bool,
    /// Whether its last statement was the ending's.
    pub is_tagged: bool,
}

impl Report {
    /// The endings after which the function has left something open, or that it did not reach.
    pub fn left_open(&self) -> Vec<&str> {
        let open = |ending: &&Ending| ending.with.is_open() || !ending.with.is_reached;
        let open = self.endings.iter().filter(open);
        open.map(|ending| ending.name.as_str()).collect()
    }

    /// Without addresses, names and tokens: it may be shown to others.
    pub fn json(&self) -> Value {
        let described = |description: &Description| {
            let value = &description.value;
            json!({
                "version": value["version"], "host": value["host"], "region": value["region"],
                "architecture": value["architecture"], "layer": value["layer"],
                "pooler": value["pooler"],
            })
        };
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let endings = self.endings.iter().map(|ending| {
            json!({
                "ending": ending.name, "does": ending.does, "with": ending.with.json(),
                "without": ending.without.as_ref().map(Seen::json),
            })
        });
        json!({
            "report": "antifreeze prove",
            "unix_time": now.map_or(0, |now| now.as_secs()),
            "wait_seconds": self.wait.as_secs_f64(),
            "postgresql": self.server,
            "with": described(&self.with),
            "without": self.without.as_ref().map(described),
            "endings": endings.collect::<Vec<_>>(),
            "skipped": self.with.skipped(),
            "left_open": self.left_open(),
        })
    }
}

impl Seen {
    /// Whether something was open after the response, at once or later.
    pub fn is_open(&self) -> bool {
        self.at_once.is_open() || self.later.is_open() || self.alter_table.is_none()
    }

    fn json(&self) -> Value {
        let took = |took: Duration| took.as_secs_f64() * 1e3;
        json!({
            "status": self.answer.status.map(|status| status.as_u16()),
            "answered_ms": took(self.answer.took),
            // Its text may name the host or the role.
            "failed": self.answer.error.is_some(),
            "reached": self.is_reached,
            "at_once": self.at_once.json(),
            "later": self.later.json(),
            "alter_table_ms": self.alter_table.map(took),
            "open": self.is_open(),
        })
    }
}

impl Look {
    pub fn is_open(&self) -> bool {
        self.temporary || self.sessions.iter().any(FunctionSession::is_open)
    }

    fn json(&self) -> Value {
        let sessions = self.sessions.iter().map(|session| {
            json!({
                "state": session.state, "table_lock": session.table_lock,
                "advisory_lock": session.advisory_lock,
            })
        });
        json!({ "sessions": sessions.collect::<Vec<_>>(), "temporary_table": self.temporary })
    }
}

impl FunctionSession {
    pub fn is_open(&self) -> bool {
        self.state != "idle" || self.table_lock || self.advisory_lock
    }
}
