//! Events of a run.

use std::fmt;
use std::time::Duration;

use serde::Serialize;

use super::lint::Finding;
use super::report::milliseconds;

/// An event of a run. `Display` is one line without control characters; JSON has the name as
/// `event`.
#[derive(Debug, Clone, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Event {
    /// The server has no free connection slot; connecting is retried.
    NoSlot {
        /// The server's error.
        reason: String,
        /// How long connecting is retried.
        #[serde(rename = "limit_ms", serialize_with = "milliseconds")]
        limit: Duration,
    },
    /// Another runner holds the lock on this database.
    Waiting {
        /// The session that holds the lock, if it is visible.
        holder: Option<ServerSession>,
        /// How long this runner has waited.
        #[serde(rename = "waited_ms", serialize_with = "milliseconds")]
        waited: Duration,
    },
    /// This runner holds the lock.
    Locked,
    /// The migrations to run, in order.
    Planned {
        /// `V2__add_column`.
        pending: Vec<String>,
    },
    /// The text of an applied migration differs from its file only in line endings or the byte
    /// order mark. It counts as unchanged.
    OtherLineEnds {
        /// `V2__add_column`.
        migration: String,
    },
    /// The lint has a finding in a pending migration.
    Finding(Finding),
    /// A migration begins.
    Started {
        /// `V2__add_column`.
        migration: String,
        /// The number of the attempt, from 1.
        attempt: u32,
        /// Whether it runs in a transaction, together with its entry in the history.
        transaction: bool,
    },
    /// A statement waits for a lock.
    Blocked(Blocked),
    /// A blocking session was ended, since it was idle in a transaction for longer than
    /// `terminate_idle_in_transaction`.
    Terminated {
        /// The session.
        session: ServerSession,
    },
    /// A blocking session could not be ended.
    NotTerminated {
        /// The session.
        session: ServerSession,
        /// The server's error.
        reason: String,
    },
    /// An attempt failed and is retried.
    Retrying {
        /// `V2__add_column`, or the tool.
        migration: String,
        /// The number of the failed attempt, from 1.
        attempt: u32,
        /// The SQLSTATE of the failure; 55P03 is `lock_not_available`.
        sqlstate: String,
        /// The delay before the next attempt.
        #[serde(rename = "after_ms", serialize_with = "milliseconds")]
        after: Duration,
    },
    /// An invalid index that a failed attempt had left was removed.
    IndexRemoved {
        /// Its name, quoted and with its schema.
        index: String,
    },
    /// An invalid index exists: queries do not use it, and every write maintains it.
    InvalidIndex {
        /// Its name, quoted and with its schema.
        index: String,
        /// Its table, quoted and with its schema.
        table: String,
        /// The statement that removes it.
        remove: String,
    },
    /// The index that a statement creates already exists, from an earlier run.
    IndexExists {
        /// Its name, quoted and with its schema.
        index: String,
    },
    /// A migration was applied and recorded in the history.
    Applied(Applied),
    /// A migration was recorded in the history without being run.
    Recorded {
        /// `V2__add_column`.
        migration: String,
    },
    /// The lock was released.
    Released,
    /// The lock was lost before the end of the run.
    LockLost,
    /// The second connection could not be opened or was lost: blocking sessions are not
    /// reported.
    MonitorUnavailable {
        /// The error.
        reason: String,
    },
    /// The tool begins.
    ToolStarted {
        /// Its name.
        tool: String,
        /// The number of the attempt, from 1.
        attempt: u32,
    },
    /// The tool waits for a lock for longer than `lock_timeout`: it does not read `PGOPTIONS`.
    ToolIgnoresOptions {
        /// The process ID of its session.
        pid: i32,
    },
}

/// A migration that was applied.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Applied {
    /// `V2__add_column`.
    pub migration: String,
    /// The number of attempts.
    pub attempts: u32,
    /// How long the last attempt took.
    #[serde(rename = "took_ms", serialize_with = "milliseconds")]
    pub took: Duration,
}

/// A statement that waits for a lock, with the sessions that block it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Blocked {
    /// `V2__add_column`, or the tool.
    pub migration: String,
    /// The line at which the statement begins, if known.
    pub line: Option<usize>,
    /// The relation that is locked, if any.
    pub relation: Option<String>,
    /// The mode of the lock: `AccessExclusiveLock`.
    pub mode: Option<String>,
    /// The blocking sessions; those that do not wait themselves come first.
    pub by: Vec<ServerSession>,
}

/// A session of the server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct ServerSession {
    /// Its process ID; 0 is a prepared transaction (`pg_prepared_xacts`).
    pub pid: i32,
    /// Its `application_name`.
    pub application: Option<String>,
    /// Its role.
    pub user: Option<String>,
    /// The client's address.
    pub client: Option<String>,
    /// `active`, `idle in transaction`, ..; `None` if the role may not see it.
    pub state: Option<String>,
    /// How long it has been in this state.
    #[serde(rename = "since_ms", serialize_with = "some_milliseconds")]
    pub since: Option<Duration>,
    /// Whether it waits for a lock itself.
    pub waits: bool,
}

fn some_milliseconds<S: serde::Serializer>(
    time: &Option<Duration>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    match time {
        Some(time) => milliseconds(time, serializer),
        None => serializer.serialize_none(),
    }
}

impl fmt::Display for ServerSession {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.pid == 0 {
            return f.write_str("a prepared transaction (pg_prepared_xacts)");
        }
        write!(f, "pid {}", self.pid)?;
        let named = [&self.application, &self.user, &self.client];
        let named: Vec<String> = named
            .into_iter()
            .flatten()
            .filter(|name| !name.is_empty())
            .map(|name| Clean(name).to_string())
            .collect();
        if !named.is_empty() {
            write!(f, " ({})", named.join(", "))?;
        }
        if let Some(state) = &self.state {
            write!(f, ", {}", Clean(state))?;
        }
        if let Some(since) = self.since {
            write!(f, " for {}", Rounded(since))?;
        }
        if self.waits {
            f.write_str(", waiting for a lock itself")?;
        }
        Ok(())
    }
}

impl fmt::Display for Blocked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} waits for a lock", At(&self.migration, self.line))?;
        if let Some(relation) = &self.relation {
            write!(f, " on {}", Clean(relation))?;
        }
        if !self.by.is_empty() {
            let by: Vec<String> = self.by.iter().map(ServerSession::to_string).collect();
            write!(f, ", blocked by {}", by.join("; "))?;
        }
        Ok(())
    }
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Event::NoSlot { reason, limit } => {
                write!(
                    f,
                    "no connection slot is free: {reason}; retrying for {}",
                    Rounded(*limit)
                )
            }
            Event::Waiting { holder, waited } => {
                f.write_str("waiting for another runner")?;
                if let Some(holder) = holder {
                    write!(f, ", {holder}")?;
                }
                write!(f, " (for {})", Rounded(*waited))
            }
            Event::Locked => f.write_str("lock acquired"),
            Event::Planned { pending } if pending.is_empty() => {
                f.write_str("no migrations are pending")
            }
            Event::Planned { pending } => write!(f, "pending: {}", pending.join(", ")),
            Event::OtherLineEnds { migration } => write!(
                f,
                "{migration} was applied with other line endings than its file has (LF or CRLF, or \
                 a byte order mark) and counts as unchanged: put `*.sql text eol=lf` into \
                 .gitattributes"
            ),
            Event::Finding(finding) => finding.fmt(f),
            Event::Started {
                migration,
                attempt: 1,
                ..
            } => write!(f, "{migration} begins"),
            Event::Started {
                migration, attempt, ..
            } => write!(f, "{migration} begins, attempt {attempt}"),
            Event::Blocked(blocked) => blocked.fmt(f),
            Event::Terminated { session } => write!(f, "terminated {session}"),
            Event::NotTerminated { session, reason } => {
                write!(f, "could not terminate {session}: {reason}")
            }
            Event::Retrying {
                migration,
                attempt,
                sqlstate,
                after,
            } => write!(
                f,
                "{migration} failed in attempt {attempt} ({sqlstate}), retrying in {}",
                Rounded(*after)
            ),
            Event::IndexRemoved { index } => {
                write!(f, "removed the invalid index {}", Clean(index))
            }
            Event::InvalidIndex {
                index,
                table,
                remove,
            } => write!(
                f,
                "the index {} of {} is invalid: queries do not use it, and every write maintains \
                 it; remove it with {}",
                Clean(index),
                Clean(table),
                Clean(remove)
            ),
            Event::IndexExists { index } => {
                write!(f, "the index {} already exists", Clean(index))
            }
            Event::Applied(applied) => write!(
                f,
                "{} applied in {}",
                applied.migration,
                Rounded(applied.took)
            ),
            Event::Recorded { migration } => {
                write!(f, "{migration} recorded as applied, without running it")
            }
            Event::Released => f.write_str("lock released"),
            Event::LockLost => f.write_str(
                "the lock was lost before the end: another runner may have run at the same time",
            ),
            Event::MonitorUnavailable { reason } => write!(
                f,
                "no second connection, so blocking sessions are not reported: {reason}"
            ),
            Event::ToolStarted { tool, attempt: 1 } => write!(f, "{tool} begins"),
            Event::ToolStarted { tool, attempt } => write!(f, "{tool} begins, attempt {attempt}"),
            Event::ToolIgnoresOptions { pid } => write!(
                f,
                "pid {pid} of the tool waits for longer than lock_timeout: the tool ignores \
                 PGOPTIONS; put `options=-c lock_timeout=..` into its URL, or use ALTER ROLE .. SET"
            ),
        }
    }
}

/// Formats a migration with a line of it.
pub(super) struct At<'a>(pub(super) &'a str, pub(super) Option<usize>);

impl fmt::Display for At<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.1 {
            Some(line) => write!(f, "{} (line {line})", self.0),
            None => f.write_str(self.0),
        }
    }
}

/// Formats a duration, rounded.
pub(super) struct Rounded(pub(super) Duration);

impl fmt::Display for Rounded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.as_secs() {
            0 => write!(f, "{} ms", self.0.as_millis()),
            1..=9 => write!(f, "{:.1} s", self.0.as_secs_f64()),
            seconds @ 10..=599 => write!(f, "{seconds} s"),
            seconds => write!(f, "{} min", seconds / 60),
        }
    }
}

/// Formats a name from the server without control characters.
struct Clean<'a>(&'a str);

impl fmt::Display for Clean<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = self.0.chars().map(|c| if c.is_control() { '?' } else { c });
        f.write_str(&shown.collect::<String>())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn idle() -> ServerSession {
        ServerSession {
            pid: 42,
            application: Some("shop\u{1b}[31m".to_owned()),
            user: Some("app".to_owned()),
            client: None,
            state: Some("idle in transaction".to_owned()),
            since: Some(Duration::from_secs(75)),
            waits: false,
        }
    }

    #[test]
    fn blocked_is_one_line_without_control_characters() {
        let blocked = Event::Blocked(Blocked {
            migration: "V2__x".to_owned(),
            line: Some(3),
            relation: Some("partners".to_owned()),
            mode: None,
            by: vec![idle()],
        });
        assert_eq!(
            blocked.to_string(),
            "V2__x (line 3) waits for a lock on partners, blocked by pid 42 (shop?[31m, app), idle in \
             transaction for 75 s"
        );
    }

    #[test]
    fn json_has_the_name_of_the_event() {
        let json = serde_json::to_value(Event::Terminated { session: idle() }).expect("JSON");
        assert_eq!(json["event"], "terminated");
        assert_eq!(json["session"]["since_ms"], 75_000);
        let applied = Applied {
            migration: "V1__a".to_owned(),
            attempts: 1,
            took: Duration::from_millis(7),
        };
        let json = serde_json::to_value(Event::Applied(applied)).expect("JSON");
        assert_eq!(
            (&json["event"], &json["took_ms"]),
            (&"applied".into(), &7.into())
        );
    }
}
