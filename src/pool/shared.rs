//! State that the pools of all runtimes share.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::clock::Clock;
use crate::config::Config;
use crate::connect::Connector;
use crate::limit::Limits;
use crate::tally::Tally;

pub(crate) struct Shared {
    pub(super) connector: Arc<Connector>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) limits: Limits,
    /// Connections that are being opened.
    pub(crate) opening: Tally,
    /// One at a time closes what is open; the next one finds it done.
    pub(crate) closing: tokio::sync::Mutex<()>,
    shut: AtomicBool,
    /// The distance to the server in microseconds, as last measured.
    round_trip: AtomicU64,
}

impl Shared {
    pub(super) fn new(connector: Arc<Connector>, clock: Arc<dyn Clock>) -> Self {
        Shared {
            limits: Limits::new(connector.config(), Arc::clone(&clock)),
            connector,
            clock,
            opening: Tally::default(),
            closing: tokio::sync::Mutex::default(),
            shut: AtomicBool::new(false),
            round_trip: AtomicU64::new(0),
        }
    }

    pub(crate) fn config(&self) -> &Config {
        self.connector.config()
    }

    pub(crate) fn connector(&self) -> &Connector {
        &self.connector
    }

    pub(crate) fn clock(&self) -> &dyn Clock {
        &*self.clock
    }

    pub(crate) fn limits(&self) -> &Limits {
        &self.limits
    }

    /// The distance to the server; zero until something connected.
    pub(crate) fn round_trip(&self) -> Duration {
        Duration::from_micros(self.round_trip.load(Ordering::Relaxed))
    }

    pub(super) fn note_round_trip(&self, round_trip: Duration) {
        let micros = u64::try_from(round_trip.as_micros()).unwrap_or(u64::MAX);
        self.round_trip.store(micros, Ordering::Relaxed);
    }

    /// From now on nothing is kept, and nothing is opened to be kept. Invocations are still
    /// served: their connections are closed at their end.
    pub(crate) fn shut(&self) {
        self.shut.store(true, Ordering::Release);
    }

    /// As if it had never been shut.
    #[cfg(feature = "lambda")]
    pub(crate) fn reopen(&self) {
        self.shut.store(false, Ordering::Release);
    }

    pub(super) fn is_shut(&self) -> bool {
        self.shut.load(Ordering::Acquire)
    }
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
