//! When the server is asked, and by whom: at most once in a while, and once for all who
//! want to know.

use std::fmt;
use std::pin::pin;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared, WeakShared};
use http::HeaderMap;
use tokio::runtime::{self, Handle};
use tokio::sync::Notify;
use tokio::time::timeout;

use super::figures::Answer;
use super::migrations::Expected;
use super::report::{Circuit, Health, Process, seconds};
use super::token::Token;
use super::verdict::Known;
use crate::config::Settings;
use crate::database::{Database, IsOk};
use crate::deadline::Deadline;
use crate::error::{ErrorKind, Result};
use crate::invocation::{Ended, Invocation, Run};
use crate::observe;

/// The server is asked at most once in this time.
pub(super) const FRESH: Duration = Duration::from_secs(5);

/// How long a reading may take, teardown and all.
const LIMIT: Duration = Duration::from_secs(2);

/// What is known of a database's health.
pub(crate) struct Monitor {
    token: Option<Token>,
    expected: Expected,
    state: Mutex<State>,
    /// A reading has come to its end.
    ended: Notify,
}

#[derive(Default)]
struct State {
    /// When the last reading began, whatever became of it.
    began: Option<SystemTime>,
    flight: Option<Flight>,
    answered: Option<(SystemTime, Answer)>,
    /// Since it last answered.
    failed: Option<(SystemTime, ErrorKind)>,
}

/// A reading under way. It belongs to those who wait for it: there is no task, which might
/// be frozen in the middle, and when all of them are gone, so is it.
struct Flight {
    /// The one whose pool it uses: nobody else may poll it.
    runtime: runtime::Id,
    reading: WeakShared<BoxFuture<'static, ()>>,
}

/// What there is to wait for.
enum Wait {
    Nothing,
    Reading(Shared<BoxFuture<'static, ()>>),
    /// One on another runtime.
    Elsewhere,
}

impl Monitor {
    pub(crate) fn new(config: &Settings) -> Result<Self> {
        let token = config.health_token.as_deref();
        Ok(Monitor {
            token: token.map(Token::new).transpose()?,
            expected: Expected::default(),
            state: Mutex::default(),
            ended: Notify::new(),
        })
    }

    /// Whether these are the headers of somebody who may read the details.
    pub(crate) fn trusts(&self, headers: &HeaderMap) -> bool {
        let token = self.token.as_ref();
        token.is_some_and(|token| token.is_presented(headers))
    }

    /// What [`Database::expect_migrations`] is told.
    #[cfg(feature = "migrate")]
    pub(super) fn expected(&self) -> &Expected {
        &self.expected
    }

    /// Asks the server, if it is time and nobody is kept from work by it.
    pub(super) async fn refresh(&self, database: &Database) {
        let mut ended = pin!(self.ended.notified());
        ended.as_mut().enable();
        match self.wait(database) {
            Wait::Nothing => {}
            Wait::Reading(reading) => reading.await,
            Wait::Elsewhere => drop(timeout(LIMIT, ended).await),
        }
    }

    fn wait(&self, database: &Database) -> Wait {
        let runtime = Handle::current().id();
        let now = database.pools().clock().now();
        let mut state = self.state();
        if let Some(flight) = &state.flight {
            if let Some(reading) = flight.reading.upgrade() {
                return match flight.runtime == runtime {
                    true => Wait::Reading(reading),
                    false => Wait::Elsewhere,
                };
            }
        }
        if state.began.is_some_and(|began| is_fresh(began, now)) || !has_room(database) {
            return Wait::Nothing;
        }
        let reading = read(database.clone()).boxed().shared();
        state.began = Some(now);
        state.flight = reading
            .downgrade()
            .map(|reading| Flight { runtime, reading });
        Wait::Reading(reading)
    }

    /// What is known at this moment.
    pub(super) fn report(&self, database: &Database) -> Health {
        let pools = database.pools();
        let (limits, config) = (pools.limits(), pools.config());
        let now = pools.clock().now();
        let (checked_out, idle) = pools.here().counts();
        let circuit = limits.breaker.opened_by();
        let mut process = Process::new(config, checked_out, idle);
        process.circuit = circuit.map(|(kind, open)| Circuit {
            open_seconds: seconds(open),
            kind,
            next_try_seconds: seconds(limits.breaker.next_try().unwrap_or_default()),
        });
        process.pooler_pool_size = limits.room.pool_size();
        let state = self.state();
        let known = Known {
            now,
            answered: state.answered.as_ref(),
            failed: state.failed,
            circuit: circuit.map(|(kind, open)| (now - open.min(LONGEST), kind)),
            in_passing: limits.room.last_reading(),
            mark: config.takes_slots().then_some(config.crowded_at),
        };
        let (status, reached) = known.verdict();
        Health {
            status,
            database: reached,
            postgres: process,
            server: known.server(),
        }
    }

    /// A reading that began at `began` is done.
    fn note(&self, database: &Database, began: SystemTime, read: Result<Answer, ErrorKind>) {
        match read {
            Ok(answer) => {
                let reading = answer.reading(began);
                let slots = reading.map(|reading| reading.server);
                let (used, limit) = (
                    slots.map(|slots| slots.used),
                    slots.map(|slots| slots.limit),
                );
                observe::health_read(used, limit, answer.latency());
                if let Some(reading) = reading.filter(|_| database.settings().takes_slots()) {
                    database.pools().limits().room.note(reading);
                }
                let mut state = self.state();
                state.answered = Some((began, answer));
                state.failed = None;
            }
            // Somebody was quicker: that says nothing of the server. What has opened the
            // circuit, the circuit says better.
            Err(
                ErrorKind::AcquireTimeout | ErrorKind::WouldWaitForItself | ErrorKind::LoadShed,
            ) => {}
            Err(kind) => {
                observe::health_failed(kind);
                self.state().failed = Some((began, kind));
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// No circuit has been open for longer.
const LONGEST: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// A clock that was set back since makes nothing young.
pub(super) fn is_fresh(then: SystemTime, now: SystemTime) -> bool {
    now.duration_since(then).is_ok_and(|age| age < FRESH)
}

/// Whether a connection is to be had without waiting for it, or for who tries to connect.
fn has_room(database: &Database) -> bool {
    let pools = database.pools();
    let pool = pools.here();
    let (checked_out, idle) = pool.counts();
    checked_out < pool.max_connections() && (idle > 0 || pools.limits().breaker.lets_in())
}

/// Asks the server, as an invocation of its own.
async fn read(database: Database) {
    // Whoever waits on another runtime is told, also if this is dropped.
    let ending = Ending(database);
    let database = &ending.0;
    let began = database.pools().clock().now();
    let invocation = Invocation::new(database.clone(), Deadline::ours(LIMIT), "health");
    let own = invocation.clone();
    let expected = &database.monitor().expected;
    let work = || async move {
        let connection = own.lease(&"the health check").await?;
        Answer::of(&connection, expected).await
    };
    let (ended, _) = Run::new(invocation, IsOk, work).await;
    let read = match ended {
        Ended::Returned(read) => read.map_err(|error| error.kind()),
        Ended::Deadline(_) => Err(ErrorKind::Deadline),
        Ended::Panicked(_) => Err(ErrorKind::Database),
    };
    database.monitor().note(database, began, read);
}

/// Dropped when a reading is over.
struct Ending(Database);

impl Drop for Ending {
    fn drop(&mut self) {
        self.0.monitor().ended.notify_waiters();
    }
}

impl fmt::Debug for Monitor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.state();
        f.debug_struct("Monitor")
            .field("began", &state.began)
            .field("failed", &state.failed)
            .finish_non_exhaustive()
    }
}
