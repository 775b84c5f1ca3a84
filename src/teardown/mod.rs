//! Brings one connection to rest, and reports what that took.

mod budget;
mod left;
mod remedy;
mod report;
mod rest;
mod steps;

pub(crate) use budget::Budget;
pub use budget::be_patient;
pub use report::{Outcome, Step, Teardown};
pub(crate) use rest::close;
pub(crate) use steps::Rested;
