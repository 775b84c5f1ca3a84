//! Running migrations, and everything that is told beforehand.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use super::apply::Apply;
use super::error::{Error, Kind, Result};
use super::event::Event;
use super::files::{Migrations, Step};
use super::history::{History, State, Status};
use super::report::{Events, Report};
use super::session::Own;
use super::settings::Settings;
use super::watch::Watch;
use super::{index, lint, lock};
use crate::config::{DirectEndpoint, Environment};
use crate::connect::Connector;
use crate::{Config, Database, Deadline};

/// What the server calls us, before the function's own name.
const NAME: &str = "migrate";

/// Kept back from a deadline for cancelling, rolling back and the goodbye.
const RESERVE: Duration = Duration::from_secs(3);

/// Somebody who is told what happens.
pub(super) type Observer = Box<dyn FnMut(&Event) + Send>;

/// What ends it before its end.
pub(super) type Stop = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Runs [`Migrations`] on a database, under a lock and time-outs.
///
/// ```no_run
/// use std::time::Duration;
///
/// use antifreeze::migrate::Migrations;
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

/// What all that work under the lock have in common.
pub(super) struct Base {
    pub(super) config: Config,
    pub(super) endpoint: Option<DirectEndpoint>,
    pub(super) settings: Settings,
    pub(super) observer: Option<Observer>,
    pub(super) deadline: Deadline,
    pub(super) stop: Option<Stop>,
}

impl Base {
    pub(super) fn new(database: &Database) -> Self {
        Base {
            config: database.config().clone(),
            endpoint: None,
            settings: Settings::default(),
            observer: None,
            deadline: Deadline::none(),
            stop: None,
        }
    }

    /// Where to connect to, and how.
    pub(super) fn connector(&mut self) -> Result<Arc<Connector>> {
        let environment = Environment::of_process();
        let mut config = self
            .config
            .for_migrations(self.endpoint.take(), &environment)?;
        let name = match config.server.get_application_name() {
            Some(name) => format!("{NAME}:{name}"),
            None => NAME.to_owned(),
        };
        config.server.application_name(name);
        Ok(Arc::new(Connector::new(config)))
    }
}

/// The methods of builders that are the same for migrations of ours and for those of
/// another tool.
macro_rules! settings {
    () => {
        /// How long a statement waits for a lock before it gives way, and so how long
        /// anybody queues behind it. Default: 2 s.
        ///
        /// It holds for each statement: a migration that changes several tables may keep
        /// the first one's lock while it waits for the next one's, so change one in each.
        pub fn lock_timeout(mut self, limit: std::time::Duration) -> Self {
            self.base.settings.lock_timeout = limit.max(std::time::Duration::from_millis(1));
            self
        }

        /// How long a statement may take. Default: 30 s. Zero: as long as it wants.
        pub fn statement_timeout(mut self, limit: std::time::Duration) -> Self {
            self.base.settings.statement_timeout = limit;
            self
        }

        /// How often what is blocked is tried, the first time included. Default: 10.
        pub fn attempts(mut self, attempts: u32) -> Self {
            self.base.settings.attempts = attempts;
            self
        }

        /// For how long what is blocked is tried, whatever [`attempts`](Self::attempts)
        /// are left. Default: 5 minutes for each migration.
        pub fn retry_for(mut self, limit: std::time::Duration) -> Self {
            self.base.settings.retry_for = limit;
            self
        }

        /// The pause after a first failed attempt, at most, and the longest of all: they
        /// double, with full jitter. Default: 1 s and 15 s.
        pub fn backoff(mut self, first: std::time::Duration, most: std::time::Duration) -> Self {
            self.base.settings.backoff = [first, most];
            self
        }

        /// How long to wait while another runner has the lock. Default: 5 minutes.
        pub fn lock_wait(mut self, limit: std::time::Duration) -> Self {
            self.base.settings.lock_wait = limit;
            self
        }

        /// Consents to ending sessions that have been `idle in transaction` for as long as
        /// `age`, if they are in our way. Others are never ended. Default: none is.
        pub fn terminate_idle_in_transaction(mut self, age: std::time::Duration) -> Self {
            self.base.settings.consent = Some(age);
            self
        }

        /// Goes this way to the database, whatever the environment says.
        pub fn endpoint(mut self, endpoint: $crate::DirectEndpoint) -> Self {
            self.base.endpoint = Some(endpoint);
            self
        }

        /// When it has to be done: 3 s before that, or after three quarters of a shorter
        /// time, what runs is cancelled and rolled back.
        pub fn deadline(mut self, deadline: impl Into<$crate::Deadline>) -> Self {
            self.base.deadline = deadline.into();
            self
        }

        /// Stops once `stop` is done, as on ctrl-C: what runs is cancelled and rolled back.
        pub fn stop_when(mut self, stop: impl Future<Output = ()> + Send + 'static) -> Self {
            self.base.stop = Some(Box::pin(stop));
            self
        }

        /// Tells `observer` what happens, when it happens.
        pub fn on_event(
            mut self,
            observer: impl FnMut(&$crate::migrate::Event) + Send + 'static,
        ) -> Self {
            self.base.observer = Some(Box::new(observer));
            self
        }
    };
}
pub(super) use settings;

impl Runner {
    pub(super) fn new(migrations: Migrations, database: &Database) -> Self {
        Runner {
            migrations,
            base: Base::new(database),
        }
    }

    settings!();

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
        let own = Own::open(&self.base.connector()?).await?;
        let history = History::read(own.client()?).await?;
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
        let own = Own::open(&self.base.connector()?).await?;
        let history = History::read(own.client()?).await?;
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
            let mut history = History::read(held.own.client()?).await?;
            if let Some(last) = history.applied.last() {
                return Err(Error::new(
                    Kind::History,
                    format!(
                        "there is a history already, up to {last}: a baseline is for a database \
                         without one; `resolve` is for a single migration"
                    ),
                ));
            }
            history.ensure(held.own.client()?).await?;
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
            let mut history = History::read(held.own.client()?).await?;
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
            history.ensure(held.own.client()?).await?;
            record(held, &history, [step]).await
        };
        under_lock(self.base, connector, begin).await
    }
}

/// What there is once the lock is ours.
pub(super) struct Held<'a> {
    pub(super) own: &'a Own,
    pub(super) connector: &'a Arc<Connector>,
    pub(super) settings: &'a Settings,
    pub(super) events: &'a mut Events,
}

/// Takes the lock, does `work`, gives the lock back, and ends the session, unless the
/// deadline comes first.
pub(super) async fn under_lock(
    mut base: Base,
    connector: Arc<Connector>,
    work: impl AsyncFnOnce(&mut Held<'_>) -> Result<()>,
) -> Result<Report> {
    let mut events = Events::new(base.observer.take());
    let stop = base.stop.take();
    let deadline = base.deadline;
    let settings = &base.settings;
    let mut slot = None;
    let worked = async {
        let own = &*slot.insert(Own::open(&connector).await?);
        lock::keeps_server(own, &connector).await?;
        lock::take(own, settings.lock_wait, &mut events).await?;
        events.tell(Event::Locked);
        let mut held = Held {
            own,
            connector: &connector,
            settings,
            events: &mut events,
        };
        let worked = work(&mut held).await;
        if !own.is_over() {
            own.settle().await?;
            lock::release(own, &mut events).await?;
        }
        worked
    };
    let worked = tokio::select! {
        biased;
        worked = worked => worked,
        why = interrupted(deadline, stop) => Err(Error::new(Kind::Interrupted, why)),
    };
    // What an interrupted statement has left is told by a session that can still ask.
    if let Some(own) = slot {
        own.close().await;
    }
    if matches!(&worked, Err(error) if error.kind() == Kind::Interrupted) {
        tell_left(&connector, &mut events).await;
    }
    let report = events.into_report();
    match worked {
        Ok(()) => Ok(report),
        Err(error) => Err(error.with_report(report)),
    }
}

/// Ends with the reason.
async fn interrupted(deadline: Deadline, stop: Option<Stop>) -> String {
    let stopped = async {
        match stop {
            Some(stop) => stop.await,
            None => std::future::pending().await,
        }
    };
    let over = async {
        match deadline.remaining() {
            Some(left) => tokio::time::sleep(left - RESERVE.min(left / 4)).await,
            None => std::future::pending().await,
        }
    };
    let undone = "so what ran was cancelled and rolled back; what was applied before is in the \
                  history, and it can be run again";
    tokio::select! {
        () = stopped => format!("it was told to stop, {undone}"),
        () = over => format!("the deadline was near, {undone}"),
    }
}

async fn tell_left(connector: &Arc<Connector>, events: &mut Events) {
    let look = async {
        let own = Own::open(connector).await?;
        let left = index::invalid(own.client()?, &[]).await;
        own.close().await;
        left
    };
    if let Ok(Ok(left)) = tokio::time::timeout(RESERVE / 3, look).await {
        for one in left {
            events.tell(one.left());
        }
    }
}

/// Tells what is pending, and what is to be said of it.
async fn plan<'a>(
    history: &History,
    migrations: &'a Migrations,
    events: &mut Events,
) -> Result<Vec<&'a Step>> {
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
    let client = held.own.client()?;
    let mut history = History::read(client).await?;
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
    history.ensure(client).await?;
    let mut known = index::invalid(client, &[]).await?;
    for left in &known {
        held.events.tell(left.left());
    }
    let settings = held.settings;
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
    held.own.client()?.batch_execute(&(sql + "commit")).await?;
    for migration in recorded {
        held.events.tell(Event::Recorded { migration });
    }
    Ok(())
}
