//! What was run before: refinery's table, as refinery itself reads and writes it.
//!
//! Refinery decides what is pending, and makes the text of every statement about the table.
//! [`Recorder`] is what it takes for a connection; we execute on our own.

use async_trait::async_trait;
use refinery_core::error::Kind as Refused;
use refinery_core::traits::r#async::{AsyncMigrate, AsyncQuery, AsyncTransaction};
use refinery_core::{Migration, Runner as Refinery, Target};
use serde::Serialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio_postgres::{Client, SimpleQueryMessage};

use super::error::{Error, Kind, Result};
use super::files::{Migrations, Step};

/// Refinery's name for it.
const TABLE: &str = "refinery_schema_history";

/// What the database remembers.
#[derive(Debug, Default)]
pub(super) struct History {
    /// Its name with the schema: a migration may change the `search_path`.
    table: String,
    is_there: bool,
    pub(super) applied: Vec<Migration>,
    /// The names of those that were applied with other line ends than their files have now.
    pub(super) other_line_ends: Vec<String>,
}

/// Where a migration stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Status {
    /// `V2__add_column`.
    pub migration: String,
    /// Its version.
    pub version: i64,
    /// Whether it was run.
    pub state: State,
    /// When it was run, as refinery wrote it (RFC 3339).
    pub applied_on: Option<String>,
}

/// Whether a migration was run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum State {
    /// Yes.
    Applied,
    /// Not yet.
    Pending,
    /// Yes, with another name or text than it has now.
    Changed,
    /// Yes, and there is no such file any more.
    Missing,
    /// No, and later ones were.
    Skipped,
}

/// The version, however wide refinery was built.
pub(super) fn version(migration: &Migration) -> i64 {
    #[allow(clippy::useless_conversion)]
    i64::from(migration.version())
}

impl History {
    /// Reads it, beside `migrations`; nothing is changed, and the table need not be there.
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
                Kind::Configuration,
                "the search_path names no schema that is there, so there is no place for the \
                 history: create the schema, or set `schema`",
            ));
        }
        if history.is_there {
            let query = Recorder::get_applied_migrations_query(&history.table);
            history.take(&client.simple_query(&query).await?, migrations)?;
        }
        Ok(history)
    }

    /// Reads the table of this name, which is there, and waits for nobody who has it locked.
    pub(super) async fn glance(
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

    /// Takes its rows. Line ends are no change: they are another checksum on each system that
    /// checks a file out, and resolved on the one it would be a change on the other.
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

    /// Makes the table, unless it is there.
    pub(super) async fn ensure(&mut self, client: &Client) -> Result<()> {
        if !self.is_there {
            let create = Recorder::assert_migrations_table_query(&self.table);
            client.batch_execute(&create).await?;
            self.is_there = true;
        }
        Ok(())
    }

    /// What is to be run, in its order.
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

    /// The statement that writes `migration` into the history as of now.
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
                Kind::History,
                "refinery did not say how to write the history",
            )
        })
    }

    /// The statement that takes a version out of it.
    pub(super) fn deletion(&self, migration: &Migration) -> String {
        format!(
            "delete from {} where version = {}",
            self.table,
            migration.version()
        )
    }

    /// Where each migration stands, files and history together.
    pub(super) fn status(&self, migrations: &Migrations) -> Vec<Status> {
        let last = self.applied.iter().map(version).max();
        let mut all: Vec<_> = migrations
            .all
            .iter()
            .map(|step| {
                let known = self.find(step.version());
                // `U`: it may be run out of its order. Refinery's type has no public name.
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
        let gone = self
            .applied
            .iter()
            .filter(|one| migrations.find(version(one)).is_err());
        all.extend(gone.map(|one| Status {
            migration: one.to_string(),
            version: version(one),
            state: State::Missing,
            applied_on: applied_on(one),
        }));
        all.sort_by_key(|status| status.version);
        all
    }

    pub(super) fn find(&self, wanted: i64) -> Option<&Migration> {
        self.applied.iter().find(|one| version(one) == wanted)
    }
}

/// Whether `known` has the checksum of the text of `file` with LF or CRLF throughout, with or
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
            Kind::History,
            format!(
                "the history's row of version {version} has no {what} that refinery would write"
            ),
        )
    };
    let on = OffsetDateTime::parse(on, &Rfc3339).map_err(|_| wrong("applied_on"))?;
    let checksum = checksum.parse().map_err(|_| wrong("checksum"))?;
    let version = version.parse().map_err(|_| wrong("version"))?;
    Ok(Migration::applied(version, name.to_owned(), on, checksum))
}

/// What refinery refuses, in one line with a remedy.
fn explain(error: refinery_core::Error) -> Error {
    let message = match error.kind() {
        Refused::DivergentVersion(applied, file) => format!(
            "{applied} was applied with another name or text than {file} has now: restore the \
             file, or `resolve` the version if the change does not matter"
        ),
        Refused::MissingVersion(migration) if migration.sql().is_some() => format!(
            "{migration} was not applied, and later ones were: give it a later version, or \
             `resolve` it if it was done by hand"
        ),
        Refused::MissingVersion(migration) => format!(
            "{migration} was applied, and its file is missing: restore it, or is this an older \
             deployment than the last?"
        ),
        _ => "refinery refuses the migrations".to_owned(),
    };
    Error::new(Kind::History, message).with_source(error)
}

/// The field of the first row.
fn text(messages: &[SimpleQueryMessage], at: usize) -> Option<&str> {
    messages.iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => row.get(at),
        _ => None,
    })
}

/// A database that has applied what it is told, and writes down what it is to execute.
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
