//! The circuit breaker: limits tries to connect while the server is full or unreachable.
//!
//! While the circuit is open one caller, the prober, tries to connect, with exponential backoff
//! and jitter. The others wait for its result, and the one that arrived first is the next
//! prober. A caller that cannot wait for the next try, because its deadline is earlier or the
//! circuit has been open for longer than it can wait, is refused at once.
//!
//! No background task is involved, since a frozen process runs none. The prober is an
//! invocation that needs a connection itself.

use std::collections::BTreeSet;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::Notify;
use tokio::time::{Instant, sleep, timeout_at};

use crate::backoff::Backoff;
use crate::clock::Clock;
use crate::error::{Error, ErrorKind};
use crate::lock::Mutex;
use crate::observe::{self, Meters};
use crate::random;

/// The number of failed connects in a row that opens the circuit; one is enough if the server
/// reports that it is full.
const MAX_FAILURES: u32 = 3;

/// The ceiling of the first two delays.
const FIRST_DELAY: Duration = Duration::from_millis(100);

/// The ceiling of the first delay while the server is full. As a rule a whole fleet is refused at
/// the same time, and each further try takes time of the server: its processes come back one
/// after the other, over as long as it takes to serve them.
const FLEET_DELAY: Duration = Duration::from_millis(900);

/// The ceiling of the second, which doubles: by then slots are free again in most cases, and few
/// processes are left that try.
const FIRST_DELAY_FULL: Duration = Duration::from_millis(300);

/// The ceiling of every delay: a process tries about once a second.
const MAX_DELAY: Duration = Duration::from_secs(2);

/// The minimum part of the ceiling: a slot is hardly free at once.
const MIN_PART: f64 = 0.1;

/// Decides which caller of the process may connect.
#[derive(Debug)]
pub(crate) struct Breaker {
    clock: Arc<dyn Clock>,
    state: Mutex<CircuitState>,
    /// Notified when the prober has a result, or has stopped.
    turn: Notify,
}

#[derive(Debug, Default)]
struct CircuitState {
    /// The number of connects in a row that failed.
    failures: u32,
    open: Option<OpenCircuit>,
    /// Whether there is a prober.
    probing: bool,
    /// Callers that wait for the prober, in the order of their arrival.
    waiting: BTreeSet<Position>,
    /// The number of callers that have waited so far.
    arrivals: u64,
    meters: Meters,
}

/// The position of a waiting caller: its arrival, and a unique number.
type Position = (Instant, u64);

#[derive(Debug)]
struct OpenCircuit {
    since: SystemTime,
    /// When the current series of failed tries began. A pause without a prober, as in a frozen
    /// process, ends a series: nothing is known about the server then.
    failing_since: SystemTime,
    next: SystemTime,
    backoff: Backoff,
    /// The kind of the last error.
    kind: ErrorKind,
    /// Whether the last try succeeded; it stayed open because callers waited.
    recovering: bool,
}

/// The right to connect once. Dropped without a result it changes nothing about the circuit.
#[must_use]
#[derive(Debug)]
pub(crate) struct Admission<'a> {
    breaker: &'a Breaker,
    /// Whether this is the prober's attempt, which must be a single try.
    pub(crate) probes: bool,
}

/// The breaker's decision about a caller.
enum Decision {
    Connect,
    /// The caller is the prober, and has to wait for this delay first.
    Probe(Duration),
    Wait,
    Shed(Error),
}

impl Breaker {
    pub(crate) fn new(clock: Arc<dyn Clock>, meters: Meters) -> Self {
        Breaker {
            clock,
            state: Mutex::new(CircuitState {
                meters,
                ..CircuitState::default()
            }),
            turn: Notify::new(),
        }
    }

    /// Waits for the right to connect, until `end`. Callers that `arrived` earlier come first.
    /// With `sheds`, a caller that cannot wait is refused at once.
    ///
    /// Cancel-safe: a caller that stops waiting leaves its position to the next.
    pub(crate) async fn admit(
        &self,
        arrived: Instant,
        end: Instant,
        sheds: bool,
    ) -> Result<Admission<'_>, Error> {
        let breaker = self;
        let admission = |probes| Admission { breaker, probes };
        // A caller that is woken keeps its position until the decision is another.
        let mut waiting: Option<Waiting<'_>> = None;
        loop {
            let mut turn = pin!(self.turn.notified());
            turn.as_mut().enable();
            let left = end.saturating_duration_since(Instant::now());
            let position = waiting
                .as_ref()
                .map_or((arrived, u64::MAX), |own| own.position);
            match self.decide(position, left, sheds) {
                Decision::Connect => return Ok(admission(false)),
                Decision::Probe(delay) => {
                    let attempt = admission(true);
                    drop(waiting);
                    sleep(delay).await;
                    return Ok(attempt);
                }
                Decision::Shed(error) => return Err(error),
                Decision::Wait => {
                    waiting.get_or_insert_with(|| Waiting::new(self, arrived));
                    if timeout_at(end, turn).await.is_err() {
                        return Err(self.shed());
                    }
                }
            }
        }
    }

    /// Returns the error with which a caller that can wait for `left` would be refused now.
    pub(crate) fn sheds(&self, left: Duration) -> Option<Error> {
        let (state, now) = (self.state.lock(), self.clock.now());
        let open = state.open.as_ref()?;
        let sheds = open.sheds(left, now, state.probing);
        sheds.then(|| open.error(now))
    }

    /// Returns the time until the next try is due; `None` while the circuit is closed.
    pub(crate) fn next_try(&self) -> Option<Duration> {
        Some(self.state.lock().open.as_ref()?.delay(self.clock.now()))
    }

    /// Returns the kind of the last error, and how long the circuit has been open; `None` while it is closed.
    pub(crate) fn opened_by(&self) -> Option<(ErrorKind, Duration)> {
        let state = self.state.lock();
        let open = state.open.as_ref()?;
        Some((open.kind, self.clock.since(open.since)))
    }

    /// Returns whether a caller can connect without waiting: the circuit is closed, or the next
    /// try is due and there is no prober.
    pub(crate) fn lets_in(&self) -> bool {
        let state = self.state.lock();
        let open = state.open.as_ref();
        open.is_none_or(|open| !state.probing && open.delay(self.clock.now()).is_zero())
    }

    fn decide(&self, position: Position, left: Duration, sheds: bool) -> Decision {
        let mut state = self.state.lock();
        let earlier = state.waiting.first().is_some_and(|first| *first < position);
        let probing = state.probing || earlier;
        let Some(open) = &mut state.open else {
            return Decision::Connect;
        };
        let now = self.clock.now();
        if !probing {
            open.resume(now);
        }
        let delay = open.delay(now);
        // A connection after the caller's end would be useless.
        if left <= delay || (sheds && open.sheds(left, now, probing)) {
            return Decision::Shed(open.error(now));
        }
        if probing {
            return Decision::Wait;
        }
        state.probing = true;
        Decision::Probe(delay)
    }

    fn shed(&self) -> Error {
        match &self.state.lock().open {
            Some(open) => open.error(self.clock.now()),
            None => Error::shed(ErrorKind::TooManyConnections, Duration::ZERO, FIRST_DELAY),
        }
    }
}

impl OpenCircuit {
    fn new(kind: ErrorKind, now: SystemTime) -> Self {
        let ceiling = match kind {
            ErrorKind::TooManyConnections => FLEET_DELAY,
            _ => FIRST_DELAY,
        };
        OpenCircuit {
            since: now,
            failing_since: now,
            next: now + ceiling.mul_f64(part()),
            backoff: delays(kind),
            kind,
            recovering: false,
        }
    }

    /// Records that a try failed.
    fn failed(&mut self, kind: ErrorKind, now: SystemTime) {
        // A timeout is not an answer: what the server last said still holds.
        if kind != ErrorKind::ConnectTimeout {
            if first_delay(kind) != first_delay(self.kind) {
                self.backoff = delays(kind);
            }
            self.kind = kind;
        }
        self.recovering = false;
        self.next = now + self.backoff.next().unwrap_or(MAX_DELAY);
    }

    /// Begins a new series of tries if there was a pause.
    fn resume(&mut self, now: SystemTime) {
        let late = now.duration_since(self.next).unwrap_or_default();
        if late > MAX_DELAY {
            self.failing_since = now;
        }
    }

    /// Returns the time until the next try; at most the maximum, if the clock was set back.
    fn delay(&self, now: SystemTime) -> Duration {
        let delay = self.next.duration_since(now).unwrap_or_default();
        delay.min(MAX_DELAY)
    }

    fn sheds(&self, left: Duration, now: SystemTime, probing: bool) -> bool {
        let failing = now.duration_since(self.failing_since).unwrap_or_default();
        // The first caller becomes the prober, however long the circuit has been open.
        left <= self.delay(now) || (probing && failing > left)
    }

    fn error(&self, now: SystemTime) -> Error {
        let open = now.duration_since(self.since).unwrap_or_default();
        Error::shed(self.kind, open, self.delay(now))
    }
}

fn first_delay(kind: ErrorKind) -> Duration {
    match kind {
        ErrorKind::TooManyConnections => FIRST_DELAY_FULL,
        _ => FIRST_DELAY,
    }
}

fn delays(kind: ErrorKind) -> Backoff {
    Backoff::with_random(first_delay(kind), MAX_DELAY, part)
}

/// Draws the part of a ceiling that a delay is.
fn part() -> f64 {
    MIN_PART + (1.0 - MIN_PART) * random::fraction()
}

impl CircuitState {
    /// Records a failed connect that says something about the server.
    fn failed(&mut self, kind: ErrorKind, now: SystemTime, probed: bool) {
        match &mut self.open {
            // It began before the circuit opened, and says nothing new.
            Some(_) if !probed => {}
            Some(open) => open.failed(kind, now),
            None => {
                self.failures += 1;
                if kind == ErrorKind::TooManyConnections || self.failures >= MAX_FAILURES {
                    self.open = Some(OpenCircuit::new(kind, now));
                    observe::circuit_opened(kind);
                    self.meters.circuit(true);
                }
            }
        }
    }

    /// Records that the server accepts connections.
    fn succeeded(&mut self, now: SystemTime) {
        self.failures = 0;
        match &mut self.open {
            // The waiting callers connect one after the other: all at once might fill it again.
            Some(open) if !self.waiting.is_empty() => {
                open.failing_since = now;
                open.next = now;
                open.backoff = delays(open.kind);
                open.recovering = true;
            }
            _ => self.close(now),
        }
    }

    /// Closes a recovering circuit after its last caller: there is no prober to close it.
    fn close_if_deserted(&mut self, now: SystemTime) {
        let recovering = self.open.as_ref().is_some_and(|open| open.recovering);
        if recovering && !self.probing && self.waiting.is_empty() {
            self.close(now);
        }
    }

    fn close(&mut self, now: SystemTime) {
        if let Some(open) = self.open.take() {
            let elapsed = now.duration_since(open.since).unwrap_or_default();
            observe::circuit_closed(elapsed);
            self.meters.circuit(false);
        }
    }
}

impl Admission<'_> {
    /// Records that a connection was made.
    pub(crate) fn succeeded(self) {
        let now = self.breaker.clock.now();
        self.breaker.state.lock().succeeded(now);
    }

    /// Records that connecting failed. Returns the time until the next try, if the circuit is
    /// open at this moment: another caller may close it afterwards.
    pub(crate) fn failed(self, error: &Error) -> Option<Duration> {
        let now = self.breaker.clock.now();
        let mut state = self.breaker.state.lock();
        match error.kind() {
            // A local error says nothing about the server.
            ErrorKind::Configuration | ErrorKind::Tls => return None,
            // The server answered: it is neither full nor unreachable.
            kind if !kind.is_unavailable() => {
                state.succeeded(now);
                return None;
            }
            _ => {}
        }
        state.failed(error.kind(), now, self.probes);
        Some(state.open.as_ref()?.delay(now))
    }
}

impl Drop for Admission<'_> {
    fn drop(&mut self) {
        if self.probes {
            let now = self.breaker.clock.now();
            let mut state = self.breaker.state.lock();
            state.probing = false;
            state.close_if_deserted(now);
            drop(state);
            self.breaker.turn.notify_waiters();
        }
    }
}

/// A caller that waits for the prober, until it is dropped.
struct Waiting<'a> {
    breaker: &'a Breaker,
    position: Position,
}

impl<'a> Waiting<'a> {
    fn new(breaker: &'a Breaker, arrived: Instant) -> Self {
        let mut state = breaker.state.lock();
        let position = (arrived, state.arrivals);
        state.arrivals += 1;
        state.waiting.insert(position);
        Waiting { breaker, position }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let now = self.breaker.clock.now();
        let mut state = self.breaker.state.lock();
        let was_next = state.waiting.first() == Some(&self.position) && !state.probing;
        state.waiting.remove(&self.position);
        state.close_if_deserted(now);
        drop(state);
        if was_next {
            self.breaker.turn.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests;
