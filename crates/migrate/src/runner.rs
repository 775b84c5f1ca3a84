//! Runs migrations, or records them in the history without running them.

use std::future::Future;
use std::time::Duration;

use antifreeze::Database;

use super::apply::Apply;
use super::error::{Error, ErrorKind, Result};
use super::event::Event;
use super::files::{Migrations, Step};
use super::history::{History, State, Status};
use super::locked::{Locked, with_lock};
use super::monitor::Monitor;
use super::options::{Options, options};
use super::report::{Events, Report};
use super::session::RunnerSession;
use super::{index, lint};

/// Runs [`Migrations`] on a database, with a lock and timeouts.
///
/// ```no_run
/// use std::time::Duration;
///
/// use antifreeze_migrate::Migrations;
///
/// # async fn main_() -> Result<(), Box<dyn std::error::Error>> {
/// # let database = antifreeze::Database::from_env()?;
/// let report = Migrations::from_dir("migrations")?
///     .runner(&database)
///     .lock_timeout(Duration::from_secs(1))
///     .terminate_idle_in_transaction(Duration::from_secs(60))
///     .on_event(|event| println!("{event}"))
///     .run()
///     .await?;
/// # Ok(())
/// # }
/// ```
///
/// The futures may be dropped at any time: the running statement is cancelled, and the session
/// is closed. [`stop_when`](Runner::stop_when) and [`deadline`](Runner::deadline) do the same
/// and wait until it is done.
#[must_use = "a runner does nothing until one of its async methods is called"]
pub struct Runner {
    migrations: Migrations,
    base: Options,
}

impl Runner {
    pub(super) fn new(migrations: Migrations, database: &Database) -> Self {
        Runner {
            migrations,
            base: Options::new(database),
        }
    }

    options!();

    /// Sets the [`statement_timeout`](Runner::statement_timeout) of statements that do not
    /// block reads and writes: those with CONCURRENTLY, and VACUUM. They may also wait for
    /// locks for as long. Default: 30 minutes. Zero means no limit.
    pub fn concurrent_timeout(mut self, limit: Duration) -> Self {
        self.base.settings.concurrent_timeout = limit;
        self
    }

    /// Runs nothing if the lint has findings in pending migrations.
    pub fn refuse_findings(mut self) -> Self {
        self.base.settings.refuse_findings = true;
        self
    }

    /// Runs the pending migrations.
    ///
    /// # Errors
    ///
    /// See [`ErrorKind`]. Migrations that were applied before the error stay applied, and are in the
    /// error's report. The run can be repeated.
    pub async fn run(mut self) -> Result<Report> {
        let connector = self.base.connector()?;
        let migrations = self.migrations;
        with_lock(self.base, connector, async |locked| {
            migrate(locked, &migrations).await
        })
        .await
    }

    /// Reports the pending migrations and the lint's findings, and changes nothing.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Connection`] if the server cannot be reached, [`ErrorKind::History`] if files and
    /// history contradict each other.
    pub async fn dry_run(mut self) -> Result<Report> {
        let mut events = Events::new(self.base.observer.take());
        let wait = self.base.settings.slot_wait;
        let session =
            RunnerSession::open_within(&self.base.connector()?, wait, &mut events).await?;
        let history = History::read(session.client(), &self.migrations).await?;
        plan(&history, &self.migrations, &mut events).await?;
        session.close().await;
        Ok(events.into_report())
    }

    /// Returns the status of each migration, and changes nothing.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Connection`] if the server cannot be reached.
    pub async fn status(mut self) -> Result<Vec<Status>> {
        let mut events = Events::new(self.base.observer.take());
        let wait = self.base.settings.slot_wait;
        let session =
            RunnerSession::open_within(&self.base.connector()?, wait, &mut events).await?;
        let history = History::read(session.client(), &self.migrations).await?;
        session.close().await;
        Ok(history.status(&self.migrations))
    }

    /// Records all migrations up to `version` as applied, without running them: for a database
    /// that existed before its migrations.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::History`] if the database has a history, [`ErrorKind::Files`] if there is no such
    /// version, otherwise those of [`run`](Runner::run).
    pub async fn baseline(mut self, version: i64) -> Result<Report> {
        self.migrations.find(version)?;
        let connector = self.base.connector()?;
        let migrations = self.migrations;
        let begin = async |locked: &mut Locked<'_>| {
            let mut history = History::read(locked.session.client(), &migrations).await?;
            if let Some(last) = history.applied.last() {
                return Err(Error::new(
                    ErrorKind::History,
                    format!(
                        "the database already has a history, up to {last}: use `resolve` for a \
                         single migration"
                    ),
                ));
            }
            history.ensure(locked.session.client()).await?;
            let before = migrations
                .all
                .iter()
                .filter(|step| step.version() <= version);
            record(locked, &history, before).await
        };
        with_lock(self.base, connector, begin).await
    }

    /// Updates the history of one migration to match its file, without running it: because it
    /// was applied by hand, an earlier run was killed before recording it, or its text has
    /// changed in a way that does not matter.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::History`] if the history already matches, or an earlier migration is pending;
    /// [`ErrorKind::Files`] if there is no such version; otherwise those of [`run`](Runner::run).
    pub async fn resolve(mut self, version: i64) -> Result<Report> {
        self.migrations.find(version)?;
        let connector = self.base.connector()?;
        let migrations = self.migrations;
        let begin = async |locked: &mut Locked<'_>| {
            let step = migrations.find(version)?;
            let mut history = History::read(locked.session.client(), &migrations).await?;
            let status = history.status(&migrations);
            let wrong = |why: String| Err(Error::new(ErrorKind::History, why));
            match status
                .iter()
                .find(|status| status.version == version)
                .map(|status| status.state)
            {
                Some(State::Applied) => {
                    return wrong(format!(
                        "{} is already recorded in the history, with the text of its file",
                        step.name()
                    ));
                }
                Some(State::Pending) => {
                    let mut earlier = status.iter().filter(|status| status.version < version);
                    if let Some(first) = earlier.find(|status| status.state == State::Pending) {
                        return wrong(format!(
                            "{} is also pending and comes before {}: run or resolve it first",
                            first.migration,
                            step.name()
                        ));
                    }
                }
                _ => {}
            }
            history.ensure(locked.session.client()).await?;
            record(locked, &history, [step]).await
        };
        with_lock(self.base, connector, begin).await
    }
}

/// Reports the pending migrations, and the lint's findings in them.
async fn plan<'a>(
    history: &History,
    migrations: &'a Migrations,
    events: &mut Events,
) -> Result<Vec<&'a Step>> {
    for migration in &history.other_line_ends {
        events.emit(Event::OtherLineEnds {
            migration: migration.clone(),
        });
    }
    let pending = history.pending(migrations).await?;
    events.emit(Event::Planned {
        pending: pending.iter().map(|step| step.name()).collect(),
    });
    let is_pending = |version| pending.iter().any(|step| step.version() == version);
    for finding in lint::findings(&migrations.all, is_pending) {
        events.emit(Event::Finding(finding));
    }
    Ok(pending)
}

async fn migrate(locked: &mut Locked<'_>, migrations: &Migrations) -> Result<()> {
    let client = locked.session.client();
    let mut history = History::read(client, migrations).await?;
    let pending = plan(&history, migrations, locked.events).await?;
    let found = locked
        .events
        .report
        .findings
        .iter()
        .filter(|finding| finding.rule.is_some());
    let found = found.count();
    if locked.settings.refuse_findings && found > 0 {
        return Err(Error::new(
            ErrorKind::Findings,
            format!(
                "the lint has {found} findings, and findings are refused: change the migrations, or \
                 write `-- antifreeze: allow NAME` above the statements"
            ),
        ));
    }
    if pending.is_empty() {
        return Ok(());
    }
    let settings = locked.settings;
    locked
        .session
        .set(settings.lock_timeout, settings.statement_timeout)
        .await?;
    history.ensure(client).await?;
    let mut known = index::invalid(client, &[]).await?;
    for left in &known {
        locked.events.emit(left.event());
    }
    let mut monitor = Monitor::open(
        locked.connector,
        settings.terminate_age,
        settings.lock_timeout,
        locked.events,
    )
    .await;
    let mut apply = Apply {
        session: locked.session,
        monitor: &mut monitor,
        settings,
        events: &mut *locked.events,
        history: &history,
        known: &mut known,
    };
    let mut ended = Ok(());
    for step in pending {
        ended = apply.run(step).await;
        if ended.is_err() {
            break;
        }
    }
    monitor.close().await;
    ended
}

/// Records migrations in the history, all or none.
async fn record<'a>(
    locked: &mut Locked<'_>,
    history: &History,
    steps: impl IntoIterator<Item = &'a Step>,
) -> Result<()> {
    let mut sql = "begin; ".to_owned();
    let mut recorded = Vec::new();
    for step in steps {
        let deletion = history.deletion(&step.migration);
        let insertion = history.insertion(&step.migration).await?;
        sql += &format!("{deletion}; {insertion}; ");
        recorded.push(step.name());
    }
    let settings = locked.settings;
    locked
        .session
        .set(settings.lock_timeout, settings.statement_timeout)
        .await?;
    locked
        .session
        .client()
        .batch_execute(&(sql + "commit"))
        .await?;
    for migration in recorded {
        locked.events.emit(Event::Recorded { migration });
    }
    Ok(())
}
