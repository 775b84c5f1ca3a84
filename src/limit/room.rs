//! Tracks the free slots of the server, and decides whether connections are kept.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::oneshot::Receiver;

use super::reading::{self, Reading, Slots};
use crate::clock::Clock;
use crate::connection::ServerSession;
use crate::lock::Mutex;
use crate::observe::Meters;
use crate::wire::OwnAnswer;

/// The age from which a reading is repeated when a round trip is taken anyway.
const FRESH: Duration = Duration::from_secs(5);

/// How long a refusal decides alone that a connection is not kept: a fleet that is refused is
/// served within about a second, and a reading would take the server as long as a connect.
const DECIDED: Duration = Duration::from_millis(500);

/// The part of the slots, in percent, above which the server counts as full.
const FULL: u8 = 95;

/// The part of the slots, in percent, above which connections are not kept while many processes
/// connect: a frozen process would hold the slots that the others need. This process was refused
/// a moment ago, or as many sessions began within a second.
const CONTENDED: u8 = 25;

/// The free slots of the server, as far as this process knows them.
#[derive(Debug)]
pub(crate) struct Room {
    clock: Arc<dyn Clock>,
    /// The part of the slots, in percent, above which connections are not kept.
    high_water_mark: u8,
    meters: Meters,
    known: Mutex<RoomState>,
}

#[derive(Debug, Default)]
struct RoomState {
    /// Whether connections take slots of the server, and something depends on their number.
    reads: bool,
    last: Option<Reading>,
    /// Whether the server has answered a reading, be it with an error.
    has_answered: bool,
    /// The server's slots, if role and database have no limit.
    unlimited: Option<i64>,
    /// When the server or a pooler last refused a connection because it was full.
    refused: Option<SystemTime>,
    /// Whether there was no reading since.
    is_refused: bool,
    /// The size of its pool that a pooler named in a refusal.
    pool_size: Option<u32>,
}

impl Room {
    pub(crate) fn new(
        clock: Arc<dyn Clock>,
        meters: Meters,
        reads: bool,
        high_water_mark: u8,
    ) -> Self {
        Room {
            clock,
            high_water_mark,
            meters,
            known: Mutex::new(RoomState {
                reads,
                ..RoomState::default()
            }),
        }
    }

    /// Reads the slots, unless the last reading is fresh, in front of what `session` sends next:
    /// for callers that take a round trip anyway. The returned future waits for the answer, and
    /// returns whether the server answered.
    pub(crate) fn ask_again(
        self: &Arc<Self>,
        session: &ServerSession,
    ) -> Option<impl Future<Output = bool> + Send + use<>> {
        let query = self.query().filter(|_| self.is_old())?;
        let answer = session.ask(&query, false)?;
        let room = Arc::clone(self);
        Some(async move {
            let answer = answer.await;
            let has_answered = answer.is_some();
            room.note_answer(answer.unwrap_or_default());
            has_answered
        })
    }

    /// Reads the slots behind the next statement of `session`, whose answer is not delayed.
    ///
    /// Called for each new connection: it may be one of many, as after a restart, and the last
    /// reading decides whether it is kept. If that is fresh and showed plenty of room, it will do.
    pub(super) fn ask_behind(&self, session: &ServerSession) -> Option<Receiver<OwnAnswer>> {
        let query = self.query()?;
        let plenty = !self.is_old() && !self.is_above(self.high_water_mark / 2);
        let skips = plenty && self.was_refused() != Some(true);
        (!skips).then(|| session.link.wire.defer(&query))
    }

    /// Keeps the answer to a reading.
    pub(crate) fn note_answer(&self, answer: OwnAnswer) {
        let mut known = self.known.lock();
        let row = answer.rows.first();
        known.has_answered |= answer.at.is_some();
        // A server that refuses the query has answered; its limits are unknown.
        let age = answer.at.map(|at| at.elapsed()).unwrap_or_default();
        let now = self.clock.now();
        let at = now.checked_sub(age).unwrap_or(now);
        if let Some(reading) = row.and_then(|row| reading::reading(at, row, known.unlimited)) {
            if (reading.role, reading.database) == (None, None) {
                known.unlimited = Some(reading.server.limit.into());
            }
            drop(known);
            self.note(reading);
        }
    }

    /// Returns whether no reading was made so far, and one would be of use.
    pub(crate) fn is_unread(&self) -> bool {
        let known = self.known.lock();
        known.reads && !known.has_answered
    }

    /// Returns the query, if connections take slots and something depends on it.
    fn query(&self) -> Option<String> {
        let known = self.known.lock();
        known.reads.then(|| reading::query(known.unlimited))
    }

    /// Stops reading and forgets the last reading: a pooler has slots of its own.
    pub(crate) fn stop_counting(&self) {
        let mut known = self.known.lock();
        known.reads = false;
        known.last = None;
    }

    /// Keeps a reading.
    pub(crate) fn note(&self, reading: Reading) {
        let slots = reading.tightest();
        self.meters.slots(slots.used, slots.limit);
        let mut known = self.known.lock();
        known.is_refused = false;
        known.last = Some(reading);
    }

    /// Records that the server or a pooler refused a connection because it is full. A pooler may
    /// have named its size.
    pub(crate) fn note_refusal(&self, pool_size: Option<u32>) {
        let mut known = self.known.lock();
        known.pool_size = pool_size.or(known.pool_size);
        let last = known.last.as_ref().map(|last| self.clock.since(last.at));
        if last.is_none_or(|age| age > FRESH) {
            // A limit may have been set since.
            known.unlimited = None;
        }
        known.refused = Some(self.clock.now());
        known.is_refused = true;
    }

    /// Returns whether connections should be closed instead of kept.
    pub(crate) fn is_crowded(&self) -> bool {
        let known = self.known.lock();
        let (last, refused) = (known.last, known.refused);
        drop(known);
        let mark = match refused.and_then(|_| self.was_refused()) {
            Some(true) => return true,
            None if !self.is_rushed(last.as_ref()) => self.high_water_mark,
            _ => CONTENDED.min(self.high_water_mark),
        };
        last.is_some_and(|last| last.tightest().is_above(mark))
    }

    /// Returns whether a connection was refused so recently that none is kept, whatever a reading
    /// would show.
    pub(super) fn is_decided(&self) -> bool {
        let known = self.known.lock();
        let refused = known.refused.filter(|_| known.is_refused);
        refused.is_some_and(|refused| self.clock.since(refused) <= DECIDED)
    }

    /// Returns whether the server is full, according to a fresh reading or refusal.
    pub(crate) fn is_full(&self) -> bool {
        self.was_refused() == Some(true) || !self.is_old() && self.is_above(FULL)
    }

    /// Returns the size of its pool that a pooler named in a refusal.
    pub(crate) fn pool_size(&self) -> Option<u32> {
        self.known.lock().pool_size
    }

    /// Returns the last reading, however old.
    pub(crate) fn last_reading(&self) -> Option<Reading> {
        self.known.lock().last
    }

    /// Returns, if a connection was refused a moment ago, whether there was no reading since.
    fn was_refused(&self) -> Option<bool> {
        let known = self.known.lock();
        let refused = known.refused.filter(|_| known.reads)?;
        (self.clock.since(refused) <= FRESH).then_some(known.is_refused)
    }

    /// Returns whether other sessions began within the second before a fresh reading, as many as
    /// make up a part of the slots.
    fn is_rushed(&self, last: Option<&Reading>) -> bool {
        let others = |reading: &Reading| Slots {
            used: reading.young.saturating_sub(1),
            ..reading.server
        };
        // The clock is read last: it costs more than the rest.
        last.is_some_and(|last| others(last).is_above(CONTENDED)) && !self.is_old()
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
        let room = Room::new(clock.clone(), Meters::default(), true, 80);
        room.note_refusal(None);
        assert!(room.is_full());
        clock.set_back(Duration::from_secs(3_600));
        assert!(!room.is_full() && room.is_old());
    }

    #[test]
    fn full_server_counts_only_while_fresh() {
        let clock = Manual::new();
        let room = Room::new(clock.clone(), Meters::default(), true, 80);
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

    #[test]
    fn refusal_decides_until_a_reading() {
        let clock = Manual::new();
        let room = Room::new(clock.clone(), Meters::default(), true, 80);
        assert!(!room.is_decided());
        room.note_refusal(None);
        assert!(room.is_decided() && room.is_crowded());
        clock.advance(DECIDED * 2);
        assert!(!room.is_decided() && room.is_crowded());
        room.note_refusal(None);
        read(&room, 1);
        assert!(!room.is_decided());
    }

    #[test]
    fn many_new_sessions_leave_fewer_kept() {
        let clock = Manual::new();
        let room = Room::new(clock.clone(), Meters::default(), true, 80);
        let read = |young: u32, used: u32| {
            let reading = Reading::new(clock.now(), [20, used.into(), -1, 0, -1, 0]);
            room.note(Reading { young, ..reading });
            room.is_crowded()
        };
        assert!(!read(6, 16), "five others of twenty");
        assert!(read(7, 16) && read(7, 6) && !read(7, 5));
        assert!(!room.is_full());
        read(7, 16);
        clock.advance(FRESH * 2);
        assert!(!room.is_crowded(), "that was a while ago");
    }

    /// The refusal may concern the role's limit, or a pooler's: the server's last reading stays.
    #[test]
    fn refusal_counts_for_a_moment_without_a_reading() {
        let clock = Manual::new();
        let room = Room::new(clock.clone(), Meters::default(), true, 80);
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
        read(&room, 3);
        assert!(room.is_crowded(), "others are refused too");
        clock.advance(FRESH * 2);
        assert!(!room.is_crowded(), "long after the refusal");
        room.note_refusal(None);
        room.stop_counting();
        assert!(!room.is_crowded(), "they are not the server's slots");
    }
}
