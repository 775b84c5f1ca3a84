//! What happens while migrations run, for whoever watches.

use std::fmt;
use std::time::Duration;

use serde::Serialize;

use super::lint::Finding;
use super::report::milliseconds;

/// What happens while migrations run. Each prints as one line without control characters,
/// and serializes with its name as `event`.
#[derive(Debug, Clone, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Event {
    /// The server has no slot left for us, and is asked again and again.
    NoSlot {
        /// What it said.
        why: String,
        /// For how long it is asked.
        #[serde(rename = "limit_ms", serialize_with = "milliseconds")]
        limit: Duration,
    },
    /// Somebody else runs migrations on this database.
    Waiting {
        /// Who has the lock, if the server told.
        holder: Option<Session>,
        /// For how long we have waited.
        #[serde(rename = "waited_ms", serialize_with = "milliseconds")]
        waited: Duration,
    },
    /// The lock is ours, and on one session.
    Locked,
    /// What is to be run, in this order.
    Planned {
        /// `V2__add_column`.
        pending: Vec<String>,
    },
    /// A migration was applied with other line ends than its file has, or with another byte
    /// order mark, and nothing else differs: it counts as the same.
    OtherLineEnds {
        /// `V2__add_column`.
        migration: String,
    },
    /// The lint found something in what is to be run.
    Finding(Finding),
    /// A migration begins.
    Started {
        /// `V2__add_column`.
        migration: String,
        /// Counted from 1.
        attempt: u32,
        /// Whether it runs in a transaction, together with its row in the history.
        transaction: bool,
    },
    /// What we run waits for a lock.
    Blocked(Blocked),
    /// A session that idled in a transaction was ended, as consented.
    Terminated {
        /// Who it was.
        session: Session,
    },
    /// One that should have been could not be.
    NotTerminated {
        /// Who it is.
        session: Session,
        /// Why not.
        why: String,
    },
    /// What was blocked gave way, and is tried again.
    Retrying {
        /// `V2__add_column`, or the tool.
        migration: String,
        /// The attempt that failed, counted from 1.
        attempt: u32,
        /// The SQLSTATE of its failure; 55P03 is a lock that was not to be had.
        sqlstate: String,
        /// When it is tried again.
        #[serde(rename = "after_ms", serialize_with = "milliseconds")]
        after: Duration,
    },
    /// An invalid index that an attempt had left was removed.
    IndexRemoved {
        /// Its name, quoted and with its schema.
        index: String,
    },
    /// An invalid index is there: no query uses it, and every write pays for it.
    IndexLeft {
        /// Its name, quoted and with its schema.
        index: String,
        /// Its table, likewise.
        table: String,
        /// The line that removes it.
        remove: String,
    },
    /// The index that a statement would make is there already, as an earlier run left it.
    IndexThere {
        /// Its name, quoted and with its schema.
        index: String,
    },
    /// A migration is done, and in the history.
    Applied(Applied),
    /// A migration was written into the history without being run.
    Recorded {
        /// `V2__add_column`.
        migration: String,
    },
    /// The lock was given back.
    Released,
    /// It was not ours any more when it was to be given back.
    LockLost,
    /// No second connection was to be had: who blocks us will not be known.
    Unwatched {
        /// Why not.
        why: String,
    },
    /// The other tool begins.
    ToolStarted {
        /// Its name.
        tool: String,
        /// Counted from 1.
        attempt: u32,
    },
    /// The other tool waits for a lock for longer than it was told to: it did not take
    /// `PGOPTIONS`.
    ToolHeedless {
        /// Its session.
        pid: i32,
    },
}

/// A migration that is done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Applied {
    /// `V2__add_column`.
    pub migration: String,
    /// How often it was tried.
    pub attempts: u32,
    /// How long the last attempt took.
    #[serde(rename = "took_ms", serialize_with = "milliseconds")]
    pub took: Duration,
}

/// Somebody waits for a lock, and these are in the way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Blocked {
    /// `V2__add_column`, or the tool.
    pub migration: String,
    /// The line at which the statement begins, if it is known.
    pub line: Option<usize>,
    /// The relation that is waited for, if it is one.
    pub relation: Option<String>,
    /// The lock that is waited for: `AccessExclusiveLock`.
    pub mode: Option<String>,
    /// Who is in the way, those first that wait for nobody themselves.
    pub by: Vec<Session>,
}

/// A session of the server's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Session {
    /// Its process; 0 is a prepared transaction (`pg_prepared_xacts`).
    pub pid: i32,
    /// Its `application_name`.
    pub application: Option<String>,
    /// Its role.
    pub user: Option<String>,
    /// Where it comes from.
    pub client: Option<String>,
    /// `active`, `idle in transaction`, ...; nothing where our role may not see it.
    pub state: Option<String>,
    /// For how long it has been in this state.
    #[serde(rename = "since_ms", serialize_with = "some_milliseconds")]
    pub since: Option<Duration>,
    /// Whether it waits for somebody else in turn.
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

impl fmt::Display for Session {
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
            f.write_str(", waiting itself")?;
        }
        Ok(())
    }
}

impl fmt::Display for Blocked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} waits", At(&self.migration, self.line))?;
        if let Some(relation) = &self.relation {
            write!(f, " for {}", Clean(relation))?;
        }
        if !self.by.is_empty() {
            let by: Vec<String> = self.by.iter().map(Session::to_string).collect();
            write!(f, ", blocked by {}", by.join("; "))?;
        }
        Ok(())
    }
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Event::NoSlot { why, limit } => {
                write!(
                    f,
                    "no slot: {why}; trying for {} to get one",
                    Rounded(*limit)
                )
            }
            Event::Waiting { holder, waited } => {
                f.write_str("waiting for another runner")?;
                if let Some(holder) = holder {
                    write!(f, ", {holder}")?;
                }
                write!(f, " (since {})", Rounded(*waited))
            }
            Event::Locked => f.write_str("the lock is ours"),
            Event::Planned { pending } if pending.is_empty() => f.write_str("nothing is pending"),
            Event::Planned { pending } => write!(f, "pending: {}", pending.join(", ")),
            Event::OtherLineEnds { migration } => write!(
                f,
                "{migration} was applied with other line ends than its file has (LF against CRLF, \
                 or a byte order mark), and counts as the same: `*.sql text eol=lf` in \
                 .gitattributes keeps them"
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
            Event::NotTerminated { session, why } => {
                write!(f, "could not terminate {session}: {why}")
            }
            Event::Retrying {
                migration,
                attempt,
                sqlstate,
                after,
            } => write!(
                f,
                "{migration} gave way at attempt {attempt} ({sqlstate}) and is tried again in {}",
                Rounded(*after)
            ),
            Event::IndexRemoved { index } => {
                write!(f, "removed the invalid index {}", Clean(index))
            }
            Event::IndexLeft {
                index,
                table,
                remove,
            } => write!(
                f,
                "the index {} of {} is invalid: no query uses it, and every write pays for it; \
                 remove it with {}",
                Clean(index),
                Clean(table),
                Clean(remove)
            ),
            Event::IndexThere { index } => {
                write!(f, "the index {} is there already", Clean(index))
            }
            Event::Applied(applied) => write!(
                f,
                "{} is applied, in {}",
                applied.migration,
                Rounded(applied.took)
            ),
            Event::Recorded { migration } => write!(f, "{migration} is recorded, and was not run"),
            Event::Released => f.write_str("the lock is given back"),
            Event::LockLost => f.write_str(
                "the lock was not ours any more: another runner may have been at it meanwhile",
            ),
            Event::Unwatched { why } => write!(
                f,
                "no second connection, so who blocks us will not be known: {why}"
            ),
            Event::ToolStarted { tool, attempt: 1 } => write!(f, "{tool} begins"),
            Event::ToolStarted { tool, attempt } => write!(f, "{tool} begins, attempt {attempt}"),
            Event::ToolHeedless { pid } => write!(
                f,
                "pid {pid} of the tool waits for longer than lock_timeout: it did not take \
                 PGOPTIONS; put `options=-c lock_timeout=..` into its URL, or ALTER ROLE .. SET"
            ),
        }
    }
}

/// A migration, and a line of it.
pub(super) struct At<'a>(pub(super) &'a str, pub(super) Option<usize>);

impl fmt::Display for At<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.1 {
            Some(line) => write!(f, "{} (line {line})", self.0),
            None => f.write_str(self.0),
        }
    }
}

/// As exact as anybody wants to know it.
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

/// A name that somebody else gave, fit for a terminal.
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

    fn idle() -> Session {
        Session {
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
    fn blocker_is_named_on_one_clean_line() {
        let blocked = Event::Blocked(Blocked {
            migration: "V2__x".to_owned(),
            line: Some(3),
            relation: Some("partners".to_owned()),
            mode: None,
            by: vec![idle()],
        });
        assert_eq!(
            blocked.to_string(),
            "V2__x (line 3) waits for partners, blocked by pid 42 (shop?[31m, app), idle in \
             transaction for 75 s"
        );
    }

    #[test]
    fn events_are_told_apart_in_json() {
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
