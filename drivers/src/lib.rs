//! sqlx, SeaORM and Diesel behind antifreeze: what their functions (`src/bin/drivers`) can be
//! asked for, and what is expected of them. The tests run them, freeze them, and look at the
//! server meanwhile.
#![cfg(unix)]

mod endings;

pub use self::endings::{Caller, ENDINGS, Ending, Session};

/// A driver, and how it gets its connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Driver {
    /// sqlx's pool, one for the process.
    SqlxPool,
    /// A `PgConnection` of sqlx for each use.
    SqlxConnection,
    /// SeaORM on sqlx's pool.
    SeaOrm,
    /// Diesel in the thread of the handler.
    Diesel,
    /// Diesel in `spawn_blocking`.
    DieselBlocking,
    /// Diesel with r2d2, one pool for the process, in `spawn_blocking`.
    DieselR2d2,
    /// An `AsyncPgConnection` for each use.
    DieselAsync,
    /// diesel-async with deadpool, one pool for the process.
    DieselDeadpool,
    /// diesel-async with bb8, one pool for the process.
    DieselBb8,
}

impl Driver {
    /// All of them.
    pub const ALL: [Driver; 9] = [
        Driver::SqlxPool,
        Driver::SqlxConnection,
        Driver::SeaOrm,
        Driver::Diesel,
        Driver::DieselBlocking,
        Driver::DieselR2d2,
        Driver::DieselAsync,
        Driver::DieselDeadpool,
        Driver::DieselBb8,
    ];

    /// Its name in the variable `DRIVER`.
    pub fn name(self) -> &'static str {
        match self {
            Driver::SqlxPool => "sqlx_pool",
            Driver::SqlxConnection => "sqlx_connection",
            Driver::SeaOrm => "sea_orm",
            Driver::Diesel => "diesel",
            Driver::DieselBlocking => "diesel_blocking",
            Driver::DieselR2d2 => "diesel_r2d2",
            Driver::DieselAsync => "diesel_async",
            Driver::DieselDeadpool => "diesel_deadpool",
            Driver::DieselBb8 => "diesel_bb8",
        }
    }

    /// The driver of that name.
    pub fn named(name: &str) -> Option<Driver> {
        Driver::ALL.into_iter().find(|driver| driver.name() == name)
    }
}

/// The tables that the endings use.
pub const TABLES: &str = "create table t (a int); \
     create table many as select repeat('x', 1000) as a from generate_series(1, 20000)";

/// The examples of the page, compiled.
#[cfg(doctest)]
#[doc = include_str!("../../docs/other-drivers.md")]
mod page {}
