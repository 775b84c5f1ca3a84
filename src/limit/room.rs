//! What is known of the room on the server, and what follows from it.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

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
            pool_size: AtomicU32::new(0),
        }
    }

    /// Asks the server, if it was not asked just now: the question goes out behind what
    /// `client` was given before and in front of what comes, so that nobody waits a round
    /// trip for it. Answers what waits for the answer,
    /// and says then whether there was one.
    pub(crate) async fn ask(
        self: &Arc<Self>,
        client: &Client,
    ) -> Option<impl Future<Output = bool> + Send + use<>> {
        if !self.counts.load(Ordering::Relaxed)
            || !self.is_old()
            || self.reads.swap(true, Ordering::AcqRel)
        {
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
        *self.last() = Some(reading);
    }

    /// The server, or a pooler, refused a connection since it is full, and perhaps named
    /// its size.
    pub(crate) fn note_refusal(&self, pool_size: Option<u32>) {
        if let Some(size) = pool_size {
            self.pool_size.store(size, Ordering::Relaxed);
        }
        if let Some(reading) = &mut *self.last() {
            // What was read before is no longer so.
            reading.at = self.clock.now();
            reading.server.used = reading.server.used.max(reading.server.limit);
        }
    }

    /// A connection that is not in use had better be given back.
    pub(crate) fn is_crowded(&self) -> bool {
        self.slots().is_some_and(|slots| slots.is_above(self.mark))
    }

    /// There is as good as no room, and that was read just now.
    pub(crate) fn is_full(&self) -> bool {
        !self.is_old() && self.slots().is_some_and(|slots| slots.is_above(FULL))
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

    fn slots(&self) -> Option<Slots> {
        self.last().as_ref().map(Reading::tightest)
    }

    fn is_old(&self) -> bool {
        self.last()
            .as_ref()
            .is_none_or(|reading| self.clock.since(reading.at) > FRESH)
    }

    fn last(&self) -> MutexGuard<'_, Option<Reading>> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A reading under way: one at a time is enough.
struct Asking(Arc<Room>);

impl Drop for Asking {
    fn drop(&mut self) {
        self.0.reads.store(false, Ordering::Release);
    }
}
