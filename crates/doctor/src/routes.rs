//! Opens a session while every connection slot is taken.

use std::time::Duration;

use antifreeze::config::{Endpoint, Pooler};
use antifreeze::internal::{self, Backoff, ConnectOptions};
use antifreeze::{Config, Database, Error, ErrorKind, Result, Session};
use tokio::time::{Instant, sleep};

use super::session::{open, open_queued, open_strictly};

/// The longest wait for a slot.
const YEAR: Duration = Duration::from_secs(365 * 24 * 3_600);

/// The first delay between attempts. It is short, since a free slot is taken within moments.
const MIN_DELAY: Duration = Duration::from_millis(20);

/// The longest delay between attempts.
const MAX_DELAY: Duration = Duration::from_millis(250);

/// The names of the alternative endpoints.
pub(super) const DIRECT: &str = "the direct endpoint";
pub(super) const POOLED: &str = "the pooled endpoint";

/// The routes by which a tool that must work during an outage reaches the server: the
/// configured one, with retries while every slot is taken, and known alternatives.
///
/// [`open`](super::open) makes a single attempt by one route instead.
#[derive(Debug, Clone)]
pub struct Routes {
    main: Route,
    others: Vec<Route>,
    wait: Duration,
}

/// A route to the server.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Route {
    /// Its name in messages: `the direct endpoint`.
    pub name: String,
    /// The database that it leads to.
    pub database: Database,
}

impl Routes {
    /// Creates the route of `config`, and that of its other [endpoint](Endpoint) if it has
    /// one.
    ///
    /// # Errors
    ///
    /// Fails if [`Database::new`] does.
    pub fn new(config: Config) -> Result<Self> {
        let main = Route {
            name: "the configured endpoint".to_owned(),
            database: Database::new(config.clone())?,
        };
        let (endpoint, name) = if main.database.settings().endpoint == Endpoint::Direct {
            (Endpoint::Pooled, POOLED)
        } else {
            (Endpoint::Direct, DIRECT)
        };
        let twin = Database::new(config.endpoint(endpoint));
        let twin = twin.ok().map(|database| Route {
            name: name.to_owned(),
            database,
        });
        let is_different = |route: &Route| hosts(&route.database) != hosts(&main.database);
        let others = twin.filter(is_different).into_iter().collect();
        Ok(Routes {
            main,
            others,
            wait: Duration::ZERO,
        })
    }

    /// Adds an alternative for when no slot is free, such as a role that may use reserved
    /// connections.
    #[must_use]
    pub fn or(mut self, name: impl Into<String>, database: Database) -> Self {
        self.others.push(Route {
            name: name.into(),
            database,
        });
        self
    }

    /// Sets how long to retry while every slot is taken. Default: no retries.
    #[must_use]
    pub fn wait(mut self, wait: Duration) -> Self {
        self.wait = wait;
        self
    }

    pub(super) fn wait_limit(&self) -> Duration {
        self.wait
    }

    /// Returns the configured database.
    pub fn database(&self) -> &Database {
        &self.main.database
    }

    /// Opens a session. While the server is full, retries by all routes; calls `on_full` once
    /// with the reason.
    ///
    /// # Errors
    ///
    /// Fails if connecting fails, with
    /// [`TooManyConnections`](ErrorKind::TooManyConnections) if no slot became free in time.
    pub async fn open(
        &self,
        on_full: &mut (dyn FnMut(&Error) + Send),
    ) -> Result<(Session, &Route)> {
        let first = open(self.database()).await;
        self.open_after(first, on_full).await
    }

    /// Opens a session by an alternative route, for when the configured one fails, such as a
    /// pooler that is down. Returns `None` if all fail.
    pub async fn open_other(&self) -> Option<(Session, &Route)> {
        for route in &self.others {
            if let Ok(session) = open(&route.database).await {
                return Some((session, route));
            }
        }
        None
    }

    pub(super) async fn open_in(
        &self,
        options: ConnectOptions<'_>,
        on_full: &mut (dyn FnMut(&Error) + Send),
    ) -> Result<(Session, &Route)> {
        let first = open_strictly(self.database(), options).await;
        self.open_after(first, on_full).await
    }

    /// Returns the same routes, with the configured one set to lead through a pooler.
    pub(super) fn pooled(&self) -> Result<Routes> {
        let mut config = self.database().settings().clone();
        internal::follow(&mut config, Pooler::Transaction);
        let mut routes = self.clone();
        routes.main.database = internal::database(config)?;
        Ok(routes)
    }

    /// Retries until the time is up, if the `first` attempt found no slot.
    async fn open_after(
        &self,
        first: Result<Session>,
        on_full: &mut (dyn FnMut(&Error) + Send),
    ) -> Result<(Session, &Route)> {
        let until = Instant::now() + self.wait.min(YEAR);
        let mut error = match full_or_failed(first)? {
            Ok(session) => return Ok((session, &self.main)),
            Err(error) => error,
        };
        on_full(&error);
        let mut others: Vec<&Route> = self.others.iter().collect();
        let mut backoff = Backoff::new(MIN_DELAY, MAX_DELAY);
        loop {
            let mut full = Vec::new();
            for route in others {
                match open(&route.database).await {
                    Ok(session) => return Ok((session, route)),
                    Err(error) if error.kind() == ErrorKind::TooManyConnections => full.push(route),
                    // It fails for another reason: not tried again.
                    Err(_) => {}
                }
            }
            others = full;
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(error);
            }
            let delay = backoff.next().unwrap_or(MAX_DELAY);
            sleep(delay.min(left)).await;
            // A client that leaves the pooler's queue rejoins at its end: leave it only to try
            // another route.
            let queued = match others.as_slice() {
                [] => until.saturating_duration_since(Instant::now()),
                _ => self.database().settings().connect_timeout,
            };
            error = match full_or_failed(open_queued(self.database(), queued).await)? {
                Ok(session) => return Ok((session, &self.main)),
                Err(error) => error,
            };
        }
    }
}

/// Passes on a session or "too many connections"; fails with any other error.
fn full_or_failed(opened: Result<Session>) -> Result<Result<Session>> {
    match opened {
        Err(error) if error.kind() != ErrorKind::TooManyConnections => Err(error),
        opened => Ok(opened),
    }
}

fn hosts(database: &Database) -> (Vec<String>, &[u16]) {
    let server = &database.settings().server;
    let hosts = server.get_hosts().iter().map(|host| format!("{host:?}"));
    (hosts.collect(), server.get_ports())
}
