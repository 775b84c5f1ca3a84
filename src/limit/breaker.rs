//! The circuit breaker: who may try to connect while the server is full or away.
//!
//! One rule. While the circuit is open one prober goes on trying, with exponential backoff
//! and full jitter, and the others wait for what it finds. Who cannot wait for the next
//! try, because its deadline is nearer than that or the circuit has been open for longer
//! than it can wait, is told so at once.
//!
//! There is no task behind it: a frozen process runs none. The prober is an invocation
//! that needs a connection itself, and whoever comes first takes its place.

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

/// Decides who may connect, for all of a process.
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
    /// Somebody is the prober.
    probing: bool,
    /// So many wait for what it finds.
    waiting: usize,
}

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
    /// The last try went well, and there were some who waited for it.
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

/// What whoever asks is told.
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

    /// Waits for the right to connect, until `end`. With `sheds`, who cannot wait for it
    /// is told at once.
    ///
    /// Cancel-safe: whoever stops waiting leaves his place to the next.
    pub(crate) async fn admit(&self, end: Instant, sheds: bool) -> Result<Attempt<'_>, Error> {
        // Whoever is woken still waits, until he is told something else.
        let mut waiting = None;
        loop {
            let mut turn = pin!(self.turn.notified());
            turn.as_mut().enable();
            let left = end.saturating_duration_since(Instant::now());
            match self.ask(left, sheds) {
                Told::Connect => return Ok(self.attempt(false)),
                Told::Probe(delay) => {
                    let attempt = self.attempt(true);
                    drop(waiting);
                    sleep(delay).await;
                    return Ok(attempt);
                }
                Told::Shed(error) => return Err(error),
                Told::Wait => {
                    waiting.get_or_insert_with(|| Waiting::new(self));
                    if timeout_at(end, turn).await.is_err() {
                        return Err(self.shed());
                    }
                }
            }
        }
    }

    /// Whether whoever can wait no longer than `left` would be turned away now.
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

    fn ask(&self, left: Duration, sheds: bool) -> Told {
        let mut state = self.state();
        let probing = state.probing;
        let Some(open) = &mut state.open else {
            return Told::Connect;
        };
        let now = self.clock.now();
        if !probing {
            open.resume(now);
        }
        let delay = open.delay(now);
        // Nobody can do anything with a connection that comes after the end.
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

    /// Whether who connects now need not wait: it is closed, or the next try is due and
    /// nobody is at it.
    pub(crate) fn lets_in(&self) -> bool {
        let state = self.state();
        match &state.open {
            None => true,
            Some(open) => !state.probing && open.delay(self.clock.now()).is_zero(),
        }
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

    /// Somebody is about to ask, perhaps after a pause.
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
        // The first who comes is to try, however long it has been: nobody else will.
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
            Some(open) if self.waiting > 0 => {
                open.in_vain = now;
                open.next = now;
                open.backoff = Backoff::new(FIRST, MOST);
                open.went_well = true;
            }
            _ => self.close(now),
        }
    }

    /// Somebody has gone. If he was the last, nobody will find out again what is known.
    fn left(&mut self, now: SystemTime) {
        let well = self.open.as_ref().is_some_and(|open| open.went_well);
        if well && !self.probing && self.waiting == 0 {
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
        if !error.is_unavailable() {
            // It answered, whatever it said: it is neither full nor away.
            state.succeeded(now);
            return None;
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

/// Somebody who waits for the prober.
struct Waiting<'a>(&'a Breaker);

impl<'a> Waiting<'a> {
    fn new(breaker: &'a Breaker) -> Self {
        breaker.state().waiting += 1;
        Waiting(breaker)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let now = self.0.clock.now();
        let mut state = self.0.state();
        state.waiting -= 1;
        state.left(now);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures_util::FutureExt;
    use futures_util::future::join_all;
    use proptest::prelude::*;
    use tokio::time::timeout;

    use super::*;
    use crate::clock::Paused;

    const SECOND: Duration = Duration::from_secs(1);

    fn full() -> Error {
        Error::new(ErrorKind::TooManyConnections, "full")
    }

    fn refused() -> Error {
        Error::new(ErrorKind::Refused, "refused")
    }

    async fn admit(breaker: &Breaker, wait: Duration) -> Result<Attempt<'_>, Error> {
        breaker.admit(Instant::now() + wait, true).await
    }

    /// With the circuit opened by a server that is full.
    async fn opened() -> Breaker {
        let breaker = Breaker::new(Paused::new());
        admit(&breaker, SECOND)
            .await
            .expect("closed")
            .failed(&full());
        assert!(breaker.opened_by().is_some());
        breaker
    }

    #[tokio::test(start_paused = true)]
    async fn while_it_is_closed_nobody_waits() {
        let breaker = Breaker::new(Paused::new());
        for _ in 0..3 {
            let attempt = admit(&breaker, Duration::ZERO).now_or_never();
            let attempt = attempt.expect("at once").expect("closed");
            assert!(!attempt.probes());
            attempt.succeeded();
        }
        assert!(breaker.next_try().is_none() && breaker.sheds(Duration::ZERO).is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn a_full_server_opens_it_at_once_and_others_after_three() {
        let breaker = opened().await;
        assert_eq!(
            breaker.opened_by().map(|(kind, _)| kind),
            Some(ErrorKind::TooManyConnections)
        );
        let breaker = Breaker::new(Paused::new());
        for failures in 0..3 {
            assert!(breaker.opened_by().is_none(), "{failures}");
            admit(&breaker, SECOND)
                .await
                .expect("closed")
                .failed(&refused());
        }
        assert!(breaker.opened_by().is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_no_matter_of_load_leaves_it_closed() {
        let breaker = Breaker::new(Paused::new());
        for _ in 0..2 {
            admit(&breaker, SECOND)
                .await
                .expect("closed")
                .failed(&refused());
        }
        let denied = Error::new(ErrorKind::Authentication, "no");
        admit(&breaker, SECOND)
            .await
            .expect("closed")
            .failed(&denied);
        // It has answered: those before do not count.
        admit(&breaker, SECOND)
            .await
            .expect("closed")
            .failed(&refused());
        assert!(breaker.opened_by().is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn one_probes_and_the_others_wait_for_what_it_finds() {
        let breaker = opened().await;
        let prober = admit(&breaker, 10 * SECOND).await.expect("the first");
        assert!(prober.probes());
        let mut second = pin!(admit(&breaker, 10 * SECOND));
        let mut third = pin!(admit(&breaker, 10 * SECOND));
        assert!(second.as_mut().now_or_never().is_none());
        assert!(third.as_mut().now_or_never().is_none());
        prober.succeeded();
        // One after the other.
        let attempt = second
            .as_mut()
            .now_or_never()
            .expect("its turn")
            .expect("room");
        assert!(attempt.probes() && third.as_mut().now_or_never().is_none());
        drop(attempt);
        let attempt = third
            .as_mut()
            .now_or_never()
            .expect("its turn")
            .expect("room");
        attempt.succeeded();
        assert!(breaker.opened_by().is_none(), "nobody waits any more");
    }

    #[tokio::test(start_paused = true)]
    async fn who_cannot_wait_is_told_at_once() {
        let breaker = opened().await;
        let begin = Instant::now();
        let error = admit(&breaker, Duration::ZERO).await.expect_err("no time");
        assert_eq!(error.kind(), ErrorKind::LoadShed);
        assert!(error.is_retryable() && error.retry_after().is_some_and(|after| after <= MOST));
        // Open for longer than it can wait, and somebody else tries already.
        let prober = admit(&breaker, 60 * SECOND).await.expect("the first");
        tokio::time::advance(10 * SECOND).await;
        let waits = begin.elapsed();
        assert!(breaker.sheds(9 * SECOND).is_some() && breaker.sheds(11 * SECOND).is_none());
        let told = admit(&breaker, 9 * SECOND).now_or_never();
        assert!(told.expect("at once").is_err());
        assert_eq!(begin.elapsed(), waits);
        // Unless nobody does: then it is to be tried, however long it has been.
        drop(prober);
        let attempt = admit(&breaker, 9 * SECOND).await;
        assert!(attempt.expect("the next").probes());
    }

    /// As in a process that was frozen meanwhile.
    #[tokio::test(start_paused = true)]
    async fn while_nobody_asks_nothing_is_heard_of_the_server() {
        let breaker = opened().await;
        tokio::time::advance(3_600 * SECOND).await;
        let prober = admit(&breaker, 9 * SECOND).await.expect("the first");
        let mut second = pin!(admit(&breaker, 9 * SECOND));
        assert!(second.as_mut().now_or_never().is_none(), "it can wait");
        prober.succeeded();
        second.await.expect("room").succeeded();
        assert!(breaker.opened_by().is_none());
    }

    /// It is known to go well, and nobody is left to say so.
    #[tokio::test(start_paused = true)]
    async fn it_closes_when_those_who_waited_have_gone() {
        for turn_came in [false, true] {
            let breaker = opened().await;
            let prober = admit(&breaker, 9 * SECOND).await.expect("the first");
            let mut second = Box::pin(admit(&breaker, 9 * SECOND));
            let mut third = Box::pin(admit(&breaker, 9 * SECOND));
            assert!(second.as_mut().now_or_never().is_none());
            assert!(third.as_mut().now_or_never().is_none());
            prober.succeeded();
            let turn = turn_came.then(|| second.as_mut().now_or_never().expect("its turn"));
            drop(third);
            assert!(breaker.opened_by().is_some(), "one is still there");
            drop((second, turn));
            assert!(breaker.opened_by().is_none(), "{turn_came}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn with_shedding_off_it_is_waited_for() {
        let breaker = opened().await;
        let prober = admit(&breaker, 60 * SECOND).await.expect("the first");
        tokio::time::advance(10 * SECOND).await;
        let begin = Instant::now();
        let waiting = breaker.admit(begin + SECOND, false);
        assert!(waiting.await.is_err());
        assert_eq!(begin.elapsed(), SECOND);
        prober.failed(&full());
    }

    #[tokio::test(start_paused = true)]
    async fn the_delays_grow_and_stay_below_the_most() {
        let breaker = opened().await;
        let mut longest = Duration::ZERO;
        for _ in 0..40 {
            let delay = breaker.next_try().expect("open");
            assert!(delay <= MOST);
            longest = longest.max(delay);
            admit(&breaker, 60 * SECOND)
                .await
                .expect("the prober")
                .failed(&full());
        }
        assert!(longest > 2 * FIRST, "{longest:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_clock_that_was_set_back_delays_by_the_most() {
        let open = Open {
            next: SystemTime::UNIX_EPOCH + 1_000 * SECOND,
            ..Open::new(ErrorKind::Refused, SystemTime::UNIX_EPOCH)
        };
        assert_eq!(open.delay(SystemTime::UNIX_EPOCH), MOST);
        assert_eq!(open.delay(open.next + SECOND), Duration::ZERO);
    }

    /// Somebody who needs a connection.
    #[derive(Debug, Clone)]
    struct Comer {
        arrives: Duration,
        can_wait: Duration,
        /// It is dropped then, wherever it stands.
        cancelled: Option<Duration>,
    }

    fn milliseconds(range: std::ops::Range<u64>) -> impl Strategy<Value = Duration> {
        range.prop_map(Duration::from_millis)
    }

    fn comers() -> impl Strategy<Value = Vec<Comer>> {
        let cancelled = prop::option::of(milliseconds(0..8_000));
        let comer = (milliseconds(0..6_000), milliseconds(0..12_000), cancelled);
        let comer = comer.prop_map(|(arrives, can_wait, cancelled)| Comer {
            arrives,
            can_wait,
            cancelled,
        });
        prop::collection::vec(comer, 1..24)
    }

    proptest! {
        /// A server that is full until some moment: whoever could have been served by
        /// waiting is; there is one prober at a time; nothing is left behind.
        #[test]
        fn no_wake_up_is_lost(comers in comers(), full_for in milliseconds(0..5_000)) {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_time()
                .start_paused(true)
                .build()
                .expect("a runtime");
            let (served, breaker) = runtime.block_on(async {
                let begin = Instant::now();
                let breaker = Breaker::new(Paused::new());
                let probing = AtomicUsize::new(0);
                let work = comers.iter().map(|comer| {
                    serve(comer, &breaker, begin + full_for, &probing)
                });
                let all = timeout(60 * SECOND, join_all(work));
                (all.await.expect("nobody waits for ever"), breaker)
            });
            for (comer, served) in comers.iter().zip(served) {
                // The last delay, and the others' connects before one's own.
                let slack = MOST + Duration::from_millis(10) * comers.len() as u32;
                let there = full_for.max(comer.arrives) + slack;
                let in_time = comer.arrives + comer.can_wait > there;
                let cancelled = comer.cancelled.is_some_and(|after| comer.arrives + after <= there);
                if in_time && !cancelled {
                    prop_assert!(served, "{comer:?}");
                }
            }
            let state = breaker.state();
            prop_assert!(!state.probing);
            prop_assert_eq!(state.waiting, 0);
            let well = state.open.as_ref().is_some_and(|open| open.went_well);
            prop_assert!(!well, "open for nobody");
        }
    }

    /// Whether a connection was made in time.
    async fn serve(comer: &Comer, breaker: &Breaker, room: Instant, probing: &AtomicUsize) -> bool {
        sleep(comer.arrives).await;
        let end = Instant::now() + comer.can_wait;
        let work = async {
            loop {
                let Ok(attempt) = breaker.admit(end, false).await else {
                    return false;
                };
                let probes = usize::from(attempt.probes());
                let probers = probing.fetch_add(probes, Ordering::SeqCst) + probes;
                let counted = Counted(probing, probes);
                assert!(probers <= 1 || probes == 0, "two probe at once");
                sleep(Duration::from_millis(5)).await;
                drop(counted);
                match Instant::now() >= room {
                    true => {
                        attempt.succeeded();
                        return true;
                    }
                    false => drop(attempt.failed(&full())),
                }
            }
        };
        let limit = comer.cancelled.unwrap_or(60 * SECOND);
        timeout(limit, work).await.unwrap_or(false)
    }

    struct Counted<'a>(&'a AtomicUsize, usize);

    impl Drop for Counted<'_> {
        fn drop(&mut self) {
            self.0.fetch_sub(self.1, Ordering::SeqCst);
        }
    }
}
