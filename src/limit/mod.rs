//! Limits the load that a fleet of processes puts on the server.
//!
//! - [`reading`] asks the server how many slots are taken, [`room`] keeps the answer: above the
//!   high-water mark connections are closed at the end of each invocation instead of kept;
//! - [`breaker`] limits connecting while the server is full or unreachable.

mod breaker;
mod reading;
mod room;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot::Receiver;

pub(crate) use breaker::{Admission, Breaker};
pub(crate) use reading::Reading;
pub use reading::Slots;
pub(crate) use room::Room;

use crate::clock::Clock;
use crate::config::{LoadShed, Settings};
use crate::connection::ServerSession;
use crate::error::Error;
use crate::observe::Meters;
use crate::wire::OwnAnswer;

/// The `Retry-After` of a request that was refused because the server is nearly full.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// The limits of one database in this process, for all of its runtimes.
#[derive(Debug)]
pub(crate) struct Limiter {
    pub(crate) breaker: Breaker,
    pub(crate) room: Arc<Room>,
    load_shed: LoadShed,
}

impl Limiter {
    pub(crate) fn new(config: &Settings, clock: Arc<dyn Clock>, meters: &Meters) -> Self {
        // Without these two, nothing depends on the slots in use.
        let depends = config.idle_limit() > 0 || config.load_shed == LoadShed::BeforeHandler;
        let reads = config.takes_slots() && depends;
        let room = Room::new(
            Arc::clone(&clock),
            meters.clone(),
            reads,
            config.high_water_mark,
        );
        Limiter {
            breaker: Breaker::new(clock, meters.clone()),
            room: Arc::new(room),
            load_shed: config.load_shed,
        }
    }

    /// Returns whether an invocation that cannot wait is refused before it has waited.
    pub(crate) fn sheds(&self) -> bool {
        self.load_shed != LoadShed::Off
    }

    /// Reads the slots behind the next statement of `session`, if something depends on it.
    pub(crate) fn ask_behind(&self, session: &ServerSession) -> Option<Receiver<OwnAnswer>> {
        // Requests are shed by the last reading too.
        let is_decided = self.load_shed != LoadShed::BeforeHandler && self.room.is_decided();
        (!is_decided).then(|| self.room.ask_behind(session))?
    }

    /// Returns why an invocation that can wait for `left` is refused before its handler.
    pub(crate) fn before_handler(&self, left: Duration) -> Option<Error> {
        let full = || {
            let full = self.room.is_full() && self.breaker.next_try().is_none();
            full.then(|| Error::all_but_full(RETRY_AFTER))
        };
        self.breaker.sheds(left).or_else(full)
    }
}
