//! The options that runners of migrations and of tools share.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use antifreeze::config::{DirectEndpoint, Settings};
use antifreeze::internal::{self, Connector};
use antifreeze::{Database, Deadline};

use super::endpoint;
use super::error::Result;
use super::report::Observer;
use super::run_settings::RunSettings;

/// The `application_name` of runners, before that of the configuration.
const NAME: &str = "migrate";

/// A future that stops a run when it completes.
pub(super) type Stop = Pin<Box<dyn Future<Output = ()> + Send>>;

/// The options of a run under the lock.
pub(super) struct Options {
    pub(super) config: Settings,
    pub(super) endpoint: Option<DirectEndpoint>,
    /// `MIGRATION_DATABASE_URL` does not apply to this database.
    pub(super) ignores_environment: bool,
    pub(super) settings: RunSettings,
    pub(super) observer: Option<Observer>,
    pub(super) deadline: Deadline,
    pub(super) stop: Option<Stop>,
}

impl Options {
    pub(super) fn new(database: &Database) -> Self {
        Options {
            config: database.settings().clone(),
            endpoint: None,
            ignores_environment: false,
            settings: RunSettings::default(),
            observer: None,
            deadline: Deadline::none(),
            stop: None,
        }
    }

    /// Returns the connector for migrations.
    pub(super) fn connector(&mut self) -> Result<Arc<Connector>> {
        let variable = internal::variable(endpoint::VARIABLE);
        let sources = endpoint::Sources {
            runner: self.endpoint.take(),
            variable: variable.and_then(internal::given),
            ignores_environment: self.ignores_environment,
        };
        let mut config = endpoint::settings(&self.config, sources)?;
        let name = match config.server.get_application_name() {
            Some(name) => format!("{NAME}:{name}"),
            None => NAME.to_owned(),
        };
        config.server.application_name(name);
        Ok(Arc::new(Connector::new(config)))
    }
}

/// Defines the builder methods that both runners have.
macro_rules! options {
    () => {
        /// Sets how long a statement may wait for a lock before it is cancelled and retried;
        /// other sessions queue behind it for as long at most. Default: 2 s.
        ///
        /// It applies to each statement: a migration that changes several tables holds the
        /// lock on the first while it waits for the next. Change one table in each migration.
        pub fn lock_timeout(mut self, limit: std::time::Duration) -> Self {
            self.base.settings.lock_timeout = limit.max(std::time::Duration::from_millis(1));
            self
        }

        /// Sets how long a statement may take. Default: 30 s. Zero means no limit.
        pub fn statement_timeout(mut self, limit: std::time::Duration) -> Self {
            self.base.settings.statement_timeout = limit;
            self
        }

        /// Sets the number of attempts after lock timeouts, the first included. Default: 10.
        pub fn attempts(mut self, attempts: u32) -> Self {
            self.base.settings.attempts = attempts;
            self
        }

        /// Sets how long to retry after lock timeouts, whatever [`attempts`](Self::attempts)
        /// are left. Default: 5 minutes for each migration.
        pub fn retry_for(mut self, limit: std::time::Duration) -> Self {
            self.base.settings.retry_for = limit;
            self
        }

        /// Sets the longest delay after the first failed attempt, and the longest of all. The
        /// delays double, with full jitter. Default: 1 s and 15 s.
        pub fn backoff(mut self, first: std::time::Duration, most: std::time::Duration) -> Self {
            self.base.settings.backoff = [first, most];
            self
        }

        /// Sets how long to retry while every connection slot is taken. Default: no retries.
        pub fn slot_wait(mut self, limit: std::time::Duration) -> Self {
            self.base.settings.slot_wait = limit;
            self
        }

        /// Sets how long to wait while another runner holds the lock. Default: 5 minutes.
        pub fn lock_wait(mut self, limit: std::time::Duration) -> Self {
            self.base.settings.lock_wait = limit;
            self
        }

        /// Ends blocking sessions that have been `idle in transaction` for longer than `age`.
        /// Other sessions are never ended. Default: none is ended.
        pub fn terminate_idle_in_transaction(mut self, age: std::time::Duration) -> Self {
            self.base.settings.terminate_age = Some(age);
            self
        }

        /// Connects to this endpoint, whatever the environment says.
        pub fn endpoint(mut self, endpoint: antifreeze::config::DirectEndpoint) -> Self {
            self.base.endpoint = Some(endpoint);
            self
        }

        /// Ignores `MIGRATION_DATABASE_URL`, for a database other than the environment's. The
        /// endpoint follows from the address of the database.
        pub fn ignore_environment(mut self) -> Self {
            self.base.ignores_environment = true;
            self
        }

        /// Sets the deadline. The running statement is cancelled and rolled back 3 s before it,
        /// or after three quarters of the time if that is shorter than 12 s.
        pub fn deadline(mut self, deadline: impl Into<antifreeze::Deadline>) -> Self {
            self.base.deadline = deadline.into();
            self
        }

        /// Stops when `stop` completes, for example on Ctrl-C: the running statement is
        /// cancelled and rolled back. A tool receives SIGTERM, and is killed if it has not
        /// ended after 5 s; the lock is locked until then.
        pub fn stop_when(mut self, stop: impl Future<Output = ()> + Send + 'static) -> Self {
            self.base.stop = Some(Box::pin(stop));
            self
        }

        /// Calls `observer` with each event as it happens.
        pub fn on_event(mut self, observer: impl FnMut(&crate::Event) + Send + 'static) -> Self {
            self.base.observer = Some(Box::new(observer));
            self
        }
    };
}
pub(super) use options;
