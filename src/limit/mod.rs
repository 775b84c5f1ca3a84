//! Protects the server from a fleet of processes: its room, and the circuit breaker.
//!
//! - [`reading`] asks the server how full it is, [`room`] keeps the answer: above a mark
//!   connections are given back at the end of each invocation instead of being kept;
//! - [`breaker`] limits connecting while the server is full or unreachable.

mod breaker;
mod reading;
mod reserved;
mod room;

use std::sync::Arc;
use std::time::Duration;

pub(crate) use breaker::{Attempt, Breaker};
pub(crate) use reading::{Reading, Slots};
pub(crate) use reserved::reserved;

/// How many slots the server keeps from ordinary roles, as an expression of SQL.
pub const RESERVED: &str = reserved!();
pub(crate) use room::Room;

use crate::clock::Clock;
use crate::config::{LoadShed, Settings};
use crate::error::Error;

/// When a caller may retry that was turned away since the server is nearly full.
const AGAIN: Duration = Duration::from_secs(1);

/// The limits of one database in this process, for all of its runtimes.
#[derive(Debug)]
pub(crate) struct Limits {
    pub(crate) breaker: Breaker,
    pub(crate) room: Arc<Room>,
    load_shed: LoadShed,
}

impl Limits {
    pub(crate) fn new(config: &Settings, clock: Arc<dyn Clock>) -> Self {
        let room = Room::new(
            Arc::clone(&clock),
            config.takes_slots(),
            config.high_water_mark,
        );
        Limits {
            breaker: Breaker::new(clock),
            room: Arc::new(room),
            load_shed: config.load_shed,
        }
    }

    /// Whether an invocation that cannot wait is told so before it has waited.
    pub(crate) fn sheds(&self) -> bool {
        self.load_shed != LoadShed::Off
    }

    /// Why an invocation that can wait for `left` had better not begin.
    pub(crate) fn before_handler(&self, left: Duration) -> Option<Error> {
        let full = || {
            let full = self.room.is_full() && self.breaker.next_try().is_none();
            full.then(|| Error::all_but_full(AGAIN))
        };
        self.breaker.sheds(left).or_else(full)
    }
}
