//! The set of migrations.

use std::path::Path;

use antifreeze::Database;
use refinery_core::Migration;

use super::error::{Error, ErrorKind, Result};
use super::lint::{self, Finding};
use super::script::Script;
use super::{Runner, directory, history};

/// Migrations in the format of refinery: files named `V1__create_partners.sql`, or `U..` for
/// those that may be run out of order.
///
/// ```no_run
/// use antifreeze_migrate::Migrations;
///
/// # async fn main_() -> Result<(), Box<dyn std::error::Error>> {
/// # let database = antifreeze::Database::from_env()?;
/// let report = Migrations::from_dir("migrations")?.runner(&database).run().await?;
/// println!("{} applied", report.applied.len());
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Migrations {
    pub(super) all: Vec<Step>,
}

/// A migration, and its statements.
#[derive(Debug, Clone)]
pub(super) struct Step {
    pub(super) migration: Migration,
    pub(super) script: Script,
}

impl Step {
    /// Returns its full name: `V1__create_partners`.
    pub(super) fn name(&self) -> String {
        self.migration.to_string()
    }

    pub(super) fn version(&self) -> i64 {
        history::version(&self.migration)
    }
}

impl Migrations {
    /// Reads the migrations of a directory and its subdirectories. Ignores hidden files and
    /// those that are not SQL.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Files`] if the directory does not exist or has no migration, an SQL file is
    /// misnamed, a symbolic link leads to a directory, two files have the same version, or a
    /// file contains a statement that a migration cannot run.
    pub fn from_dir(directory: impl AsRef<Path>) -> Result<Self> {
        let directory = directory.as_ref();
        let migrations = directory::read(directory)?;
        if migrations.is_empty() {
            let message = format!(
                "{} contains no migrations: name the first V1__name.sql, or use another directory",
                directory.display()
            );
            return Err(Error::new(ErrorKind::Files, message));
        }
        Migrations::new(migrations)
    }

    /// Uses migrations that were compiled in, each with its file's name without `.sql`.
    ///
    /// ```
    /// use antifreeze_migrate::Migrations;
    ///
    /// let migrations = Migrations::embedded([
    ///     ("V1__create_partners", "create table partners (id bigint primary key)"),
    ///     // ("V2__add_name", include_str!("../migrations/V2__add_name.sql")),
    /// ])?;
    /// # Ok::<(), antifreeze_migrate::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Files`], as for [`from_dir`](Migrations::from_dir).
    pub fn embedded<'a>(files: impl IntoIterator<Item = (&'a str, &'a str)>) -> Result<Self> {
        let read = files.into_iter().map(|(name, sql)| {
            let stem = name.strip_suffix(".sql").unwrap_or(name);
            directory::named(stem, sql).map_err(|why| {
                let message = format!("{name:?} {why}: a valid name is, for example, V1__name");
                Error::new(ErrorKind::Files, message)
            })
        });
        Migrations::new(read.collect::<Result<_>>()?)
    }

    /// Uses the migrations of a refinery runner, as `embed_migrations!` creates it.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Files`], as for [`from_dir`](Migrations::from_dir).
    pub fn from_runner(runner: &refinery_core::Runner) -> Result<Self> {
        Migrations::new(runner.get_migrations().clone())
    }

    fn new(mut migrations: Vec<Migration>) -> Result<Self> {
        if migrations.is_empty() {
            return Err(Error::new(
                ErrorKind::Files,
                "there are no migrations: check that they were compiled in",
            ));
        }
        migrations.sort();
        for pair in migrations.windows(2) {
            if pair[0].version() == pair[1].version() {
                return Err(Error::new(
                    ErrorKind::Files,
                    format!(
                        "{} and {} have the same version: rename one",
                        pair[0], pair[1]
                    ),
                ));
            }
        }
        let steps = migrations.into_iter().map(|migration| {
            let sql = migration.sql().unwrap_or_default();
            let script = Script::read(&migration.to_string(), sql)?;
            Ok(Step { migration, script })
        });
        Ok(Migrations {
            all: steps.collect::<Result<_>>()?,
        })
    }

    /// Returns a runner of these migrations on `database`.
    pub fn runner(self, database: &Database) -> Runner {
        Runner::new(self, database)
    }

    /// Returns the lint's findings in all migrations. Needs no database.
    pub fn findings(&self) -> Vec<Finding> {
        lint::findings(&self.all, |_| true)
    }

    pub(super) fn find(&self, version: i64) -> Result<&Step> {
        let found = self.all.iter().find(|step| step.version() == version);
        found.ok_or_else(|| {
            let message = format!("no migration has the version {version}");
            Error::new(ErrorKind::Files, message)
        })
    }
}
