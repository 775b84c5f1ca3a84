//! The circuit breaker: limits tries to connect while the server is full or away.
//!
//! One rule. While the circuit is open one prober goes on trying, with exponential backoff
//! and full jitter, and the others wait for what it finds: who came first is the next. Who
//! cannot wait for the next try, because its deadline is nearer than that or the circuit
//! has been open for longer than it can wait, is told so at once.
//!
//! There is no task behind it: a frozen process runs none. The prober is an invocation
//! that needs a connection itself, and the first caller takes its place.

use std::collections::BTreeSet;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::sync::Notify;
use tokio::time::{Instant, sleep, timeout_at};

use crate::backoff::Backoff;
use crate::clock::Clock;
use crate::error::{Error, ErrorKind};
use crate::observe;

/// So many failed connects in a row open the circuit; one is enough where the server
/// itself says that it is full.
const FAILURES: u32 = 3;

/// The ceiling of the first delay.
const FIRST: Duration = Duration::from_millis(100);

/// The ceiling of any: with full jitter a process asks about once a second.
const MOST: Duration = Duration::from_secs(2);

/// Decides which caller of the process may connect.
#[derive(Debug)]
pub(crate) struct Breaker {
    clock: Arc<dyn Clock>,
    state: Mutex<State>,
    /// The prober has found something out, or has gone.
    turn: Notify,
}

#[derive(Debug, Default)]
struct State {
    /// Connects in a row that failed.
    failures: u32,
    open: Option<Open>,
    /// A caller is the prober.
    probing: bool,
    /// Callers that wait for the prober, in the order in which they came.
    waiting: BTreeSet<Place>,
    /// So many have waited.
    places: u64,
}

/// The arrival of a caller, and a number of its own.
type Place = (Instant, u64);

#[derive(Debug)]
struct Open {
    since: SystemTime,
    /// Since when it has been asked in vain, without a pause: while nobody asks, as in a
    /// frozen process, nothing is heard of the server.
    in_vain: SystemTime,
    next: SystemTime,
    backoff: Backoff,
    /// What opened it.
    kind: ErrorKind,
    /// The last try succeeded, and callers waited for it.
    went_well: bool,
}

/// The right to connect once. Dropped without a verdict it says nothing about the server.
#[must_use]
#[derive(Debug)]
pub(crate) struct Attempt<'a> {
    breaker: &'a Breaker,
    /// It is the one that is waited for.
    probes: bool,
}

/// The answer to a caller.
enum Told {
    Connect,
    /// It is the prober, and this long is to be waited first.
    Probe(Duration),
    Wait,
    Shed(Error),
}

impl Breaker {
    pub(crate) fn new(clock: Arc<dyn Clock>) -> Self {
        Breaker {
            clock,
            state: Mutex::default(),
            turn: Notify::new(),
        }
    }

    /// Waits for the right to connect, until `end`: before all who have `come` later. With
    /// `sheds`, who cannot wait for it is told at once.
    ///
    /// Cancel-safe: a caller that stops waiting leaves its place to the next.
    pub(crate) async fn admit(
        &self,
        come: Instant,
        end: Instant,
        sheds: bool,
    ) -> Result<Attempt<'_>, Error> {
        // A caller that is woken still waits, until it gets another answer.
        let mut waiting: Option<Waiting<'_>> = None;
        loop {
            let mut turn = pin!(self.turn.notified());
            turn.as_mut().enable();
            let left = end.saturating_duration_since(Instant::now());
            let place = waiting.as_ref().map_or((come, u64::MAX), |own| own.place);
            match self.ask(place, left, sheds) {
                Told::Connect => return Ok(self.attempt(false)),
                Told::Probe(delay) => {
                    let attempt = self.attempt(true);
                    drop(waiting);
                    sleep(delay).await;
                    return Ok(attempt);
                }
                Told::Shed(error) => return Err(error),
                Told::Wait => {
                    waiting.get_or_insert_with(|| Waiting::new(self, come));
                    if timeout_at(end, turn).await.is_err() {
                        return Err(self.shed());
                    }
                }
            }
        }
    }

    /// Whether a caller that can wait no longer than `left` would be turned away now.
    pub(crate) fn sheds(&self, left: Duration) -> Option<Error> {
        let state = self.state();
        let open = state.open.as_ref()?;
        open.sheds(left, self.clock.now(), state.probing)
            .then(|| open.error(self.clock.now()))
    }

    /// How long until it is worth asking again; `None` while the circuit is closed.
    pub(crate) fn next_try(&self) -> Option<Duration> {
        let state = self.state();
        let open = state.open.as_ref()?;
        Some(open.delay(self.clock.now()))
    }

    /// What has opened the circuit, and how long ago; `None` while it is closed.
    pub(crate) fn opened_by(&self) -> Option<(ErrorKind, Duration)> {
        let state = self.state();
        let open = state.open.as_ref()?;
        Some((open.kind, self.clock.since(open.since)))
    }

    /// Whether who connects now need not wait: it is closed, or the next try is due and
    /// nobody is at it.
    pub(crate) fn lets_in(&self) -> bool {
        let state = self.state();
        match &state.open {
            None => true,
            Some(open) => !state.probing && open.delay(self.clock.now()).is_zero(),
        }
    }

    fn ask(&self, place: Place, left: Duration, sheds: bool) -> Told {
        let mut state = self.state();
        let earlier = state.waiting.first().is_some_and(|first| *first < place);
        let probing = state.probing || earlier;
        let Some(open) = &mut state.open else {
            return Told::Connect;
        };
        let now = self.clock.now();
        if !probing {
            open.resume(now);
        }
        let delay = open.delay(now);
        // A connection that comes after the end is of no use.
        if left <= delay || (sheds && open.sheds(left, now, probing)) {
            return Told::Shed(open.error(now));
        }
        if probing {
            return Told::Wait;
        }
        state.probing = true;
        Told::Probe(delay)
    }

    fn attempt(&self, probes: bool) -> Attempt<'_> {
        Attempt {
            breaker: self,
            probes,
        }
    }

    fn shed(&self) -> Error {
        match &self.state().open {
            Some(open) => open.error(self.clock.now()),
            None => Error::shed(ErrorKind::TooManyConnections, Duration::ZERO, FIRST),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Open {
    fn new(kind: ErrorKind, now: SystemTime) -> Self {
        let mut backoff = Backoff::new(FIRST, MOST);
        let delay = backoff.next().unwrap_or(FIRST);
        Open {
            since: now,
            in_vain: now,
            next: now + delay,
            backoff,
            kind,
            went_well: false,
        }
    }

    /// A caller is about to ask, perhaps after a pause.
    fn resume(&mut self, now: SystemTime) {
        if now.duration_since(self.next).is_ok_and(|late| late > MOST) {
            self.in_vain = now;
        }
    }

    /// At most the longest, in case that the clock was set back.
    fn delay(&self, now: SystemTime) -> Duration {
        self.next.duration_since(now).unwrap_or_default().min(MOST)
    }

    fn sheds(&self, left: Duration, now: SystemTime, probing: bool) -> bool {
        let in_vain = now.duration_since(self.in_vain).unwrap_or_default();
        // The first caller is to try, however long it has been.
        left <= self.delay(now) || (probing && in_vain > left)
    }

    fn error(&self, now: SystemTime) -> Error {
        let open = now.duration_since(self.since).unwrap_or_default();
        Error::shed(self.kind, open, self.delay(now))
    }
}

impl State {
    /// A connect failed, and that concerns others.
    fn failed(&mut self, kind: ErrorKind, now: SystemTime, probed: bool) {
        match &mut self.open {
            // What was under way when the circuit opened says nothing new.
            Some(_) if !probed => {}
            Some(open) => {
                open.kind = kind;
                open.went_well = false;
                open.next = now + open.backoff.next().unwrap_or(MOST);
            }
            None => {
                self.failures += 1;
                if kind == ErrorKind::TooManyConnections || self.failures >= FAILURES {
                    self.open = Some(Open::new(kind, now));
                    observe::circuit_opened(kind);
                }
            }
        }
    }

    /// The server takes connections.
    fn succeeded(&mut self, now: SystemTime) {
        self.failures = 0;
        match &mut self.open {
            // One after the other, as long as it goes well: all at once might fill it again.
            Some(open) if !self.waiting.is_empty() => {
                open.in_vain = now;
                open.next = now;
                open.backoff = Backoff::new(FIRST, MOST);
                open.went_well = true;
            }
            _ => self.close(now),
        }
    }

    /// A caller has gone. If it was the last, nothing will find out again what is known.
    fn left(&mut self, now: SystemTime) {
        let well = self.open.as_ref().is_some_and(|open| open.went_well);
        if well && !self.probing && self.waiting.is_empty() {
            self.close(now);
        }
    }

    fn close(&mut self, now: SystemTime) {
        if let Some(open) = self.open.take() {
            let elapsed = now.duration_since(open.since).unwrap_or_default();
            observe::circuit_closed(elapsed);
        }
    }
}

impl Attempt<'_> {
    /// Whether it is made while the circuit is open: it is then to be made once.
    pub(crate) fn probes(&self) -> bool {
        self.probes
    }

    /// A connection was made.
    pub(crate) fn succeeded(self) {
        let now = self.breaker.clock.now();
        self.breaker.state().succeeded(now);
    }

    /// None was made. Answers how long until it is worth asking again, if the circuit is
    /// open now: a moment later another may have closed it.
    pub(crate) fn failed(self, error: &Error) -> Option<Duration> {
        let now = self.breaker.clock.now();
        let mut state = self.breaker.state();
        match error.kind() {
            // It went wrong here: nothing was heard of the server.
            ErrorKind::Configuration | ErrorKind::Tls => return None,
            // It answered, whatever it said: it is neither full nor away.
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

impl Drop for Attempt<'_> {
    fn drop(&mut self) {
        if self.probes {
            let now = self.breaker.clock.now();
            let mut state = self.breaker.state();
            state.probing = false;
            state.left(now);
            drop(state);
            self.breaker.turn.notify_waiters();
        }
    }
}

/// A caller that waits for the prober.
struct Waiting<'a> {
    breaker: &'a Breaker,
    place: Place,
}

impl<'a> Waiting<'a> {
    fn new(breaker: &'a Breaker, come: Instant) -> Self {
        let mut state = breaker.state();
        let place = (come, state.places);
        state.places += 1;
        state.waiting.insert(place);
        Waiting { breaker, place }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let now = self.breaker.clock.now();
        let mut state = self.breaker.state();
        let was_next = state.waiting.first() == Some(&self.place) && !state.probing;
        state.waiting.remove(&self.place);
        state.left(now);
        drop(state);
        if was_next {
            self.breaker.turn.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests;
