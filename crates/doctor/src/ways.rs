//! Getting in while every slot is taken.

use std::time::Duration;

use antifreeze::config::{Endpoint, Pooler};
use antifreeze::internal::{self, Backoff, Manner};
use antifreeze::{Config, Database, Error, ErrorKind, Result, Session};
use tokio::time::{Instant, sleep};

use super::session::{open, open_queued, open_strictly};

/// A slot that becomes free is gone within moments: asked for this often at first, ..
const FIRST: Duration = Duration::from_millis(20);

/// .. and never more seldom than this.
const MOST: Duration = Duration::from_millis(250);

/// The other of two endpoints.
pub(super) const DIRECT: &str = "the direct endpoint";
pub(super) const POOLED: &str = "the pooled endpoint";

/// How a tool that must work in an outage gets to the server: by the configured way, for
/// as long as it takes, and by others that are known.
#[derive(Debug, Clone)]
pub struct Ways {
    main: Way,
    others: Vec<Way>,
    wait: Duration,
}

/// One of them.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Way {
    /// What people call it: `the direct endpoint`.
    pub name: String,
    /// Where it leads.
    pub database: Database,
}

impl Ways {
    /// The way of `config`, and the other of two [endpoints](Endpoint) if it knows one.
    ///
    /// # Errors
    ///
    /// Those of [`Database::new`].
    pub fn new(config: Config) -> Result<Self> {
        let main = Way {
            name: "the configured way".to_owned(),
            database: Database::new(config.clone())?,
        };
        let (endpoint, name) = if main.database.settings().endpoint == Endpoint::Direct {
            (Endpoint::Pooled, POOLED)
        } else {
            (Endpoint::Direct, DIRECT)
        };
        let twin = Database::new(config.endpoint(endpoint));
        let twin = twin.ok().map(|database| Way {
            name: name.to_owned(),
            database,
        });
        let elsewhere = |way: &Way| hosts(&way.database) != hosts(&main.database);
        let others = twin.filter(elsewhere).into_iter().collect();
        Ok(Ways {
            main,
            others,
            wait: Duration::ZERO,
        })
    }

    /// Another way, for when there is no slot by the configured one: a role for which the
    /// server reserves some.
    #[must_use]
    pub fn or(mut self, name: impl Into<String>, database: Database) -> Self {
        self.others.push(Way {
            name: name.into(),
            database,
        });
        self
    }

    /// How long to try for a slot. Default: not at all.
    #[must_use]
    pub fn wait(mut self, wait: Duration) -> Self {
        self.wait = wait;
        self
    }

    pub(super) fn waits(&self) -> Duration {
        self.wait
    }

    /// The configured database.
    pub fn database(&self) -> &Database {
        &self.main.database
    }

    /// Gets in. While the server is full it tries again and again, and the other ways,
    /// too; `full` is told why, once.
    ///
    /// # Errors
    ///
    /// Those of connecting; [`TooManyConnections`](ErrorKind::TooManyConnections) if no
    /// slot was to be had in time by any way.
    pub async fn open(&self, full: &mut (dyn FnMut(&Error) + Send)) -> Result<(Session, &Way)> {
        let first = open(self.database()).await;
        self.open_after(first, full).await
    }

    /// Gets in by another way, for when the configured one leads nowhere: a pooler that is
    /// down. `None` if none does.
    pub async fn open_other(&self) -> Option<(Session, &Way)> {
        for way in &self.others {
            if let Ok(session) = open(&way.database).await {
                return Some((session, way));
            }
        }
        None
    }

    pub(super) async fn open_in(
        &self,
        manner: Manner<'_>,
        full: &mut (dyn FnMut(&Error) + Send),
    ) -> Result<(Session, &Way)> {
        let first = open_strictly(self.database(), manner).await;
        self.open_after(first, full).await
    }

    /// The same ways, the configured one known to lead through a pooler.
    pub(super) fn pooled(&self) -> Result<Ways> {
        let mut config = self.database().settings().clone();
        internal::follow(&mut config, Pooler::Transaction);
        let mut ways = self.clone();
        ways.main.database = internal::database(config)?;
        Ok(ways)
    }

    /// Tries until the time is over, if the `first` try found no slot.
    async fn open_after(
        &self,
        first: Result<Session>,
        full: &mut (dyn FnMut(&Error) + Send),
    ) -> Result<(Session, &Way)> {
        let until = Instant::now() + self.wait;
        let mut error = match is_full(first)? {
            Ok(session) => return Ok((session, &self.main)),
            Err(error) => error,
        };
        full(&error);
        let mut others: Vec<&Way> = self.others.iter().collect();
        let mut backoff = Backoff::new(FIRST, MOST);
        loop {
            let mut still = Vec::new();
            for way in others {
                match open(&way.database).await {
                    Ok(session) => return Ok((session, way)),
                    Err(error) if error.kind() == ErrorKind::TooManyConnections => still.push(way),
                    // It leads nowhere.
                    Err(_) => {}
                }
            }
            others = still;
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(error);
            }
            let delay = backoff.next().unwrap_or(MOST);
            sleep(delay.min(left)).await;
            // Who leaves a pooler's queue comes back to its end: only for another way.
            let queued = match others.as_slice() {
                [] => until.saturating_duration_since(Instant::now()),
                _ => self.database().settings().connect_timeout,
            };
            error = match is_full(open_queued(self.database(), queued).await)? {
                Ok(session) => return Ok((session, &self.main)),
                Err(error) => error,
            };
        }
    }
}

/// Fails unless waiting helps.
fn is_full(opened: Result<Session>) -> Result<Result<Session>> {
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
