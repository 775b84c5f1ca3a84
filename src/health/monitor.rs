//! Schedules readings of the server: at most one in a while, shared by all callers.

use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, SystemTime};

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared, WeakShared};
use http::HeaderMap;
use tokio::runtime::{self, Handle};
use tokio::time::timeout;

use super::figures::Answer;
use super::migrations::ExpectedMigrations;
use super::report::{Circuit, Health, Process, seconds};
use super::token::Token;
use super::verdict::{Known, is_fresh};
use crate::deadline::Deadline;
use crate::engine::Engine;
use crate::error::{ErrorKind, Result};
use crate::invocation::{Invocation, IsOk, Run};
use crate::observe;
use crate::tally::Tally;

/// How long a reading may take, teardown and all.
const LIMIT: Duration = Duration::from_secs(2);

/// What is known of a database's health.
pub(crate) struct Monitor {
    engine: Arc<Engine>,
    token: Option<Token>,
    expected: OnceLock<Box<dyn ExpectedMigrations>>,
    state: Mutex<State>,
    /// Readings under way, for callers on another runtime.
    readings: Tally,
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

/// A reading under way. It belongs to its waiting callers: there is no task, which might
/// be frozen in the middle, and when all of them are gone, so is it.
struct Flight {
    /// The runtime whose pool it uses, and which alone may poll it.
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
    pub(crate) fn new(engine: Arc<Engine>) -> Result<Self> {
        let token = engine.settings().health_token.as_deref();
        Ok(Monitor {
            token: token.map(Token::new).transpose()?,
            expected: OnceLock::new(),
            state: Mutex::default(),
            readings: Tally::default(),
            engine,
        })
    }

    /// Whether these headers unlock the details.
    pub(crate) fn trusts(&self, headers: &HeaderMap) -> bool {
        let token = self.token.as_ref();
        token.is_some_and(|token| token.is_presented(headers))
    }

    /// Has readings ask about `migrations`.
    pub(crate) fn expect(&self, migrations: Box<dyn ExpectedMigrations>) {
        let _ = self.expected.set(migrations);
    }

    /// Asks the server, if it is time and no request is held up by it, and reports what
    /// is known.
    pub(crate) async fn health(self: Arc<Self>) -> Health {
        match self.wait() {
            Wait::Nothing => {}
            Wait::Reading(reading) => reading.await,
            Wait::Elsewhere => drop(timeout(LIMIT, self.readings.none()).await),
        }
        self.report()
    }

    fn wait(self: &Arc<Self>) -> Wait {
        let runtime = Handle::current().id();
        let now = self.engine.pools().clock().now();
        let mut state = self.state();
        if let Some(flight) = &state.flight {
            if let Some(reading) = flight.reading.upgrade() {
                return if flight.runtime == runtime {
                    Wait::Reading(reading)
                } else {
                    Wait::Elsewhere
                };
            }
        }
        if state.began.is_some_and(|began| is_fresh(began, now)) || !self.has_room() {
            return Wait::Nothing;
        }
        let own = Arc::clone(self);
        let counted = self.readings.one();
        let reading = async move {
            own.read().await;
            drop(counted);
        };
        let reading = reading.boxed().shared();
        state.began = Some(now);
        state.flight = reading
            .downgrade()
            .map(|reading| Flight { runtime, reading });
        Wait::Reading(reading)
    }

    /// What is known at this moment.
    fn report(&self) -> Health {
        let pools = self.engine.pools();
        let (limits, config) = (pools.limits(), pools.settings());
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
            mark: config.takes_slots().then_some(config.high_water_mark),
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
    fn note(&self, began: SystemTime, read: Result<Answer, ErrorKind>) {
        match read {
            Ok(answer) => {
                let reading = answer.reading(began);
                let slots = reading.map(|reading| reading.server);
                let (used, limit) = (
                    slots.map(|slots| slots.used),
                    slots.map(|slots| slots.limit),
                );
                observe::health_read(used, limit, answer.latency());
                if let Some(reading) = reading.filter(|_| self.engine.settings().takes_slots()) {
                    self.engine.pools().limits().room.note(reading);
                }
                let mut state = self.state();
                state.answered = Some((began, answer));
                state.failed = None;
            }
            // Another caller has the connection: that says nothing of the server. What has opened the
            // circuit, the circuit says better.
            Err(ErrorKind::AcquireTimeout | ErrorKind::PoolSelfDeadlock | ErrorKind::LoadShed) => {}
            Err(kind) => {
                observe::health_failed(kind);
                self.state().failed = Some((began, kind));
            }
        }
    }

    /// Whether a connection is to be had without waiting for it, or for a caller that tries to
    /// connect.
    fn has_room(&self) -> bool {
        let pools = self.engine.pools();
        let pool = pools.here();
        let (checked_out, idle) = pool.counts();
        checked_out < pool.max_connections() && (idle > 0 || pools.limits().breaker.lets_in())
    }

    /// Asks the server, as an invocation of its own.
    async fn read(&self) {
        let began = self.engine.pools().clock().now();
        let engine = Arc::clone(&self.engine);
        let invocation = Invocation::new(engine, Deadline::ours(LIMIT), "health");
        let own = invocation.clone();
        let work = || async move {
            let connection = own.lease(&"the health check").await?;
            let expected = self.expected.get().map(Box::as_ref);
            Answer::of(&connection, expected).await
        };
        let run = AssertUnwindSafe(Run::new(invocation, IsOk, work)).catch_unwind();
        let read = match run.await {
            Ok(Ok(read)) => read.map_err(|error| error.kind()),
            Ok(Err(error)) => Err(error.kind()),
            Err(_) => Err(ErrorKind::Database),
        };
        self.note(began, read);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// No circuit has been open for longer.
const LONGEST: Duration = Duration::from_secs(365 * 24 * 60 * 60);
