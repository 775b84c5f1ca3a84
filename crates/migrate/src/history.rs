//! Reads and writes the history of applied migrations, in refinery's table.
//!
//! Refinery decides which migrations are pending, and generates the statements for the table.
//! [`Recorder`] takes the place of its connection and collects these statements; the runner
//! executes them itself.

use async_trait::async_trait;
use refinery_core::error::Kind as Refused;
use refinery_core::traits::r#async::{AsyncMigrate, AsyncQuery, AsyncTransaction};
use refinery_core::{Migration, Runner as Refinery, Target};
use serde::Serialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio_postgres::{Client, SimpleQueryMessage};

use super::error::{Error, ErrorKind, Result};
use super::files::{Migrations, Step};

/// The table's name in refinery.
const TABLE: &str = "refinery_schema_history";

/// The history of a database.
#[derive(Debug, Default)]
pub(super) struct History {
    /// The table's name with its schema, since a migration may change the `search_path`.
    table: String,
    is_there: bool,
    pub(super) applied: Vec<Migration>,
    /// The names of migrations that differ from their files only in line endings.
    pub(super) other_line_ends: Vec<String>,
}

/// The status of a migration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Status {
    /// `V2__add_column`.
    pub migration: String,
    /// Its version.
    pub version: i64,
    /// Whether it was applied.
    pub state: State,
    /// When it was applied (RFC 3339).
    pub applied_on: Option<String>,
}

/// Whether a migration was applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum State {
    /// Applied.
    Applied,
    /// Not applied yet.
    Pending,
    /// Applied, but its name or text has changed since.
    Changed,
    /// Applied, but its file does not exist any more.
    Missing,
    /// Not applied, although later ones were.
    Skipped,
}

/// Returns the version as `i64`: its type depends on refinery's features.
pub(super) fn version(migration: &Migration) -> i64 {
    #[allow(clippy::useless_conversion)]
    i64::from(migration.version())
}

impl History {
    /// Reads the history and compares it with `migrations`. Changes nothing; the table need not
    /// exist.
    pub(super) async fn read(client: &Client, migrations: &Migrations) -> Result<History> {
        let found = client
            .simple_query(&format!(
                "select coalesce( \
                   (select format('%I.%I', n.nspname, c.relname) from pg_class c \
                    join pg_namespace n on n.oid = c.relnamespace \
                    where c.oid = to_regclass('{TABLE}')), \
                   quote_ident(current_schema()) || '.{TABLE}'), \
                 to_regclass('{TABLE}') is not null"
            ))
            .await?;
        let mut history = History {
            table: text(&found, 0).unwrap_or_default().to_owned(),
            is_there: text(&found, 1) == Some("t"),
            ..History::default()
        };
        if history.table.is_empty() {
            return Err(Error::new(
                ErrorKind::Configuration,
                "the search_path contains no existing schema for the history: create the schema, \
                 or set `schema`",
            ));
        }
        if history.is_there {
            let query = Recorder::get_applied_migrations_query(&history.table);
            history.take(&client.simple_query(&query).await?, migrations)?;
        }
        Ok(history)
    }

    /// Reads the table of this name, which must exist, and waits for a lock for 100 ms at most.
    pub(super) async fn read_briefly(
        client: &Client,
        table: &str,
        migrations: &Migrations,
    ) -> Result<History> {
        let query = Recorder::get_applied_migrations_query(table);
        let query = format!("set local lock_timeout = '100ms'; {query}");
        let mut history = History {
            table: table.to_owned(),
            is_there: true,
            ..History::default()
        };
        history.take(&client.simple_query(&query).await?, migrations)?;
        Ok(history)
    }

    /// Takes the rows of the table. A difference in line endings is not a change: the checksum
    /// depends on the system that checks the file out.
    fn take(&mut self, rows: &[SimpleQueryMessage], migrations: &Migrations) -> Result<()> {
        self.applied = all_applied(rows)?;
        for known in &mut self.applied {
            let Ok(step) = migrations.find(version(known)) else {
                continue;
            };
            let now = &step.migration;
            if *known != *now && differs_in_line_ends(known, now) {
                self.other_line_ends.push(step.name());
                let on = known.applied_on().copied();
                let on = on.unwrap_or(OffsetDateTime::UNIX_EPOCH);
                let name = now.name().to_owned();
                *known = Migration::applied(now.version(), name, on, now.checksum());
            }
        }
        Ok(())
    }

    /// Creates the table if it does not exist.
    pub(super) async fn ensure(&mut self, client: &Client) -> Result<()> {
        if !self.is_there {
            let create = Recorder::assert_migrations_table_query(&self.table);
            client.batch_execute(&create).await?;
            self.is_there = true;
        }
        Ok(())
    }

    /// Returns the pending migrations, in order.
    pub(super) async fn pending<'a>(&self, migrations: &'a Migrations) -> Result<Vec<&'a Step>> {
        let all: Vec<_> = migrations
            .all
            .iter()
            .map(|step| step.migration.clone())
            .collect();
        let mut recorder = Recorder::new(&self.applied);
        let planned = Refinery::new(&all)
            .run_async(&mut recorder)
            .await
            .map_err(explain)?;
        let planned = planned.applied_migrations().iter();
        planned
            .map(|migration| migrations.find(version(migration)))
            .collect()
    }

    /// Returns the statement that records `migration` as applied now.
    pub(super) async fn insertion(&self, migration: &Migration) -> Result<String> {
        let mut recorder = Recorder::new(&[]);
        let refinery = Refinery::new(std::slice::from_ref(migration));
        let mut refinery = refinery.set_target(Target::Fake);
        refinery
            .set_migration_table_name(&self.table)
            .run_async(&mut recorder)
            .await
            .map_err(explain)?;
        recorder.executed.pop().ok_or_else(|| {
            Error::new(
                ErrorKind::History,
                "refinery generated no statement for the history",
            )
        })
    }

    /// Returns the statement that removes a version from the history.
    pub(super) fn deletion(&self, migration: &Migration) -> String {
        format!(
            "delete from {} where version = {}",
            self.table,
            migration.version()
        )
    }

    /// Returns the status of each migration in the files or the history.
    pub(super) fn status(&self, migrations: &Migrations) -> Vec<Status> {
        let last = self.applied.iter().map(version).max();
        let mut all: Vec<_> = migrations
            .all
            .iter()
            .map(|step| {
                let known = self.find(step.version());
                // `U` migrations may run out of order. Refinery's type has no public name.
                let versioned = step.migration.prefix().to_string() == "V";
                Status {
                    migration: step.name(),
                    version: step.version(),
                    state: match known {
                        Some(known) if *known == step.migration => State::Applied,
                        Some(_) => State::Changed,
                        None if versioned && last > Some(step.version()) => State::Skipped,
                        None => State::Pending,
                    },
                    applied_on: known.and_then(applied_on),
                }
            })
            .collect();
        let missing = self
            .applied
            .iter()
            .filter(|applied| migrations.find(version(applied)).is_err());
        all.extend(missing.map(|applied| Status {
            migration: applied.to_string(),
            version: version(applied),
            state: State::Missing,
            applied_on: applied_on(applied),
        }));
        all.sort_by_key(|status| status.version);
        all
    }

    pub(super) fn find(&self, wanted: i64) -> Option<&Migration> {
        self.applied
            .iter()
            .find(|applied| version(applied) == wanted)
    }
}

/// Returns whether `known` has the checksum of `file` with LF or CRLF throughout, with or
/// without a byte order mark.
fn differs_in_line_ends(known: &Migration, file: &Migration) -> bool {
    let text = file.sql().unwrap_or_default();
    let lines = text.trim_start_matches('\u{feff}').replace("\r\n", "\n");
    let texts = [lines.replace('\n', "\r\n"), lines];
    texts.iter().any(|text| {
        [text.clone(), format!("\u{feff}{text}")]
            .iter()
            .any(|text| {
                let other = Migration::unapplied(&file.to_string(), text);
                other.is_ok_and(|other| *known == other)
            })
    })
}

fn applied_on(migration: &Migration) -> Option<String> {
    migration.applied_on()?.format(&Rfc3339).ok()
}

fn all_applied(messages: &[SimpleQueryMessage]) -> Result<Vec<Migration>> {
    let rows = messages.iter().filter_map(|message| match message {
        SimpleQueryMessage::Row(row) => Some(row),
        _ => None,
    });
    rows.map(|row| {
        let value = |at| row.get(at).unwrap_or_default();
        applied(value(0), value(1), value(2), value(3))
    })
    .collect()
}

fn applied(version: &str, name: &str, on: &str, checksum: &str) -> Result<Migration> {
    let wrong = |what| {
        Error::new(
            ErrorKind::History,
            format!(
                "the history has an invalid {what} for version {version}: correct the row in \
                 refinery_schema_history"
            ),
        )
    };
    let on = OffsetDateTime::parse(on, &Rfc3339).map_err(|_| wrong("applied_on"))?;
    let checksum = checksum.parse().map_err(|_| wrong("checksum"))?;
    let version = version.parse().map_err(|_| wrong("version"))?;
    Ok(Migration::applied(version, name.to_owned(), on, checksum))
}

/// Converts an error of refinery into one line with a remedy.
fn explain(error: refinery_core::Error) -> Error {
    let message = match error.kind() {
        Refused::DivergentVersion(applied, file) => format!(
            "{applied} was applied, but {file} has been changed since: restore the file, or \
             `resolve` the version if the change does not matter"
        ),
        Refused::MissingVersion(migration) if migration.sql().is_some() => format!(
            "{migration} was not applied, but later migrations were: give it a later version, or \
             `resolve` it if it was applied by hand"
        ),
        Refused::MissingVersion(migration) => format!(
            "{migration} was applied, but its file is missing: restore it, or check whether this \
             is an older deployment"
        ),
        _ => "refinery rejected the migrations: see the source".to_owned(),
    };
    Error::new(ErrorKind::History, message).with_source(error)
}

/// Returns a field of the first row.
fn text(messages: &[SimpleQueryMessage], at: usize) -> Option<&str> {
    messages.iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => row.get(at),
        _ => None,
    })
}

/// A connection for refinery that reports given migrations as applied and collects the
/// statements to execute.
struct Recorder {
    applied: Vec<Migration>,
    executed: Vec<String>,
}

impl Recorder {
    fn new(applied: &[Migration]) -> Self {
        Recorder {
            applied: applied.to_vec(),
            executed: Vec::new(),
        }
    }
}

#[async_trait]
impl AsyncTransaction for Recorder {
    type Error = std::convert::Infallible;

    async fn execute<'a, T: Iterator<Item = &'a str> + Send>(
        &mut self,
        queries: T,
    ) -> Result<usize, Self::Error> {
        let before = self.executed.len();
        self.executed.extend(queries.map(str::to_owned));
        Ok(self.executed.len() - before)
    }
}

#[async_trait]
impl AsyncQuery<Vec<Migration>> for Recorder {
    async fn query(&mut self, _: &str) -> Result<Vec<Migration>, Self::Error> {
        Ok(self.applied.clone())
    }
}

impl AsyncMigrate for Recorder {}
