//! SIGTERM under AWS's emulator, as `lab/tests/shutdown.rs` has it under the lab's hosts:
//! between two invocations, and during one. Never while frozen: the emulator does not
//! freeze, so that moment is the lab's alone.

use std::time::{Duration, Instant};

use crate::artefacts::deployed;
use crate::emulator::{Emulator, creating};
use crate::sessions::Sessions;

/// What Lambda leaves a function that has internal extensions alone. A busy machine may let
/// a process wait for longer than that: the best of ten has to keep it.
const GRACE: Duration = Duration::from_millis(300);
const TRIES: usize = 10;

/// How the server's log tells of a client that left without a Terminate.
const SILENCE: [&str; 3] = [
    "unexpected EOF",
    "connection to client lost",
    "reset by peer",
];

#[derive(Debug, Clone, Copy, PartialEq)]
enum Moment {
    Between,
    During,
}

use Moment::{Between, During};

/// SIGTERM to the last session gone.
async fn ends(moment: Moment) -> Duration {
    let sessions = Sessions::watched().await;
    let mut emulator = Emulator::start(&deployed("ApiFunction"), sessions.url()).await;
    emulator.request(&creating("acme")).await;
    assert_eq!(sessions.all().await, 1, "none is kept");
    let locker = match moment {
        During => Some(sessions.lock().await),
        Between => None,
    };
    if locker.is_some() {
        emulator.send(&creating("late"));
        sessions.busy().await;
    }

    let begin = Instant::now();
    emulator.terminate();
    sessions.gone().await;
    let took = begin.elapsed();

    emulator.ended().await;
    if took > GRACE {
        // On a busy machine. What follows holds for one that is in time.
        return took;
    }
    let log = emulator.log();
    assert!(
        log.contains("Graceful shutdown completed"),
        "{moment:?}: {log}"
    );
    let log = sessions.log();
    // Not the connection of a CancelRequest, which may be under way when the process ends.
    let ours = log.lines().filter(|line| line.contains("] http"));
    let silent = ours.filter(|line| SILENCE.iter().any(|words| line.contains(words)));
    assert_eq!(silent.collect::<Vec<_>>(), [""; 0], "{moment:?}");
    let cancelled = log.contains("canceling statement due to user request");
    assert_eq!(cancelled, moment == During, "{log}");
    drop(locker);
    assert_eq!(sessions.partners().await, 1, "what was cut short is stored");
    took
}

async fn within_the_grace(moment: Moment) {
    let mut took = Vec::new();
    while took.last().is_none_or(|&took| took > GRACE) {
        assert!(took.len() < TRIES, "{took:?}");
        took.push(ends(moment).await);
    }
}

#[tokio::test]
async fn end_between_invocations_closes_all() {
    within_the_grace(Between).await;
}

#[tokio::test]
async fn end_during_an_invocation_closes_all() {
    within_the_grace(During).await;
}
