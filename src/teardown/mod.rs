//! Brings one connection to rest, and reports what that took.

mod budget;
mod left;
mod report;
mod rest;

pub(crate) use budget::Budget;
pub use report::{Outcome, Step, Teardown};
pub(crate) use rest::{Rested, close};
