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
