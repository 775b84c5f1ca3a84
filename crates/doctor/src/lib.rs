//! What is wrong between a function and its database, step by step.
//!
//! This is what the command `antifreeze doctor` runs. As a library it runs where the
//! function runs, for databases that nobody else can reach: `examples/doctor_lambda.rs`.
//!
//! ```no_run
//! use antifreeze::Config;
//! use antifreeze_doctor::{Options, Verdict, Ways, examine};
//!
//! # async fn main_() -> Result<(), antifreeze::Error> {
//! let ways = Ways::new(Config::from_env()?)?;
//! let report = examine(&ways, &Options::default(), &mut |check| println!("{check}")).await;
//! assert_eq!(report.verdict(), Verdict::Well);
//! # Ok(())
//! # }
//! ```
//!
//! Nothing is changed in the database, and nothing is waited for behind a lock. It opens
//! one session, behind a pooler up to three more, one after the other.

mod activity;
mod examine;
mod facts;
mod near;
mod pooler;
mod reach;
mod region;
mod report;
mod room;
mod server;
mod session;
mod slots;
mod text;
mod timeouts;
mod ways;

use std::time::Duration;

pub use activity::{ServerSession, sessions};
pub use examine::{Options, examine};
pub use report::{Check, Mark, Report, Step, Verdict};
pub use room::{ServerSlots, server_slots};
pub use session::{GOODBYE, open};
pub use text::{duration, plain, seconds};
pub use ways::{Way, Ways};

/// The nearest of `words`, if it is near enough to be what somebody meant.
///
/// ```
/// use antifreeze_doctor::nearest;
///
/// assert_eq!(nearest("partner", ["partners", "users"]), Some("partners"));
/// assert_eq!(nearest("partner", ["orders", "users"]), None);
/// ```
pub fn nearest<'a>(word: &str, words: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    antifreeze::internal::nearest(word, words)
}

/// More than this share of the slots in use is a finding.
const CROWDED: f64 = 0.8;

/// A certificate that ends within this time is a finding: Let's Encrypt's, for one, are
/// renewed 30 days before their end (its documents, "FAQ").
const SOON: Duration = Duration::from_secs(14 * 24 * 60 * 60);

/// The example of this page is compiled with the crate's own.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
mod readme {}
