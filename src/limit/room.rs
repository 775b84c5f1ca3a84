//! Tracks the free slots of the server, and decides whether connections are kept.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use tokio_postgres::Client;

use super::reading::{self, Reading};
use crate::clock::Clock;

/// The age from which a reading is repeated when a round trip is taken anyway.
const FRESH: Duration = Duration::from_secs(5);

/// The part of the slots, in percent, above which the server counts as full.
const FULL: u8 = 95;

/// The free slots of the server, as far as this process knows them.
#[derive(Debug)]
pub(crate) struct Room {
    clock: Arc<dyn Clock>,
    /// Whether connections take slots of the server, which can be counted.
    takes_slots: AtomicBool,
    /// The part of the slots, in percent, above which connections are not kept.
    high_water_mark: u8,
    last: Mutex<Option<Reading>>,
    /// Whether a reading is under way.
    is_reading: AtomicBool,
    /// When the server or a pooler last refused a connection because it was full.
    refused: Mutex<Option<SystemTime>>,
    /// The size that a pooler named in a refusal, zero if none has.
    pool_size: AtomicU32,
}

impl Room {
    pub(crate) fn new(clock: Arc<dyn Clock>, takes_slots: bool, high_water_mark: u8) -> Self {
        Room {
            clock,
            takes_slots: AtomicBool::new(takes_slots),
            high_water_mark,
            last: Mutex::default(),
            is_reading: AtomicBool::new(false),
            refused: Mutex::default(),
            pool_size: AtomicU32::new(0),
        }
    }

    /// Reads the slots, unless the last reading is fresh. For callers that take a round trip
    /// anyway.
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

    /// Reads the slots. The query is sent behind the earlier statements of `client` and in front
    /// of later ones, so that no caller waits a round trip for it. The returned future waits for
    /// the answer, and returns whether the server answered.
    ///
    /// Called for each new connection: it may be one of many, as after a restart, and the last
    /// reading decides whether it is kept.
    pub(crate) async fn ask(
        self: &Arc<Self>,
        client: &Client,
    ) -> Option<impl Future<Output = bool> + Send + use<>> {
        if !self.takes_slots() || self.is_reading.swap(true, Ordering::AcqRel) {
            return None;
        }
        let under_way = UnderWay(Arc::clone(self));
        let answer = reading::begin(client).await.ok()?;
        Some(async move {
            let room = &under_way.0;
            match answer.await {
                Ok(Some(figures)) => {
                    room.note(Reading::new(room.clock.now(), figures));
                    true
                }
                Ok(None) => true,
                // A server that refuses the query has answered; its limits are unknown.
                Err(error) => error.as_db_error().is_some(),
            }
        })
    }

    /// Stops reading and forgets the last reading: a pooler has slots of its own.
    pub(crate) fn stop_counting(&self) {
        self.takes_slots.store(false, Ordering::Relaxed);
        *lock(&self.last) = None;
    }

    /// Keeps a reading.
    pub(crate) fn note(&self, reading: Reading) {
        *lock(&self.refused) = None;
        *lock(&self.last) = Some(reading);
    }

    /// Records that the server or a pooler refused a connection because it is full. A pooler may
    /// have named its size.
    pub(crate) fn note_refusal(&self, pool_size: Option<u32>) {
        if let Some(size) = pool_size {
            self.pool_size.store(size, Ordering::Relaxed);
        }
        *lock(&self.refused) = Some(self.clock.now());
    }

    /// Returns whether connections should be closed instead of kept.
    pub(crate) fn is_crowded(&self) -> bool {
        self.was_refused() || self.is_above(self.high_water_mark)
    }

    /// Returns whether the server is full, according to a fresh reading or refusal.
    pub(crate) fn is_full(&self) -> bool {
        self.was_refused() || !self.is_old() && self.is_above(FULL)
    }

    /// Returns the size of its pool that a pooler named in a refusal.
    pub(crate) fn pool_size(&self) -> Option<u32> {
        Some(self.pool_size.load(Ordering::Relaxed)).filter(|size| *size > 0)
    }

    /// Returns the last reading, however old.
    pub(crate) fn last_reading(&self) -> Option<Reading> {
        *lock(&self.last)
    }

    fn takes_slots(&self) -> bool {
        self.takes_slots.load(Ordering::Relaxed)
    }

    /// Returns whether a connection was refused a moment ago, without a reading since.
    fn was_refused(&self) -> bool {
        let refused = *lock(&self.refused);
        self.takes_slots() && refused.is_some_and(|refused| self.clock.since(refused) <= FRESH)
    }

    fn is_above(&self, percent: u8) -> bool {
        self.last_reading()
            .is_some_and(|reading| reading.tightest().is_above(percent))
    }

    fn is_old(&self) -> bool {
        self.last_reading()
            .is_none_or(|reading| self.clock.since(reading.at) > FRESH)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Marks a reading as under way, until it is dropped: one at a time is enough.
struct UnderWay(Arc<Room>);

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.is_reading.store(false, Ordering::Release);
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
        assert!(room.is_crowded() && !room.is_full(), "the reading is old");
    }

    /// The refusal may concern the role's limit, or a pooler's: the server's last reading stays.
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
        assert_eq!(room.pool_size(), Some(15), "a refusal without a size");
        read(&room, 1);
        assert!(!room.is_crowded(), "there was a reading since");
        room.note_refusal(None);
        room.stop_counting();
        assert!(!room.is_crowded(), "they are not the server's slots");
    }
}
