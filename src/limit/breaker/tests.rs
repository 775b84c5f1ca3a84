use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::FutureExt;
use futures_util::future::join_all;
use proptest::prelude::*;
use tokio::time::timeout;

use super::*;
use crate::clock::Paused;

mod fleet;

const SECOND: Duration = Duration::from_secs(1);

fn full() -> Error {
    Error::new(ErrorKind::TooManyConnections, "full")
}

fn refused() -> Error {
    Error::new(ErrorKind::Refused, "refused")
}

async fn admit(breaker: &Breaker, wait: Duration) -> Result<Admission<'_>, Error> {
    let now = Instant::now();
    breaker.admit(now, now + wait, true).await
}

/// Makes a breaker whose circuit was opened by a full server.
async fn opened() -> Breaker {
    let breaker = Breaker::new(Paused::new(), Meters::default());
    admit(&breaker, SECOND)
        .await
        .expect("closed")
        .failed(&full());
    assert!(breaker.opened_by().is_some());
    breaker
}

#[tokio::test(start_paused = true)]
async fn closed_breaker_delays_no_caller() {
    let breaker = Breaker::new(Paused::new(), Meters::default());
    for _ in 0..3 {
        let attempt = admit(&breaker, Duration::ZERO).now_or_never();
        let attempt = attempt.expect("at once").expect("closed");
        assert!(!attempt.probes);
        attempt.succeeded();
    }
    assert!(breaker.next_try().is_none() && breaker.sheds(Duration::ZERO).is_none());
}

#[tokio::test(start_paused = true)]
async fn full_server_opens_the_breaker_at_once() {
    let breaker = opened().await;
    let attempt = admit(&breaker, SECOND).await.expect("the prober");
    attempt.failed(&Error::new(ErrorKind::ConnectTimeout, "no answer"));
    assert_eq!(
        breaker.opened_by().map(|(kind, _)| kind),
        Some(ErrorKind::TooManyConnections)
    );
    let breaker = Breaker::new(Paused::new(), Meters::default());
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
async fn failures_unrelated_to_load_leave_it_closed() {
    let breaker = Breaker::new(Paused::new(), Meters::default());
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
    // The server has answered: earlier failures do not count.
    admit(&breaker, SECOND)
        .await
        .expect("closed")
        .failed(&refused());
    assert!(breaker.opened_by().is_none());
}

#[tokio::test(start_paused = true)]
async fn local_failures_do_not_count() {
    let secret = || Error::new(ErrorKind::Configuration, "no such secret");
    let breaker = Breaker::new(Paused::new(), Meters::default());
    for error in [refused(), secret(), refused(), secret(), refused()] {
        let attempt = admit(&breaker, SECOND).await.expect("closed");
        attempt.failed(&error);
    }
    assert!(breaker.opened_by().is_some(), "three times in a row");
    let prober = admit(&breaker, 9 * SECOND).await.expect("the first");
    prober.failed(&secret());
    assert!(breaker.opened_by().is_some());
}

/// The caller that arrived first probes next, even if its own try has just failed.
#[tokio::test(start_paused = true)]
async fn first_waiter_probes_next() {
    let breaker = opened().await;
    let arrived = Instant::now();
    let end = arrived + 60 * SECOND;
    let prober = breaker.admit(arrived, end, false).await.expect("the first");
    let mut others: Vec<_> = (1..6)
        .map(|later| Box::pin(breaker.admit(arrived + later * SECOND / 100, end, false)))
        .collect();
    // They are polled in another order than they arrived.
    for other in others.iter_mut().rev() {
        assert!(other.as_mut().now_or_never().is_none());
    }
    prober.failed(&full());
    // It asks again at once, as a checkout does.
    let mut again = Box::pin(breaker.admit(arrived, end, false));
    let at_once = again.as_mut().now_or_never();
    for other in others.iter_mut().rev() {
        assert!(other.as_mut().now_or_never().is_none(), "not its turn");
    }
    let mut prober = match at_once {
        Some(attempt) => attempt.expect("still the first"),
        None => again.await.expect("still the first"),
    };
    for other in &mut others {
        prober.succeeded();
        let late = breaker.admit(end, end, false).now_or_never();
        assert!(late.is_none(), "a later caller waits behind the others");
        prober = other
            .as_mut()
            .now_or_never()
            .expect("its turn")
            .expect("room");
    }
    prober.succeeded();
    assert!(breaker.opened_by().is_none());
}

#[tokio::test(start_paused = true)]
async fn one_caller_probes_while_others_wait() {
    let breaker = opened().await;
    let prober = admit(&breaker, 10 * SECOND).await.expect("the first");
    assert!(prober.probes);
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
    assert!(attempt.probes && third.as_mut().now_or_never().is_none());
    drop(attempt);
    let attempt = third
        .as_mut()
        .now_or_never()
        .expect("its turn")
        .expect("room");
    attempt.succeeded();
    assert!(breaker.opened_by().is_none(), "no caller waits any more");
}

#[tokio::test(start_paused = true)]
async fn caller_without_time_is_refused_at_once() {
    let breaker = opened().await;
    let begin = Instant::now();
    let error = admit(&breaker, Duration::ZERO).await.expect_err("no time");
    assert_eq!(error.kind(), ErrorKind::LoadShed);
    assert!(error.is_retryable() && error.retry_after().is_some_and(|after| after <= MAX_DELAY));
    // OpenCircuit for longer than it can wait, and another caller is the prober.
    let prober = admit(&breaker, 60 * SECOND).await.expect("the first");
    tokio::time::advance(10 * SECOND).await;
    let waits = begin.elapsed();
    assert!(breaker.sheds(9 * SECOND).is_some() && breaker.sheds(11 * SECOND).is_none());
    let refused = admit(&breaker, 9 * SECOND).now_or_never();
    assert!(refused.expect("at once").is_err());
    assert_eq!(begin.elapsed(), waits);
    // Without a prober it becomes the prober, however long the circuit has been open.
    drop(prober);
    let attempt = admit(&breaker, 9 * SECOND).await;
    assert!(attempt.expect("the next").probes);
}

/// As in a process that was frozen meanwhile.
#[tokio::test(start_paused = true)]
async fn breaker_stays_open_without_callers() {
    let breaker = opened().await;
    tokio::time::advance(3_600 * SECOND).await;
    let prober = admit(&breaker, 9 * SECOND).await.expect("the first");
    let mut second = pin!(admit(&breaker, 9 * SECOND));
    assert!(second.as_mut().now_or_never().is_none(), "it can wait");
    prober.succeeded();
    second.await.expect("room").succeeded();
    assert!(breaker.opened_by().is_none());
}

/// The last try succeeded, and no caller is left to close the circuit.
#[tokio::test(start_paused = true)]
async fn breaker_closes_when_all_waiters_left() {
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
async fn breaker_waits_with_shedding_off() {
    let breaker = opened().await;
    let prober = admit(&breaker, 60 * SECOND).await.expect("the first");
    tokio::time::advance(10 * SECOND).await;
    let begin = Instant::now();
    let waiting = breaker.admit(begin, begin + SECOND, false);
    assert!(waiting.await.is_err());
    assert_eq!(begin.elapsed(), SECOND);
    prober.failed(&full());
}

#[tokio::test(start_paused = true)]
async fn delays_grow_up_to_the_maximum() {
    let breaker = opened().await;
    let mut longest = Duration::ZERO;
    for _ in 0..40 {
        let delay = breaker.next_try().expect("open");
        assert!(delay <= MAX_DELAY);
        longest = longest.max(delay);
        admit(&breaker, 60 * SECOND)
            .await
            .expect("the prober")
            .failed(&full());
    }
    assert!(longest > FIRST_DELAY_FULL, "{longest:?}");
}

#[tokio::test(start_paused = true)]
async fn clock_set_back_delays_by_the_maximum() {
    let open = OpenCircuit {
        next: SystemTime::UNIX_EPOCH + 1_000 * SECOND,
        ..OpenCircuit::new(ErrorKind::Refused, SystemTime::UNIX_EPOCH)
    };
    assert_eq!(open.delay(SystemTime::UNIX_EPOCH), MAX_DELAY);
    assert_eq!(open.delay(open.next + SECOND), Duration::ZERO);
}

/// A caller that needs a connection.
#[derive(Debug, Clone)]
struct Caller {
    arrives: Duration,
    can_wait: Duration,
    /// When its future is dropped, at whatever point.
    cancelled: Option<Duration>,
}

fn milliseconds(range: std::ops::Range<u64>) -> impl Strategy<Value = Duration> {
    range.prop_map(Duration::from_millis)
}

fn callers() -> impl Strategy<Value = Vec<Caller>> {
    let cancelled = prop::option::of(milliseconds(0..8_000));
    let caller = (milliseconds(0..6_000), milliseconds(0..12_000), cancelled);
    let caller = caller.prop_map(|(arrives, can_wait, cancelled)| Caller {
        arrives,
        can_wait,
        cancelled,
    });
    prop::collection::vec(caller, 1..24)
}

/// The times when the server is full: from the beginning, and perhaps once more.
#[derive(Debug, Clone, Copy)]
struct Full {
    first: Duration,
    again: (Duration, Duration),
}

impl Full {
    fn is_full(&self, at: Duration) -> bool {
        at < self.first || (at >= self.again.0 && at < self.again.1)
    }

    fn ends(&self) -> Duration {
        self.first.max(self.again.1)
    }
}

fn full_twice() -> impl Strategy<Value = Full> {
    let all = (
        milliseconds(0..4_000),
        milliseconds(0..2_000),
        milliseconds(0..2_000),
    );
    all.prop_map(|(first, room, again)| Full {
        first,
        again: (first + room, first + room + again),
    })
}

/// The result for one caller.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Outcome {
    Served,
    Cancelled,
    /// With the time that was left, and the time since the server last had a free slot.
    Refused {
        left: Duration,
        failing: Duration,
    },
}

/// The server, and the state that all callers share.
struct World {
    begin: Instant,
    breaker: Breaker,
    full: Full,
    sheds: bool,
    probing: AtomicUsize,
    /// The last successful connect, or else the first try.
    heard: Mutex<Option<Instant>>,
}

proptest! {
    /// A server is full for a while: each caller that could be served by waiting is; a refused
    /// caller could not have waited, or the tries had failed for longer than it could wait;
    /// there is one prober at a time; no state is left behind.
    #[test]
    fn breaker_loses_no_wake_up(callers in callers(), full in full_twice(), sheds: bool) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .expect("a runtime");
        let (outcome, world) = runtime.block_on(async {
            let world = World {
                begin: Instant::now(),
                breaker: Breaker::new(Paused::new(), Meters::default()),
                full,
                sheds,
                probing: AtomicUsize::new(0),
                heard: Mutex::new(None),
            };
            let all = join_all(callers.iter().map(|caller| world.serve(caller)));
            let outcome = timeout(60 * SECOND, all).await.expect("no caller waits for ever");
            (outcome, world)
        });
        for (caller, outcome) in callers.iter().zip(outcome) {
            // The last delay, and the connects of the other callers.
            let slack = MAX_DELAY + Duration::from_millis(10) * callers.len() as u32;
            let served_by = full.ends().max(caller.arrives) + slack;
            match outcome {
                Outcome::Refused { left, failing } if sheds => {
                    prop_assert!(left <= MAX_DELAY || failing > left, "{caller:?} {outcome:?}");
                }
                Outcome::Refused { .. } => {
                    let in_time = caller.arrives + caller.can_wait > served_by;
                    prop_assert!(!in_time, "{caller:?} {outcome:?}");
                }
                Outcome::Cancelled => prop_assert!(caller.cancelled.is_some(), "{caller:?}"),
                Outcome::Served => {}
            }
        }
        let state = world.breaker.state.lock();
        prop_assert!(!state.probing && state.waiting.is_empty());
        let well = state.open.as_ref().is_some_and(|open| open.recovering);
        prop_assert!(!well, "open without callers");
    }
}

impl World {
    async fn serve(&self, caller: &Caller) -> Outcome {
        sleep(caller.arrives).await;
        let arrived = Instant::now();
        let work = self.connect(arrived, arrived + caller.can_wait);
        let limit = caller.cancelled.unwrap_or(60 * SECOND);
        timeout(limit, work).await.unwrap_or(Outcome::Cancelled)
    }

    async fn connect(&self, arrived: Instant, end: Instant) -> Outcome {
        loop {
            let Ok(attempt) = self.breaker.admit(arrived, end, self.sheds).await else {
                let now = Instant::now();
                let heard = *self.heard.lock();
                return Outcome::Refused {
                    left: end.saturating_duration_since(now),
                    failing: now - heard.unwrap_or(now),
                };
            };
            let probes = usize::from(attempt.probes);
            let probers = self.probing.fetch_add(probes, Ordering::SeqCst) + probes;
            let counted = Counted(&self.probing, probes);
            assert!(probers <= 1 || probes == 0, "two probe at once");
            sleep(Duration::from_millis(5)).await;
            drop(counted);
            let now = Instant::now();
            let mut heard = self.heard.lock();
            if self.full.is_full(now - self.begin) {
                heard.get_or_insert(now);
                attempt.failed(&full());
            } else {
                *heard = Some(now);
                attempt.succeeded();
                return Outcome::Served;
            }
        }
    }
}

struct Counted<'a>(&'a AtomicUsize, usize);

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(self.1, Ordering::SeqCst);
    }
}
