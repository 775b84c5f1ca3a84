//! Records metrics through the crate `metrics`, with OpenTelemetry's names for connection pools,
//! and names of our own for what no other pool has.
//!
//! Without the feature `metrics` nothing is recorded, and no clock is read.

use std::time::Duration;

/// The kind of a metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A sum that only grows.
    Counter,
    /// A value that goes up and down.
    Gauge,
    /// A distribution.
    Histogram,
}

/// The unit of a metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// A number of things.
    Count,
    /// A duration.
    Seconds,
}

/// A metric that this crate records.
#[derive(Debug)]
pub struct Metric {
    /// Its name.
    pub name: &'static str,
    /// Its kind.
    pub kind: Kind,
    /// Its unit.
    pub unit: Unit,
    /// What it tells.
    pub description: &'static str,
}

macro_rules! metrics {
    ($($constant:ident: $kind:ident in $unit:ident, $name:literal, $description:literal;)*) => {
        $(#[cfg(feature = "metrics")] const $constant: &str = $name;)*

        /// Every metric that this crate records.
        pub const METRICS: &[Metric] = &[$(Metric {
            name: $name,
            kind: Kind::$kind,
            unit: Unit::$unit,
            description: $description,
        }),*];
    };
}

metrics! {
    CONNECTIONS: Gauge in Count, "db.client.connection.count",
        "Connections, by state: idle or used";
    CONNECTIONS_MAX: Gauge in Count, "db.client.connection.max",
        "The most connections that a runtime of the process may have";
    IDLE_MAX: Gauge in Count, "db.client.connection.idle.max",
        "The most connections that are kept between invocations";
    PENDING: Gauge in Count, "db.client.connection.pending_requests",
        "Checkouts that wait";
    TIMEOUTS: Counter in Count, "db.client.connection.timeouts",
        "Checkouts that waited in vain for a connection";
    CREATE_TIME: Histogram in Seconds, "db.client.connection.create_time",
        "The time that connecting took";
    WAIT_TIME: Histogram in Seconds, "db.client.connection.wait_time",
        "The time that a checkout took";
    USE_TIME: Histogram in Seconds, "db.client.connection.use_time",
        "The time between checkout and rest";
    TEARDOWNS: Counter in Count, "antifreeze.teardowns",
        "Connections brought to rest, by outcome";
    TEARDOWN_DURATION: Histogram in Seconds, "antifreeze.teardown.duration",
        "The time that teardown took, where it had to act";
    STATEMENTS: Histogram in Count, "antifreeze.invocation.statements",
        "Statements of an invocation";
    ROUND_TRIPS: Histogram in Count, "antifreeze.invocation.round_trips",
        "Round trips of an invocation";
    LEFT_OPEN: Counter in Count, "antifreeze.left_open",
        "Connections that were left open or in use";
    DISCARDED: Counter in Count, "antifreeze.discarded",
        "Idle connections that were found unusable, or too old, by reason";
    THAWS: Counter in Count, "antifreeze.thaws",
        "Connections that had to answer after a long time without use, by whether they did";
    CIRCUIT: Gauge in Count, "antifreeze.circuit.open",
        "1 while the circuit breaker is open, 0 while it is closed";
    SHED: Counter in Count, "antifreeze.shed",
        "Invocations that load shedding rejected";
    SLOTS_USED: Gauge in Count, "antifreeze.slots.used",
        "Slots of the server in use, by the last reading";
    SLOTS_LIMIT: Gauge in Count, "antifreeze.slots.limit",
        "Slots of the server, by the last reading";
}

#[cfg(feature = "metrics")]
pub(crate) use recorded::{Meters, Stamp};
#[cfg(not(feature = "metrics"))]
pub(crate) use unrecorded::{Meters, Stamp};

#[cfg(feature = "metrics")]
mod recorded {
    use std::fmt;
    use std::sync::{Arc, OnceLock};
    use std::time::Instant;

    use metrics::{Counter, Gauge, Histogram, counter, gauge, histogram};

    use super::*;

    const POOL: &str = "db.client.connection.pool.name";
    const STATE: &str = "db.client.connection.state";

    /// The metrics of one database. The recorder is asked for them at the first use.
    #[derive(Clone, Default)]
    pub(crate) struct Meters(Arc<Inner>);

    #[derive(Default)]
    struct Inner {
        pool: String,
        /// The most connections, and the most idle ones.
        limits: (usize, usize),
        handles: OnceLock<Handles>,
    }

    struct Handles {
        used: Gauge,
        idle: Gauge,
        pending: Gauge,
        timeouts: Counter,
        create_time: Histogram,
        wait_time: Histogram,
        use_time: Histogram,
        clean: Counter,
        statements: Histogram,
        round_trips: Histogram,
    }

    /// The moment at which a connection was checked out.
    #[derive(Clone, Copy)]
    pub(crate) struct Stamp(Instant);

    impl Stamp {
        pub(crate) fn now() -> Self {
            Stamp(Instant::now())
        }
    }

    impl Meters {
        pub(crate) fn new(pool: &str, limits: (usize, usize)) -> Self {
            Meters(Arc::new(Inner {
                pool: pool.to_owned(),
                limits,
                handles: OnceLock::new(),
            }))
        }

        fn handles(&self) -> &Handles {
            self.0.handles.get_or_init(|| self.register())
        }

        fn register(&self) -> Handles {
            for metric in METRICS {
                let unit = match metric.unit {
                    Unit::Count => metrics::Unit::Count,
                    Unit::Seconds => metrics::Unit::Seconds,
                };
                let (name, description) = (metric.name, metric.description);
                match metric.kind {
                    Kind::Counter => metrics::describe_counter!(name, unit, description),
                    Kind::Gauge => metrics::describe_gauge!(name, unit, description),
                    Kind::Histogram => metrics::describe_histogram!(name, unit, description),
                }
            }
            let pool = || self.0.pool.clone();
            let (most, most_idle) = self.0.limits;
            gauge!(CONNECTIONS_MAX, POOL => pool()).set(most as f64);
            gauge!(IDLE_MAX, POOL => pool()).set(most_idle as f64);
            Handles {
                used: gauge!(CONNECTIONS, POOL => pool(), STATE => "used"),
                idle: gauge!(CONNECTIONS, POOL => pool(), STATE => "idle"),
                pending: gauge!(PENDING, POOL => pool()),
                timeouts: counter!(TIMEOUTS, POOL => pool()),
                create_time: histogram!(CREATE_TIME, POOL => pool()),
                wait_time: histogram!(WAIT_TIME, POOL => pool()),
                use_time: histogram!(USE_TIME, POOL => pool()),
                clean: counter!(TEARDOWNS, POOL => pool(), "outcome" => "clean"),
                statements: histogram!(STATEMENTS, POOL => pool()),
                round_trips: histogram!(ROUND_TRIPS, POOL => pool()),
            }
        }

        fn pool(&self) -> String {
            self.0.pool.clone()
        }

        pub(crate) fn checked_out(&self) {
            self.handles().used.increment(1.0);
        }

        pub(crate) fn checked_in(&self, since: Stamp) {
            let handles = self.handles();
            handles.used.decrement(1.0);
            handles.use_time.record(since.0.elapsed());
        }

        /// The number of idle connections was `before`, and is `after`.
        pub(crate) fn idle(&self, before: usize, after: usize) {
            if before != after {
                self.handles().idle.increment(after as f64 - before as f64);
            }
        }

        /// A checkout waits until what this returns is dropped.
        pub(crate) fn pending(&self) -> impl Drop + Send + use<> {
            let pending = self.handles().pending.clone();
            pending.increment(1.0);
            Pending(pending)
        }

        pub(crate) fn timed_out(&self) {
            self.handles().timeouts.increment(1);
        }

        pub(crate) fn connected(&self, elapsed: Duration) {
            self.handles().create_time.record(elapsed);
        }

        pub(crate) fn waited_since(&self, begin: Stamp) {
            self.handles().wait_time.record(begin.0.elapsed());
        }

        /// A checkout was served at once.
        pub(crate) fn did_not_wait(&self) {
            self.handles().wait_time.record(0.0);
        }

        pub(crate) fn worked(&self, statements: u64, round_trips: u64) {
            let handles = self.handles();
            handles.statements.record(statements as f64);
            handles.round_trips.record(round_trips as f64);
        }

        pub(crate) fn torn_down_clean(&self) {
            self.handles().clean.increment(1);
        }

        pub(crate) fn torn_down(&self, outcome: &dyn fmt::Display, took: Duration, unclean: bool) {
            counter!(TEARDOWNS, POOL => self.pool(), "outcome" => outcome.to_string()).increment(1);
            histogram!(TEARDOWN_DURATION, POOL => self.pool()).record(took);
            if unclean {
                counter!(LEFT_OPEN, POOL => self.pool()).increment(1);
            }
        }

        pub(crate) fn discarded(&self, reason: &'static str) {
            counter!(DISCARDED, POOL => self.pool(), "reason" => reason).increment(1);
        }

        pub(crate) fn thawed(&self, answered: bool) {
            let answered = if answered { "true" } else { "false" };
            counter!(THAWS, POOL => self.pool(), "answered" => answered).increment(1);
        }

        pub(crate) fn circuit(&self, is_open: bool) {
            gauge!(CIRCUIT, POOL => self.pool()).set(f64::from(u8::from(is_open)));
        }

        pub(crate) fn shed(&self) {
            counter!(SHED, POOL => self.pool()).increment(1);
        }

        pub(crate) fn slots(&self, used: u32, limit: u32) {
            gauge!(SLOTS_USED, POOL => self.pool()).set(f64::from(used));
            gauge!(SLOTS_LIMIT, POOL => self.pool()).set(f64::from(limit));
        }
    }

    struct Pending(Gauge);

    impl Drop for Pending {
        fn drop(&mut self) {
            self.0.decrement(1.0);
        }
    }

    impl fmt::Debug for Meters {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.debug_tuple("Meters").field(&self.0.pool).finish()
        }
    }
}

#[cfg(not(feature = "metrics"))]
mod unrecorded {
    use std::fmt;

    use super::*;

    #[derive(Clone, Debug, Default)]
    pub(crate) struct Meters {}

    #[derive(Clone, Copy)]
    pub(crate) struct Stamp;

    /// A checkout waits.
    pub(crate) struct Pending;

    impl Stamp {
        pub(crate) fn now() -> Self {
            Stamp
        }
    }

    impl Meters {
        pub(crate) fn new(_: &str, _: (usize, usize)) -> Self {
            Meters {}
        }

        pub(crate) fn checked_out(&self) {}

        pub(crate) fn checked_in(&self, _: Stamp) {}

        pub(crate) fn idle(&self, _: usize, _: usize) {}

        pub(crate) fn pending(&self) -> Pending {
            Pending
        }

        pub(crate) fn timed_out(&self) {}

        pub(crate) fn connected(&self, _: Duration) {}

        pub(crate) fn waited_since(&self, _: Stamp) {}

        pub(crate) fn did_not_wait(&self) {}

        pub(crate) fn worked(&self, _: u64, _: u64) {}

        pub(crate) fn torn_down_clean(&self) {}

        pub(crate) fn torn_down(&self, _: &dyn fmt::Display, _: Duration, _: bool) {}

        pub(crate) fn discarded(&self, _: &'static str) {}

        pub(crate) fn thawed(&self, _: bool) {}

        pub(crate) fn circuit(&self, _: bool) {}

        pub(crate) fn shed(&self) {}

        pub(crate) fn slots(&self, _: u32, _: u32) {}
    }
}
