//! A database, as a function sees it.

use std::fmt;
use std::future::Future;
use std::panic::{AssertUnwindSafe, Location, catch_unwind, resume_unwind};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use crate::clock;
use crate::close::Close;
use crate::config::{Config, Environment, Settings};
use crate::connect::Connector;
use crate::deadline::Deadline;
use crate::error::{Error, Result};
use crate::health::Monitor;
use crate::invocation::{
    Caller, Connection, Ended, Invocation, Judge, Run, Scope, TransactionBuilder,
};
use crate::observe;
use crate::pool::Pools;
use crate::teardown::Teardown;
use crate::warm_up::WarmUp;

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
    inner: Arc<Inner>,
}

struct Inner {
    pools: Arc<Pools>,
    monitor: Monitor,
    on_teardown: OnceLock<Observer>,
}

type Observer = Box<dyn Fn(&Teardown) + Send + Sync>;

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
        let monitor = Monitor::new(&settings)?;
        let connector = Arc::new(Connector::new(settings));
        Ok(Database {
            inner: Arc::new(Inner {
                monitor,
                pools: Arc::new(Pools::new(connector, Arc::new(clock::System))),
                on_teardown: OnceLock::new(),
            }),
        })
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
        self.inner.pools.config()
    }

    /// Has `observer` told of every connection that an invocation used, once it was
    /// torn down: for metrics, and for tests. It can be set once.
    pub fn on_teardown(self, observer: impl Fn(&Teardown) + Send + Sync + 'static) -> Self {
        let _ = self.inner.on_teardown.set(Box::new(observer));
        self
    }

    /// Makes ready, in the time before the first event, what an invocation would
    /// otherwise wait for. Await it; [`WarmUp`] says what it does.
    pub fn warm_up(&self) -> WarmUp {
        WarmUp::new(self.clone())
    }

    /// Closes every connection, and waits for the server's word that each has ended. Await
    /// it at the end of the process; [`Close`] says what it does, and
    /// [`shutdown`](crate::shutdown) has a line for each host.
    pub fn close(&self) -> Close {
        Close::new(self.clone())
    }

    /// How long until the server is asked for a connection again, while it is full or away;
    /// `None` while, as far as this process knows, it is neither.
    pub fn retry_after(&self) -> Option<Duration> {
        self.inner.pools.limits().breaker.next_try()
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

    /// The transaction of the current invocation of this database.
    ///
    /// # Errors
    ///
    /// [`NotInInvocation`](crate::ErrorKind::NotInInvocation).
    pub fn transaction(&self) -> Result<TransactionBuilder> {
        Ok(self.current()?.transaction())
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
    /// (`#[tokio::test(start_paused = true)]`) it jumps to the next timer whenever everybody
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
        let invocation = Invocation::new(self.clone(), deadline.into(), "");
        let (ended, finished) = Run::new(invocation, IsOk, || work).await;
        match ended {
            Ended::Returned(Ok(result)) => match finished {
                Ok(()) => Ok(result),
                Err(error) => Err(error.into()),
            },
            Ended::Returned(Err(error)) => Err(error),
            Ended::Deadline(error) => Err(error.into()),
            Ended::Panicked(panic) => resume_unwind(panic),
        }
    }

    pub(crate) fn pools(&self) -> &Arc<Pools> {
        &self.inner.pools
    }

    pub(crate) fn monitor(&self) -> &Monitor {
        &self.inner.monitor
    }

    pub(crate) fn is(&self, other: &Database) -> bool {
        Arc::ptr_eq(&self.inner, &other.inner)
    }

    pub(crate) fn report(&self, teardown: &Teardown) {
        if let Some(observer) = self.inner.on_teardown.get() {
            // It may run in a destructor: a second panic there would abort the process.
            if catch_unwind(AssertUnwindSafe(|| observer(teardown))).is_err() {
                observe::cleanup_failed(&teardown.request_id, "on_teardown", "it panicked");
            }
        }
    }

    fn current(&self) -> Result<Invocation> {
        Scope::find(self).ok_or_else(Error::not_in_invocation)
    }
}

impl fmt::Debug for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Database")
            .field("settings", self.settings())
            .field("pools", &self.inner.pools)
            .finish_non_exhaustive()
    }
}

/// `Ok` is a success.
pub(crate) struct IsOk;

impl<T, E> Judge<Result<T, E>> for IsOk {
    fn is_success(&self, result: &Result<T, E>) -> bool {
        result.is_ok()
    }
}
