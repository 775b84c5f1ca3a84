//! The table of endings: which drivers have them, and what is expected of them.

use Caller::{Deadline, Failure, Success};
use Session::{Either, Kept};

use crate::Driver::{
    self, Diesel, DieselAsync, DieselBb8, DieselBlocking, DieselDeadpool, DieselR2d2, SeaOrm,
    SqlxConnection, SqlxPool,
};

/// What the caller of the function gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Caller {
    /// The answer.
    Success,
    /// An error.
    Failure,
    /// The error that the deadline has passed.
    Deadline,
}

/// What becomes of the sessions that were there, if they are kept between invocations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Session {
    /// They serve the next invocation.
    Kept,
    /// It depends on the time that is left, or on what is on its way.
    Either,
}

/// One ending.
#[derive(Clone, Copy, Debug)]
pub struct Ending {
    /// Its name, which the function is told.
    pub name: &'static str,
    /// The drivers that have it.
    pub drivers: &'static [Driver],
    /// What the caller gets.
    pub caller: Caller,
    /// What becomes of the server's sessions.
    pub session: Session,
    /// The drivers that leave their session stuck each time, if they are alone: in a
    /// transaction, busy, or with an advisory lock.
    pub stuck: &'static [Driver],
}

const ALL: &[Driver] = &Driver::ALL;
const NONE: &[Driver] = &[];
const SQLX: &[Driver] = &[SqlxPool, SqlxConnection];
/// Those that give connections back to a pool.
const POOLS: &[Driver] = &[SqlxPool, SeaOrm, DieselR2d2, DieselDeadpool, DieselBb8];
/// Pools that do not know of a BEGIN that was sent as SQL.
const UNAWARE: &[Driver] = &[SqlxPool, SeaOrm, DieselR2d2];
const ASYNC: &[Driver] = &[
    SqlxPool,
    SqlxConnection,
    SeaOrm,
    DieselAsync,
    DieselDeadpool,
    DieselBb8,
];
const SYNC: &[Driver] = &[Diesel, DieselBlocking, DieselR2d2];
/// Where a deadline can pass: not in the thread of the handler.
const AWAITED: &[Driver] = &[
    SqlxPool,
    SqlxConnection,
    SeaOrm,
    DieselBlocking,
    DieselR2d2,
    DieselAsync,
    DieselDeadpool,
    DieselBb8,
];
/// Connections of one invocation, by a URL of its own.
const OWN: &[Driver] = &[SqlxConnection, Diesel, DieselBlocking, DieselAsync];

macro_rules! endings {
    ($(($name:literal, $drivers:expr, $caller:expr, $session:expr, $stuck:expr),)*) => {
        &[$(Ending {
            name: $name,
            drivers: $drivers,
            caller: $caller,
            session: $session,
            stuck: $stuck,
        }),*]
    };
}

/// All endings.
#[rustfmt::skip]
pub const ENDINGS: &[Ending] = endings![
    // ending, drivers that have it, the caller gets, the session is, stuck if alone
    ("returns",               ALL,     Success,  Kept,   NONE),
    ("reads",                 ALL,     Success,  Kept,   NONE),
    ("reads_twice",           ALL,     Success,  Kept,   NONE),
    ("checked",               SQLX,    Success,  Kept,   NONE),
    ("transaction_dropped",   ALL,     Success,  Kept,   NONE),
    ("early_return",          ALL,     Failure,  Kept,   NONE),
    ("panic",                 ALL,     Failure,  Kept,   NONE),
    ("transaction_forgotten", ALL,     Success,  Kept,   ALL),
    ("connection_forgotten",  ALL,     Success,  Kept,   ALL),
    ("begin_by_hand",         ALL,     Success,  Kept,   UNAWARE),
    ("begin_dropped",         ASYNC,   Success,  Either, NONE),
    ("savepoints",            ALL,     Success,  Kept,   ALL),
    ("failed_statement",      ALL,     Success,  Kept,   UNAWARE),
    ("commit_of_an_aborted",  ALL,     Success,  Kept,   NONE),
    ("statement_timed_out",   AWAITED, Success,  Either, AWAITED),
    ("slow_statement",        AWAITED, Deadline, Either, NONE),
    ("rows_dropped",          ALL,     Success,  Either, NONE),
    ("rows_kept",             ALL,     Success,  Either, ALL),
    ("copies",                SQLX,    Success,  Kept,   NONE),
    ("copies",                SYNC,    Success,  Kept,   NONE),
    ("copy_in_dropped",       SQLX,    Success,  Either, NONE),
    ("copy_in_kept",          SQLX,    Success,  Either, SQLX),
    ("copy_out_dropped",      SQLX,    Success,  Either, NONE),
    ("copy_out_kept",         SQLX,    Success,  Either, SQLX),
    ("copy_out_kept",         SYNC,    Success,  Either, SYNC),
    ("task_idle",             ALL,     Success,  Kept,   ALL),
    ("task_busy",             ALL,     Success,  Either, ALL),
    ("two_connections",       ALL,     Success,  Kept,   UNAWARE),
    ("listen",                ALL,     Success,  Kept,   NONE),
    ("listener",              &[SqlxPool], Success, Kept, NONE),
    ("set",                   ALL,     Success,  Kept,   NONE),
    ("set_config",            ALL,     Success,  Kept,   NONE),
    ("advisory_lock",         ALL,     Success,  Kept,   POOLS),
    ("temp_table",            ALL,     Success,  Kept,   NONE),
    ("killed",                ALL,     Success,  Either, NONE),
    ("decided_returns",       OWN,     Success,  Kept,   NONE),
    ("decided_fails",         OWN,     Failure,  Kept,   NONE),
    ("decided_begins",        OWN,     Failure,  Either, NONE),
];

impl Ending {
    /// Those of a driver.
    pub fn of(driver: Driver) -> impl Iterator<Item = &'static Ending> {
        ENDINGS
            .iter()
            .filter(move |ending| ending.drivers.contains(&driver))
    }

    /// Whether it leaves state of the session, which a pooler in transaction mode loses.
    pub fn leaves_state(&self) -> bool {
        let state = [
            "listen",
            "listener",
            "set",
            "set_config",
            "advisory_lock",
            "temp_table",
        ];
        state.contains(&self.name)
    }

    /// Whether the row that the handler inserts is there afterwards.
    pub fn stores(&self) -> bool {
        matches!(self.name, "returns" | "decided_returns" | "copies")
    }
}
