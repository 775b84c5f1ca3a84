//! Tracks the free slots of the server, and decides whether connections are kept.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use tokio_postgres::Client;

use super::reading::{self, Reading, Slots};
use crate::clock::Clock;

/// A reading older than this is taken anew when there is an occasion.
const FRESH: Duration = Duration::from_secs(5);

/// Above this part of the slots, in percent, there is as good as no room.
const FULL: u8 = 95;

/// The room on the server, as this process knows it.
#[derive(Debug)]
pub(crate) struct Room {
    clock: Arc<dyn Clock>,
    /// Connections take slots of the server that can be counted.
    counts: AtomicBool,
    /// The part of the slots, in percent, above which connections are not kept.
    mark: u8,
    last: Mutex<Option<Reading>>,
    reads: AtomicBool,
    /// When a connection was last refused because something was full.
    refused: Mutex<Option<SystemTime>>,
    /// What a pooler said of its own size, zero if it did not.
    pool_size: AtomicU32,
}

impl Room {
    pub(crate) fn new(clock: Arc<dyn Clock>, counts: bool, mark: u8) -> Self {
        Room {
            clock,
            counts: AtomicBool::new(counts),
            mark,
            last: Mutex::default(),
            reads: AtomicBool::new(false),
            refused: Mutex::default(),
            pool_size: AtomicU32::new(0),
        }
    }

    /// Asks the server, if it was not asked just now: for a round trip that is paid anyway.
    pub(crate) async fn ask_again(
        self: &Arc<Self>,
        client: &Client,
    ) -> Option<impl Future<Output = bool> + Send + use<>> {
        if self.is_old() {
            self.ask(client).await
        } else {
            None
        }
    }

    /// Asks the server: the question goes out behind what `client` was given before and in
    /// front of what comes, so that nobody waits a round trip for it. Answers what waits for
    /// the answer, and says then whether there was one.
    ///
    /// Always on a new connection: what had to be opened may be one of many, as after a
    /// restart, and is kept or not by what was read last.
    pub(crate) async fn ask(
        self: &Arc<Self>,
        client: &Client,
    ) -> Option<impl Future<Output = bool> + Send + use<>> {
        if !self.counts.load(Ordering::Relaxed) || self.reads.swap(true, Ordering::AcqRel) {
            return None;
        }
        let asking = Asking(Arc::clone(self));
        let answer = reading::begin(client).await.ok()?;
        Some(async move {
            let room = &asking.0;
            match answer.await {
                Ok(Some(figures)) => {
                    room.note(Reading::new(room.clock.now(), figures));
                    true
                }
                Ok(None) => true,
                // A server that does not know the question is one whose limits are unknown.
                Err(error) => error.as_db_error().is_some(),
            }
        })
    }

    /// What lies in between has slots of its own, and what is known says nothing of it.
    pub(crate) fn stop_counting(&self) {
        self.counts.store(false, Ordering::Relaxed);
        *self.last() = None;
    }

    pub(crate) fn note(&self, reading: Reading) {
        *lock(&self.refused) = None;
        *self.last() = Some(reading);
    }

    /// The server, or a pooler, refused a connection since it is full, and perhaps named
    /// its size.
    pub(crate) fn note_refusal(&self, pool_size: Option<u32>) {
        if let Some(size) = pool_size {
            self.pool_size.store(size, Ordering::Relaxed);
        }
        *lock(&self.refused) = Some(self.clock.now());
    }

    /// A connection that is not in use had better be given back.
    pub(crate) fn is_crowded(&self) -> bool {
        self.was_refused() || self.slots().is_some_and(|slots| slots.is_above(self.mark))
    }

    /// There is as good as no room, and that was read just now.
    pub(crate) fn is_full(&self) -> bool {
        self.was_refused()
            || !self.is_old() && self.slots().is_some_and(|slots| slots.is_above(FULL))
    }

    /// The size of its pool that a pooler named when it refused.
    pub(crate) fn pool_size(&self) -> Option<u32> {
        match self.pool_size.load(Ordering::Relaxed) {
            0 => None,
            size => Some(size),
        }
    }

    /// What was read last, however long ago.
    pub(crate) fn last_reading(&self) -> Option<Reading> {
        *self.last()
    }

    /// A moment ago, and nothing was read since.
    fn was_refused(&self) -> bool {
        let refused = *lock(&self.refused);
        let counts = self.counts.load(Ordering::Relaxed);
        counts && refused.is_some_and(|refused| self.clock.since(refused) <= FRESH)
    }

    fn slots(&self) -> Option<Slots> {
        self.last().as_ref().map(Reading::tightest)
    }

    fn is_old(&self) -> bool {
        self.last()
            .as_ref()
            .is_none_or(|reading| self.clock.since(reading.at) > FRESH)
    }

    fn last(&self) -> MutexGuard<'_, Option<Reading>> {
        lock(&self.last)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A reading under way: one at a time is enough.
struct Asking(Arc<Room>);

impl Drop for Asking {
    fn drop(&mut self) {
        self.0.reads.store(false, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Manual;

    fn read(room: &Room, used: u32) {
        let at = room.clock.now();
        room.note(Reading::new(at, [10, used.into(), -1, 0, -1, 0]));
    }

    #[test]
    fn clock_set_back_makes_no_reading_fresh() {
        let clock = Manual::new();
        clock.advance(Duration::from_secs(7_200));
        let room = Room::new(clock.clone(), true, 80);
        room.note_refusal(None);
        assert!(room.is_full());
        clock.set_back(Duration::from_secs(3_600));
        assert!(!room.is_full() && room.is_old());
    }

    #[test]
    fn full_server_counts_only_while_fresh() {
        let clock = Manual::new();
        let room = Room::new(clock.clone(), true, 80);
        assert!(!room.is_crowded() && !room.is_full(), "nothing is known");
        for (used, crowded, full) in [(8, false, false), (9, true, false), (10, true, true)] {
            read(&room, used);
            assert_eq!(
                (room.is_crowded(), room.is_full()),
                (crowded, full),
                "{used}"
            );
        }
        clock.advance(FRESH * 2);
        assert!(room.is_crowded() && !room.is_full(), "that was long ago");
    }

    /// It may have been the role's limit, or a pooler's: what was read of the server stays.
    #[test]
    fn refusal_counts_for_a_moment_without_a_reading() {
        let clock = Manual::new();
        let room = Room::new(clock.clone(), true, 80);
        read(&room, 1);
        room.note_refusal(Some(15));
        assert!(room.is_crowded() && room.is_full());
        assert_eq!(
            room.last_reading().map(|reading| reading.server.used),
            Some(1)
        );
        assert_eq!(room.pool_size(), Some(15));
        clock.advance(FRESH * 2);
        assert!(!room.is_crowded() && !room.is_full());
        room.note_refusal(None);
        assert_eq!(room.pool_size(), Some(15), "it named none this time");
        read(&room, 1);
        assert!(!room.is_crowded(), "it was read since");
        room.note_refusal(None);
        room.stop_counting();
        assert!(!room.is_crowded(), "they are not the server's slots");
    }
}
