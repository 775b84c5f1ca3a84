//! `Database`: the handle that users make and clone.

use std::fmt;
use std::future::Future;
use std::panic::Location;
use std::sync::Arc;
use std::time::Duration;

use crate::clock;
use crate::config::{Config, Environment, Settings};
use crate::connect::ConnectOptions;
use crate::deadline::Deadline;
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::health::{ExpectedMigrations, Health, Monitor};
use crate::invocation::{Caller, Connection, Invocation, IsOk, Run, Scope, TransactionBuilder};
use crate::lifecycle::{Close, WarmUp};
use crate::observe;
use crate::pool::Pools;
use crate::session::Session;
use crate::teardown::Teardown;

/// A database, and the connections to it that this process keeps.
///
/// Made once, before the function starts to serve, and cheap to clone. Making it
/// does not connect.
///
/// ```no_run
/// # async fn main_() -> Result<(), antifreeze::Error> {
/// let database = antifreeze::Database::from_env()?;
/// database.warm_up().await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Database {
    engine: Arc<Engine>,
    monitor: Arc<Monitor>,
}

impl Database {
    /// A database as `config` says.
    ///
    /// # Errors
    ///
    /// A setting is missing or contradicts another, or an `ANTIFREEZE_*` variable cannot
    /// be understood.
    pub fn new(config: Config) -> Result<Self> {
        Database::of(config.settled(&Environment::of_process())?)
    }

    /// A database with these settings, whatever the environment says.
    pub(crate) fn of(settings: Settings) -> Result<Self> {
        if cfg!(panic = "abort") {
            observe::aborts();
        }
        // Deadlines from before now are none.
        clock::process_started();
        let engine = Arc::new(Engine::new(settings));
        let monitor = Arc::new(Monitor::new(Arc::clone(&engine)));
        Ok(Database { engine, monitor })
    }

    /// The database that the environment names: `DATABASE_URL` and its friends.
    ///
    /// # Errors
    ///
    /// Those of [`Config::from_env`].
    pub fn from_env() -> Result<Self> {
        Database::new(Config::from_env()?)
    }

    /// The database that `url` names.
    ///
    /// # Errors
    ///
    /// Those of [`Config::from_url`].
    pub fn from_url(url: &str) -> Result<Self> {
        Database::new(Config::from_url(url)?)
    }

    /// The settings in force.
    pub fn settings(&self) -> &Settings {
        self.engine.settings()
    }

    /// Has `observer` told of every connection that an invocation used, once it was
    /// torn down: for metrics, and for tests. Each call adds an observer.
    pub fn on_teardown(self, observer: impl Fn(&Teardown) + Send + Sync + 'static) -> Self {
        self.engine.observe(Arc::new(observer));
        self
    }

    /// Has the [health report](Database::health) say which of `migrations` were not run
    /// on this database. It can be said once.
    ///
    /// It takes one more round trip for each reading, or two, and is told under
    /// `server.migrations`; the status does not depend on it. Where the function's role
    /// may not see the history, that is told with the GRANT to run.
    ///
    /// ```no_run
    /// # async fn main_() -> Result<(), Box<dyn std::error::Error>> {
    /// use antifreeze::Database;
    /// use antifreeze_migrate::Migrations;
    ///
    /// let database = Database::from_env()?.expect_migrations(Migrations::from_dir("migrations")?);
    /// let server = database.health().await.server;
    /// let migrations = server.and_then(|server| server.migrations);
    /// println!("{:?}", migrations.and_then(|migrations| migrations.names));
    /// # Ok(())
    /// # }
    /// ```
    pub fn expect_migrations(self, migrations: impl ExpectedMigrations + 'static) -> Self {
        self.monitor().expect(Box::new(migrations));
        self
    }

    /// Makes ready, in the time before the first event, what an invocation would
    /// otherwise wait for. Await it; [`WarmUp`] says what it does.
    pub fn warm_up(&self) -> WarmUp {
        WarmUp::new(Arc::clone(&self.engine))
    }

    /// Closes every connection, and waits for the server's word that each has ended. Await
    /// it at the end of the process; [`Close`] says what it does, and
    /// [`shutdown`](crate::shutdown) has a line for each host.
    pub fn close(&self) -> Close {
        Close::new(Arc::clone(&self.engine))
    }

    /// Opens a session of one's own, outside of the pool and of any invocation. What can heal
    /// is tried again, within `connect_timeout`.
    ///
    /// # Errors
    ///
    /// Those of connecting.
    pub async fn session(&self) -> Result<Session> {
        Session::open(&self.engine.pools().connector, ConnectOptions::DEFAULT).await
    }

    /// How long until the server is asked for a connection again, while it is full or away;
    /// `None` while, as far as this process knows, it is neither.
    pub fn retry_after(&self) -> Option<Duration> {
        self.engine.pools().limits.breaker.next_try()
    }

    /// Leases a connection for the current invocation of this database:
    /// [`Invocation::connection`] says the rest.
    ///
    /// # Errors
    ///
    /// Those of [`Invocation::connection`], and
    /// [`NotInInvocation`](crate::ErrorKind::NotInInvocation).
    #[track_caller]
    pub fn connection(&self) -> impl Future<Output = Result<Connection>> + Send + use<> {
        let invocation = self.current();
        let caller: Caller = Location::caller();
        async move { invocation?.lease(caller).await }
    }

    /// The transaction of the current invocation of this database:
    /// [`Invocation::transaction`] says the rest. Outside one, awaiting it is
    /// [`NotInInvocation`](crate::ErrorKind::NotInInvocation).
    pub fn transaction(&self) -> TransactionBuilder {
        TransactionBuilder::of(self.current().ok())
    }

    /// Runs `work` as an invocation of its own, without a host: in a test, a job, or
    /// `main`. Whatever it leaves behind is brought to rest before this returns, and
    /// its [transaction](Invocation::transaction) is committed if it returns `Ok`.
    ///
    /// ```no_run
    /// # async fn main_() -> Result<(), antifreeze::Error> {
    /// use std::time::Duration;
    ///
    /// let database = antifreeze::Database::from_env()?;
    /// let partners: i64 = database
    ///     .invocation(Duration::from_secs(5), async {
    ///         let connection = antifreeze::connection().await?;
    ///         let row = connection.query_one("select count(*) from partners", &[]).await?;
    ///         Ok::<_, antifreeze::Error>(row.get(0))
    ///     })
    ///     .await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// In a test, leave tokio's clock alone: while it is paused
    /// (`#[tokio::test(start_paused = true)]`) it jumps to the next timer whenever every task
    /// waits, be it for the server, and so to the deadline or the timeout of connecting.
    ///
    /// # Errors
    ///
    /// Those of `work`; [`Deadline`](crate::ErrorKind::Deadline) if it was not done in
    /// time; and why its transaction could not be committed.
    ///
    /// # Panics
    ///
    /// With what `work` panics with, once everything is at rest.
    pub async fn invocation<T, E>(
        &self,
        deadline: impl Into<Deadline>,
        work: impl Future<Output = Result<T, E>>,
    ) -> Result<T, E>
    where
        E: From<Error>,
    {
        let invocation = Invocation::new(Arc::clone(&self.engine), deadline.into(), "");
        Run::new(invocation, IsOk, || work).await?
    }

    /// How the server and this process's pool are. It asks the server if that was last done
    /// 5 s ago or more, and takes 2 s at most.
    ///
    /// Dropping the future early stops the reading, unless others wait for it, too.
    ///
    /// ```no_run
    /// # async fn main_(database: antifreeze::Database) {
    /// let health = database.health().await;
    /// println!("{:?}: {}", health.status, health.postgres.connection_usage);
    /// # }
    /// ```
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime.
    pub fn health(&self) -> impl Future<Output = Health> + Send + use<> {
        let monitor = Arc::clone(&self.monitor);
        async move { monitor.health().await }
    }

    pub(crate) fn engine(&self) -> &Arc<Engine> {
        &self.engine
    }

    pub(crate) fn pools(&self) -> &Pools {
        self.engine.pools()
    }

    pub(crate) fn monitor(&self) -> &Monitor {
        &self.monitor
    }

    pub(crate) fn is(&self, other: &Database) -> bool {
        Arc::ptr_eq(&self.engine, &other.engine)
    }

    fn current(&self) -> Result<Invocation> {
        Scope::find(&self.engine).ok_or_else(Error::not_in_invocation)
    }
}

impl From<&Database> for Close {
    /// With the default grace.
    fn from(database: &Database) -> Self {
        database.close()
    }
}

impl fmt::Debug for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Database")
            .field("settings", self.settings())
            .field("pools", self.pools())
            .finish_non_exhaustive()
    }
}
