//! Tracks the free slots of the server, and decides whether connections are kept.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use super::reading::{self, Reading};
use crate::clock::Clock;
use crate::connection::ServerSession;

/// The age from which a reading is repeated when a round trip is taken anyway.
const FRESH: Duration = Duration::from_secs(5);

/// The part of the slots, in percent, above which the server counts as full.
const FULL: u8 = 95;

/// The free slots of the server, as far as this process knows them.
#[derive(Debug)]
pub(crate) struct Room {
    clock: Arc<dyn Clock>,
    /// The part of the slots, in percent, above which connections are not kept.
    high_water_mark: u8,
    known: Mutex<RoomState>,
}

#[derive(Debug, Default)]
struct RoomState {
    /// Whether connections take slots of the server, which can be counted.
    takes_slots: bool,
    /// Whether a reading is under way.
    is_reading: bool,
    last: Option<Reading>,
    /// When the server or a pooler last refused a connection because it was full.
    refused: Option<SystemTime>,
    /// The size of its pool that a pooler named in a refusal.
    pool_size: Option<u32>,
}

impl Room {
    pub(crate) fn new(clock: Arc<dyn Clock>, takes_slots: bool, high_water_mark: u8) -> Self {
        Room {
            clock,
            high_water_mark,
            known: Mutex::new(RoomState {
                takes_slots,
                ..RoomState::default()
            }),
        }
    }

    /// Reads the slots, unless the last reading is fresh. For callers that take a round trip
    /// anyway.
    pub(crate) fn ask_again(
        self: &Arc<Self>,
        session: &ServerSession,
    ) -> Option<impl Future<Output = bool> + Send + use<>> {
        if !self.is_old() {
            return None;
        }
        self.ask(session)
    }

    /// Reads the slots. The query is sent behind the earlier statements of `session` and in front
    /// of later ones, so that no caller waits a round trip for it. The returned future waits for
    /// the answer, and returns whether the server answered.
    ///
    /// Called for each new connection: it may be one of many, as after a restart, and the last
    /// reading decides whether it is kept.
    pub(crate) fn ask(
        self: &Arc<Self>,
        session: &ServerSession,
    ) -> Option<impl Future<Output = bool> + Send + use<>> {
        let under_way = self.begin()?;
        let answer = session.ask(&reading::query(), true)?;
        Some(async move {
            let room = &under_way.0;
            let Some(answer) = answer.await else {
                return false;
            };
            // A server that refuses the query has answered; its limits are unknown.
            if let Some(figures) = answer.rows.first().and_then(|row| reading::figures(row)) {
                room.note(Reading::new(room.clock.now(), figures));
            }
            true
        })
    }

    /// Stops reading and forgets the last reading: a pooler has slots of its own.
    pub(crate) fn stop_counting(&self) {
        let mut known = self.known();
        known.takes_slots = false;
        known.last = None;
    }

    /// Keeps a reading.
    pub(crate) fn note(&self, reading: Reading) {
        let mut known = self.known();
        known.refused = None;
        known.last = Some(reading);
    }

    /// Records that the server or a pooler refused a connection because it is full. A pooler may
    /// have named its size.
    pub(crate) fn note_refusal(&self, pool_size: Option<u32>) {
        let mut known = self.known();
        known.pool_size = pool_size.or(known.pool_size);
        known.refused = Some(self.clock.now());
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
        self.known().pool_size
    }

    /// Returns the last reading, however old.
    pub(crate) fn last_reading(&self) -> Option<Reading> {
        self.known().last
    }

    /// Returns whether a connection was refused a moment ago, without a reading since.
    fn was_refused(&self) -> bool {
        let known = self.known();
        let is_fresh = |refused| self.clock.since(refused) <= FRESH;
        known.takes_slots && known.refused.is_some_and(is_fresh)
    }

    fn is_above(&self, percent: u8) -> bool {
        self.last_reading()
            .is_some_and(|reading| reading.tightest().is_above(percent))
    }

    fn is_old(&self) -> bool {
        self.last_reading()
            .is_none_or(|reading| self.clock.since(reading.at) > FRESH)
    }

    /// Marks a reading as under way, if connections take slots and none is.
    fn begin(self: &Arc<Self>) -> Option<ReadingGuard> {
        let mut known = self.known();
        let begins = known.takes_slots && !known.is_reading;
        known.is_reading |= begins;
        begins.then(|| ReadingGuard(Arc::clone(self)))
    }

    fn known(&self) -> MutexGuard<'_, RoomState> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A reading under way, until it is dropped: one at a time is enough.
struct ReadingGuard(Arc<Room>);

impl Drop for ReadingGuard {
    fn drop(&mut self) {
        self.0.known().is_reading = false;
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
