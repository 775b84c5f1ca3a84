//! Running migrations, and writing their history without running them.

use std::future::Future;
use std::time::Duration;

use antifreeze::Database;

use super::apply::Apply;
use super::error::{Error, Kind, Result};
use super::event::Event;
use super::files::{Migrations, Step};
use super::held::{Held, under_lock};
use super::history::{History, State, Status};
use super::options::{Base, options};
use super::report::{Events, Report};
use super::session::Own;
use super::watch::Watch;
use super::{index, lint};

/// Runs [`Migrations`] on a database, under a lock and timeouts.
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
/// The future of each of its methods may be dropped at any time: the statement that runs
/// is cancelled, and the session ends. [`stop_when`](Runner::stop_when) and
/// [`deadline`](Runner::deadline) do the same and wait until it is done.
#[must_use = "a runner does nothing until it is run"]
pub struct Runner {
    migrations: Migrations,
    base: Base,
}

impl Runner {
    pub(super) fn new(migrations: Migrations, database: &Database) -> Self {
        Runner {
            migrations,
            base: Base::new(database),
        }
    }

    options!();

    /// The [`statement_timeout`](Runner::statement_timeout) of statements that lock nobody
    /// out: CREATE INDEX CONCURRENTLY and its kind, and VACUUM. They wait for locks as
    /// long, too. Default: 30 minutes. Zero: as long as they want.
    pub fn concurrent_timeout(mut self, limit: Duration) -> Self {
        self.base.settings.concurrent_timeout = limit;
        self
    }

    /// Runs nothing if the lint finds something in what is pending.
    pub fn refuse_findings(mut self) -> Self {
        self.base.settings.refuse_findings = true;
        self
    }

    /// Runs what is pending.
    ///
    /// # Errors
    ///
    /// [`Kind`] says what there is. What was applied until then stays applied, and is in
    /// the error's report; whatever it was, it can be run again.
    pub async fn run(mut self) -> Result<Report> {
        let connector = self.base.connector()?;
        let migrations = self.migrations;
        under_lock(self.base, connector, async |held| {
            migrate(held, &migrations).await
        })
        .await
    }

    /// Says what would be run, and what the lint finds in it, and changes nothing.
    ///
    /// # Errors
    ///
    /// The server cannot be reached, or files and history contradict each other.
    pub async fn dry_run(mut self) -> Result<Report> {
        let mut events = Events::new(self.base.observer.take());
        let wait = self.base.settings.slot_wait;
        let own = Own::open_within(&self.base.connector()?, wait, &mut events).await?;
        let history = History::read(own.client(), &self.migrations).await?;
        plan(&history, &self.migrations, &mut events).await?;
        own.close().await;
        Ok(events.into_report())
    }

    /// Says of each migration whether it was run, and changes nothing.
    ///
    /// # Errors
    ///
    /// The server cannot be reached.
    pub async fn status(mut self) -> Result<Vec<Status>> {
        let mut events = Events::new(self.base.observer.take());
        let wait = self.base.settings.slot_wait;
        let own = Own::open_within(&self.base.connector()?, wait, &mut events).await?;
        let history = History::read(own.client(), &self.migrations).await?;
        own.close().await;
        Ok(history.status(&self.migrations))
    }

    /// Writes all up to `version` into the history, without running them: for a database
    /// that has a past.
    ///
    /// # Errors
    ///
    /// There is a history already, no such version, or one of [`run`](Runner::run)'s.
    pub async fn baseline(mut self, version: i64) -> Result<Report> {
        self.migrations.find(version)?;
        let connector = self.base.connector()?;
        let migrations = self.migrations;
        let begin = async |held: &mut Held<'_>| {
            let mut history = History::read(held.own.client(), &migrations).await?;
            if let Some(last) = history.applied.last() {
                return Err(Error::new(
                    Kind::History,
                    format!(
                        "there is a history already, up to {last}: a baseline is for a database \
                         without one; `resolve` is for a single migration"
                    ),
                ));
            }
            history.ensure(held.own.client()).await?;
            let before = migrations
                .all
                .iter()
                .filter(|step| step.version() <= version);
            record(held, &history, before).await
        };
        under_lock(self.base, connector, begin).await
    }

    /// Brings the history of one migration in line with its file, without running it: it
    /// was done by hand, or an earlier run was killed before it could write it down, or
    /// its text has changed in a way that does not matter.
    ///
    /// # Errors
    ///
    /// It is in the history as it is, an earlier one is not yet, there is no such version,
    /// or one of [`run`](Runner::run)'s.
    pub async fn resolve(mut self, version: i64) -> Result<Report> {
        self.migrations.find(version)?;
        let connector = self.base.connector()?;
        let migrations = self.migrations;
        let begin = async |held: &mut Held<'_>| {
            let step = migrations.find(version)?;
            let mut history = History::read(held.own.client(), &migrations).await?;
            let status = history.status(&migrations);
            let wrong = |why: String| Err(Error::new(Kind::History, why));
            match status
                .iter()
                .find(|one| one.version == version)
                .map(|one| one.state)
            {
                Some(State::Applied) => {
                    return wrong(format!("{} is in the history as it is", step.name()));
                }
                Some(State::Pending) => {
                    let mut earlier = status.iter().filter(|one| one.version < version);
                    if let Some(first) = earlier.find(|one| one.state == State::Pending) {
                        return wrong(format!(
                            "{} is pending, too, and comes before {}: see to it first",
                            first.migration,
                            step.name()
                        ));
                    }
                }
                _ => {}
            }
            history.ensure(held.own.client()).await?;
            record(held, &history, [step]).await
        };
        under_lock(self.base, connector, begin).await
    }
}

/// Tells what is pending, and what is to be said of it.
async fn plan<'a>(
    history: &History,
    migrations: &'a Migrations,
    events: &mut Events,
) -> Result<Vec<&'a Step>> {
    for migration in &history.other_line_ends {
        events.tell(Event::OtherLineEnds {
            migration: migration.clone(),
        });
    }
    let pending = history.pending(migrations).await?;
    events.tell(Event::Planned {
        pending: pending.iter().map(|step| step.name()).collect(),
    });
    let is_pending = |version| pending.iter().any(|step| step.version() == version);
    for finding in lint::findings(&migrations.all, is_pending) {
        events.tell(Event::Finding(finding));
    }
    Ok(pending)
}

async fn migrate(held: &mut Held<'_>, migrations: &Migrations) -> Result<()> {
    let client = held.own.client();
    let mut history = History::read(client, migrations).await?;
    let pending = plan(&history, migrations, held.events).await?;
    let found = held
        .events
        .report
        .findings
        .iter()
        .filter(|finding| finding.rule.is_some());
    let found = found.count();
    if held.settings.refuse_findings && found > 0 {
        return Err(Error::new(
            Kind::Findings,
            format!(
                "the lint found something in {found} places, and is told to refuse it: change the \
                 migrations, or write `-- antifreeze: allow NAME` above the statements"
            ),
        ));
    }
    if pending.is_empty() {
        return Ok(());
    }
    let settings = held.settings;
    held.own
        .set(settings.lock_timeout, settings.statement_timeout)
        .await?;
    history.ensure(client).await?;
    let mut known = index::invalid(client, &[]).await?;
    for left in &known {
        held.events.tell(left.left());
    }
    let mut watch = Watch::open(
        held.connector,
        settings.consent,
        settings.lock_timeout,
        held.events,
    )
    .await;
    let mut apply = Apply {
        own: held.own,
        watch: &mut watch,
        settings,
        events: &mut *held.events,
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
    watch.close().await;
    ended
}

/// Writes into the history what is not run: all of it or nothing.
async fn record<'a>(
    held: &mut Held<'_>,
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
    let settings = held.settings;
    held.own
        .set(settings.lock_timeout, settings.statement_timeout)
        .await?;
    held.own.client().batch_execute(&(sql + "commit")).await?;
    for migration in recorded {
        held.events.tell(Event::Recorded { migration });
    }
    Ok(())
}
