//! Holds the pools of a database and the observers of its teardowns.
//!
//! Invocations, the health monitor and the start and end of the process stand on it; none
//! of them knows the `Database` that users hold.

use std::any::Any;
use std::collections::HashSet;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, OnceLock, PoisonError, RwLock};
use std::time::Duration;

use crate::clock;
use crate::config::{LoadShed, Settings};
use crate::connect::Connector;
use crate::error::Error;
use crate::lock::Mutex;
use crate::observe::{self, Caller, Peer};
use crate::pool::Pools;
use crate::teardown::{Rested, Teardown};

/// How many different statements a process reports as repeated.
const MOST_REPORTED: usize = 100;

pub(crate) struct Engine {
    pools: Pools,
    observers: RwLock<Arc<Vec<Observer>>>,
    /// The statements that were reported as repeated.
    reported: Mutex<HashSet<u64>>,
    /// The invocations under way, whose type is above this module.
    pub(crate) live: OnceLock<Box<dyn Any + Send + Sync>>,
    /// The bridge to other drivers, whose type is above this module.
    pub(crate) bridge: OnceLock<Box<dyn Any + Send + Sync>>,
}

type Observer = Arc<dyn Fn(&Teardown) + Send + Sync>;

impl Engine {
    pub(crate) fn new(config: Settings) -> Self {
        let connector = Arc::new(Connector::new(config));
        Engine {
            pools: Pools::new(connector, Arc::new(clock::System)),
            observers: RwLock::default(),
            reported: Mutex::default(),
            live: OnceLock::new(),
            bridge: OnceLock::new(),
        }
    }

    pub(crate) fn settings(&self) -> &Settings {
        self.pools.settings()
    }

    /// Returns the server as spans and metrics name it.
    pub(crate) fn peer(&self) -> &Peer {
        self.pools.connector.peer()
    }

    pub(crate) fn pools(&self) -> &Pools {
        &self.pools
    }

    /// Returns the error with which load shedding rejects an invocation with this time left. With
    /// an idle connection none is rejected.
    pub(crate) fn before_handler(
        &self,
        left: impl FnOnce() -> Option<Duration>,
        request_id: &str,
    ) -> Option<Error> {
        let config = self.settings();
        if config.load_shed != LoadShed::BeforeHandler || self.pools.idle() > 0 {
            return None;
        }
        let left = left().unwrap_or(config.connect_timeout);
        let error = self.pools.limits.before_handler(left)?;
        observe::shed(Some(request_id), &error);
        self.pools.meters.shed();
        Some(error)
    }

    /// Returns whether no invocation has reported this statement before.
    pub(crate) fn is_news(&self, statement: u64) -> bool {
        let mut reported = self.reported.lock();
        reported.len() < MOST_REPORTED && reported.insert(statement)
    }

    /// Adds an observer of teardowns.
    pub(crate) fn observe(&self, observer: Observer) {
        let mut observers = self
            .observers
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        Arc::make_mut(&mut observers).push(observer);
    }

    /// Reports how the connection to the server's `process` was brought to rest.
    pub(crate) fn report(
        &self,
        request_id: &str,
        process: i32,
        caller: Option<Caller>,
        rested: &Rested,
    ) {
        let kept = rested.client.is_some();
        let (outcome, round_trips, elapsed) = (&rested.outcome, rested.round_trips, rested.elapsed);
        let left_open_at = caller.filter(|_| rested.is_unclean);
        let left_open_at = left_open_at.map(|caller| caller as &dyn fmt::Display);
        observe::torn_down(
            request_id,
            process,
            outcome,
            kept,
            round_trips,
            elapsed,
            left_open_at,
        );
        let meters = &self.pools.meters;
        if outcome.is_clean() {
            meters.torn_down_clean();
        } else {
            meters.torn_down(outcome, elapsed, rested.is_unclean);
        }
        // Not called under the lock: one may register another.
        let observers = self.observers.read();
        let observers = Arc::clone(&observers.unwrap_or_else(PoisonError::into_inner));
        if observers.is_empty() {
            return;
        }
        let teardown = Teardown {
            request_id: request_id.to_owned(),
            process_id: process,
            outcome: outcome.clone(),
            kept,
            round_trips,
            elapsed,
            left_open_at: left_open_at.map(ToString::to_string),
        };
        for observer in observers.iter() {
            // It may run in a destructor: a second panic there would abort the process.
            if catch_unwind(AssertUnwindSafe(|| observer(&teardown))).is_err() {
                observe::cleanup_failed(request_id, "on_teardown", "it panicked");
            }
        }
    }
}

impl fmt::Debug for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Engine")
            .field("settings", self.settings())
            .field("pools", &self.pools)
            .finish_non_exhaustive()
    }
}
