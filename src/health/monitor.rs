//! Schedules readings of the server: at most one in 5 s, shared by all callers.

use std::panic::AssertUnwindSafe;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, WeakShared};
use http::HeaderMap;
use tokio::runtime::{self, Handle};
use tokio::time::timeout;

use super::figures::Answer;
use super::migrations::ExpectedMigrations;
use super::report::{Circuit, Health, Process, seconds};
use super::token;
use super::verdict::{Observations, is_fresh};
use crate::deadline::Deadline;
use crate::engine::Engine;
use crate::error::{ErrorKind, Result};
use crate::invocation::{Invocation, IsOk, Run};
use crate::lock::Mutex;
use crate::observe;
use crate::tally::Tally;

/// The time limit of a reading, teardown included.
const TIMEOUT: Duration = Duration::from_secs(2);

/// The health of one database, as last read.
pub(crate) struct Monitor {
    engine: Arc<Engine>,
    expected: OnceLock<Box<dyn ExpectedMigrations>>,
    state: Mutex<Readings>,
    /// Counts the reading under way, for callers on another runtime.
    readings: Tally,
}

#[derive(Default)]
struct Readings {
    /// When the last reading began, whether it succeeded or not.
    began: Option<SystemTime>,
    under_way: Option<PendingReading>,
    answered: Option<(SystemTime, Answer)>,
    /// The last failure, if no answer came after it.
    failed: Option<(SystemTime, ErrorKind)>,
}

/// A reading under way. Its waiting callers drive it, not a task, which might be frozen in the
/// middle: when all of them stop waiting, it is dropped.
struct PendingReading {
    /// The runtime whose pool it uses: only this runtime may poll it.
    runtime: runtime::Id,
    reading: WeakShared<BoxFuture<'static, ()>>,
}

impl Monitor {
    pub(crate) fn new(engine: Arc<Engine>) -> Self {
        Monitor {
            expected: OnceLock::new(),
            state: Mutex::default(),
            readings: Tally::default(),
            engine,
        }
    }

    /// Returns whether these headers give access to the details.
    pub(crate) fn trusts(&self, headers: &HeaderMap) -> bool {
        let token = self.engine.settings().health_token.as_deref();
        token.is_some_and(|token| token::is_presented(token, headers))
    }

    /// Makes readings look for pending `migrations`.
    pub(crate) fn expect(&self, migrations: Box<dyn ExpectedMigrations>) {
        let _ = self.expected.set(migrations);
    }

    /// Reads the server, if a reading is due and delays no request, and returns the report.
    pub(crate) async fn health(self: Arc<Self>) -> Health {
        if let Some(reading) = self.reading() {
            reading.await;
        }
        self.report()
    }

    /// Joins the reading under way, or begins one if it is due.
    fn reading(self: &Arc<Self>) -> Option<BoxFuture<'static, ()>> {
        let runtime = Handle::current().id();
        let now = self.engine.pools().clock.now();
        let mut state = self.state.lock();
        if let Some(under_way) = &state.under_way {
            if let Some(reading) = under_way.reading.upgrade() {
                if under_way.runtime == runtime {
                    return Some(reading.boxed());
                }
                let own = Arc::clone(self);
                let over = async move { timeout(TIMEOUT, own.readings.none()).await };
                return Some(over.map(drop).boxed());
            }
        }
        if state.began.is_some_and(|began| is_fresh(began, now)) || !self.has_room() {
            return None;
        }
        let own = Arc::clone(self);
        let counted = self.readings.one();
        let reading = async move {
            own.read().await;
            drop(counted);
        };
        let reading = reading.boxed().shared();
        state.began = Some(now);
        state.under_way = reading
            .downgrade()
            .map(|reading| PendingReading { runtime, reading });
        Some(reading.boxed())
    }

    /// Makes the report from what is known.
    fn report(&self) -> Health {
        let pools = self.engine.pools();
        let (limits, config, pool) = (&pools.limits, pools.settings(), pools.here());
        let now = pools.clock.now();
        let circuit = limits.breaker.opened_by();
        let mut process = Process::new(config, pool.in_use(), pool.idle());
        process.circuit = circuit.map(|(kind, open)| Circuit {
            open_seconds: seconds(open),
            kind,
            next_try_seconds: seconds(limits.breaker.next_try().unwrap_or_default()),
        });
        process.pooler_pool_size = limits.room.pool_size();
        let state = self.state.lock();
        let observations = Observations {
            now,
            answered: state.answered.as_ref(),
            failed: state.failed,
            circuit: circuit.map(|(kind, open)| (now - open.min(MAX_OPEN), kind)),
            slots: limits.room.last_reading(),
            high_water_mark: config.takes_slots().then_some(config.high_water_mark),
        };
        let (status, reached) = observations.verdict();
        Health {
            status,
            database: reached,
            postgres: process,
            server: observations.server(),
        }
    }

    /// Records the result of the reading that began at `began`.
    fn note(&self, began: SystemTime, read: Result<Answer, ErrorKind>) {
        match read {
            Ok(answer) => {
                let reading = answer.reading(began);
                let slots = reading.map(|reading| reading.server);
                let used = slots.map(|slots| slots.used);
                let limit = slots.map(|slots| slots.limit);
                observe::health_read(used, limit, answer.latency);
                if let Some(reading) = reading.filter(|_| self.engine.settings().takes_slots()) {
                    self.engine.pools().limits.room.note(reading);
                }
                let mut state = self.state.lock();
                state.answered = Some((began, answer));
                state.failed = None;
            }
            // Another invocation has the connection, or the circuit is open: that says nothing
            // new about the server.
            Err(ErrorKind::AcquireTimeout | ErrorKind::PoolSelfDeadlock | ErrorKind::LoadShed) => {}
            Err(kind) => {
                observe::health_failed(kind);
                self.state.lock().failed = Some((began, kind));
            }
        }
    }

    /// Returns whether a checkout would wait neither for a permit nor for the breaker's prober.
    fn has_room(&self) -> bool {
        let pools = self.engine.pools();
        let pool = pools.here();
        pool.in_use() < pool.max_connections()
            && (pool.idle() > 0 || pools.limits.breaker.lets_in())
    }

    /// Reads the server, as an invocation of its own.
    async fn read(&self) {
        let began = self.engine.pools().clock.now();
        let engine = Arc::clone(&self.engine);
        let invocation = Invocation::new(engine, Deadline::internal(TIMEOUT), "health");
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
}

/// A limit on the time that a circuit has been open, so that it can be subtracted from now.
const MAX_OPEN: Duration = Duration::from_secs(365 * 24 * 60 * 60);
