//! What whoever runs migrations is told beforehand.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use antifreeze::config::DirectEndpoint;
use antifreeze::internal::{self, Connector};
use antifreeze::{Database, Deadline};

use super::error::Result;
use super::report::Observer;
use super::settings::Settings;

/// What the server calls us, before the function's own name.
const NAME: &str = "migrate";

/// What ends it before its end.
pub(super) type Stop = Pin<Box<dyn Future<Output = ()> + Send>>;

/// What all that work under the lock have in common.
pub(super) struct Base {
    pub(super) config: antifreeze::config::Settings,
    pub(super) endpoint: Option<DirectEndpoint>,
    /// The environment speaks of another database.
    pub(super) ignores_environment: bool,
    pub(super) settings: Settings,
    pub(super) observer: Option<Observer>,
    pub(super) deadline: Deadline,
    pub(super) stop: Option<Stop>,
}

impl Base {
    pub(super) fn new(database: &Database) -> Self {
        Base {
            config: database.settings().clone(),
            endpoint: None,
            ignores_environment: false,
            settings: Settings::default(),
            observer: None,
            deadline: Deadline::none(),
            stop: None,
        }
    }

    /// Where to connect to, and how.
    pub(super) fn connector(&mut self) -> Result<Arc<Connector>> {
        let environment = !self.ignores_environment;
        let mut config = internal::for_migrations(&self.config, self.endpoint.take(), environment)?;
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
macro_rules! options {
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

        /// How long to try for a slot while the server has none left. Default: not at all.
        pub fn slot_wait(mut self, limit: std::time::Duration) -> Self {
            self.base.settings.slot_wait = limit;
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
        pub fn endpoint(mut self, endpoint: antifreeze::config::DirectEndpoint) -> Self {
            self.base.endpoint = Some(endpoint);
            self
        }

        /// Leaves `MIGRATION_DATABASE_URL` aside, which is about the environment's database:
        /// this is another one. Where to connect to follows from its own address.
        pub fn ignore_environment(mut self) -> Self {
            self.base.ignores_environment = true;
            self
        }

        /// When it has to be done: 3 s before that, or after three quarters of a shorter
        /// time, what runs is cancelled and rolled back.
        pub fn deadline(mut self, deadline: impl Into<antifreeze::Deadline>) -> Self {
            self.base.deadline = deadline.into();
            self
        }

        /// Stops once `stop` is done, as on ctrl-C: what runs is cancelled and rolled back.
        /// Another tool is told to end (SIGTERM), and killed if it has not after 5 s; the
        /// lock is kept until then.
        pub fn stop_when(mut self, stop: impl Future<Output = ()> + Send + 'static) -> Self {
            self.base.stop = Some(Box::pin(stop));
            self
        }

        /// Tells `observer` what happens, when it happens.
        pub fn on_event(mut self, observer: impl FnMut(&crate::Event) + Send + 'static) -> Self {
            self.base.observer = Some(Box::new(observer));
            self
        }
    };
}
pub(super) use options;
