//! `Database`: the handle that users make and clone.

use std::fmt;
use std::future::Future;
use std::panic::Location;
use std::sync::Arc;
use std::time::Duration;

use crate::bridge::Bridge;
use crate::clock;
use crate::config::{Config, Environment, Settings};
use crate::connect::ConnectOptions;
use crate::deadline::Deadline;
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::health::{ExpectedMigrations, Health, Monitor};
use crate::invocation::{Caller, Connection, Invocation, IsOk, Run, Scope, TransactionBuilder};
use crate::lifecycle::{Close, WarmUp};
#[cfg(feature = "vercel")]
use crate::lifecycle::{Linger, Requests};
use crate::observe;
use crate::pool::Pools;
use crate::session::Session;
use crate::teardown::Teardown;

/// A PostgreSQL database and this process's pool of connections to it.
///
/// Create it once, before the function starts to serve; clones share the pool. Creating it does
/// not connect.
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
    #[cfg(feature = "vercel")]
    requests: Arc<Requests>,
}

impl Database {
    /// Creates a database from `config` and the `ANTIFREEZE_*` variables.
    ///
    /// # Errors
    ///
    /// A setting is missing or contradicts another, or an `ANTIFREEZE_*` variable is invalid.
    pub fn new(config: Config) -> Result<Self> {
        Database::of(config.settled(&Environment::of_process())?)
    }

    /// Creates a database with these settings and ignores the environment.
    pub(crate) fn of(settings: Settings) -> Result<Self> {
        if cfg!(panic = "abort") {
            observe::aborts();
        }
        // Deadlines from before now are none.
        clock::process_started();
        let engine = Arc::new(Engine::new(settings));
        let monitor = Arc::new(Monitor::new(Arc::clone(&engine)));
        Ok(Database {
            engine,
            monitor,
            #[cfg(feature = "vercel")]
            requests: Arc::default(),
        })
    }

    /// Creates a database from the environment: `DATABASE_URL` and the other variables of
    /// [`Config::from_env`].
    ///
    /// # Errors
    ///
    /// Those of [`Config::from_env`].
    pub fn from_env() -> Result<Self> {
        Database::new(Config::from_env()?)
    }

    /// Creates a database from a connection URL.
    ///
    /// # Errors
    ///
    /// Those of [`Config::from_url`].
    pub fn from_url(url: &str) -> Result<Self> {
        Database::new(Config::from_url(url)?)
    }

    /// Returns the settings in force.
    pub fn settings(&self) -> &Settings {
        self.engine.settings()
    }

    /// Calls `observer` after each teardown of a connection that an invocation used: for metrics
    /// and tests. Each call adds an observer.
    pub fn on_teardown(self, observer: impl Fn(&Teardown) + Send + Sync + 'static) -> Self {
        self.engine.observe(Arc::new(observer));
        self
    }

    /// Lists in the [health report](Database::health) which of `migrations` were not run on this
    /// database. It can be called once.
    ///
    /// It costs one or two more round trips for each reading. The result is in
    /// `server.migrations`; the status does not depend on it. If the function's role may not read
    /// the history, the report contains the GRANT to run.
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

    /// Prepares, before the first event, what the first invocation would otherwise wait for. Await
    /// the returned [`WarmUp`]. If other drivers were given a [URL](Database::url) before, the
    /// connections are opened for them.
    pub fn warm_up(&self) -> WarmUp {
        WarmUp::new(Arc::clone(&self.engine))
    }

    /// Closes every connection, and waits until the server has confirmed that each session has
    /// ended. Await the returned [`Close`] at the end of the process;
    /// [`shutdown`](crate::shutdown) has a line for each host.
    pub fn close(&self) -> Close {
        Close::new(Arc::clone(&self.engine))
    }

    /// Returns the URL at which any other driver finds this pool: sqlx, SeaORM, Diesel, libpq. It
    /// leads to a private socket inside the process, which is made by the first call and removed
    /// with the last clone of this database; it is of no use to other users and machines.
    ///
    /// What a driver sends belongs to the invocation that is under way. If several are, a
    /// connection has to say which: see [`Invocation::url`] and [`claim`](crate::claim).
    ///
    /// # Errors
    ///
    /// The private socket could not be made.
    pub fn url(&self) -> Result<String> {
        Ok(Bridge::of(&self.engine)?.url())
    }

    /// Opens a session outside of the pool and of any invocation. Transient errors are retried
    /// within `connect_timeout`.
    ///
    /// # Errors
    ///
    /// Those of connecting.
    pub async fn session(&self) -> Result<Session> {
        Session::open(&self.engine.pools().connector, ConnectOptions::DEFAULT).await
    }

    /// Returns the time until the next connect is tried, while the server is full or unreachable;
    /// `None` if, as far as this process knows, it is neither.
    pub fn retry_after(&self) -> Option<Duration> {
        self.engine.pools().limits.breaker.next_try()
    }

    /// Leases a connection for the current invocation of this database, like
    /// [`Invocation::connection`].
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

    /// Returns the transaction of the current invocation of this database, like
    /// [`Invocation::transaction`]. Outside an invocation, awaiting it fails with
    /// [`NotInInvocation`](crate::ErrorKind::NotInInvocation).
    pub fn transaction(&self) -> TransactionBuilder {
        TransactionBuilder::of(self.current().ok())
    }

    /// Runs `work` as an invocation without a host: in a test, a job, or `main`. Its connections
    /// are brought to rest before this returns, and its [transaction](Invocation::transaction) is
    /// committed if `work` returns `Ok`.
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
    /// In a test, do not pause tokio's clock: a paused clock (`#[tokio::test(start_paused =
    /// true)]`) jumps to the next timer whenever every task waits, also while one waits for the
    /// server, and so to the deadline or the connect timeout.
    ///
    /// # Errors
    ///
    /// Those of `work`; [`Deadline`](crate::ErrorKind::Deadline) if it took too long; and those of
    /// COMMIT.
    ///
    /// # Panics
    ///
    /// If `work` panics, with its payload, once every connection is at rest.
    pub async fn invocation<T, E>(
        &self,
        deadline: impl Into<Deadline>,
        work: impl Future<Output = Result<T, E>>,
    ) -> Result<T, E>
    where
        E: From<Error>,
    {
        let invocation = Invocation::inside(Arc::clone(&self.engine), deadline.into(), "");
        Run::new(invocation, IsOk, || work).await?
    }

    /// Reports the state of the server and of this process's pool. It queries the server if the
    /// last reading is 5 s old or older, and takes 2 s at most.
    ///
    /// Dropping the future stops the query, unless other callers wait for it too.
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

    /// Begins a request after which the host may suspend the process.
    #[cfg(feature = "vercel")]
    pub(crate) fn linger(&self, deadline: Deadline) -> Option<Linger> {
        Linger::begin(&self.engine, &self.requests, deadline)
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
    /// Closes with the default grace.
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
