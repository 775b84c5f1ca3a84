//! Diagnoses the connection between a function and its database, step by step.
//!
//! The command `antifreeze doctor` runs this library. Use the library directly where only
//! the function can reach the database, for example inside a VPC:
//! `examples/doctor_lambda.rs`. Health checks (`antifreeze::health`) say whether one
//! function can serve requests now; this crate says why it cannot and what to change.
//!
//! ```no_run
//! use antifreeze::Config;
//! use antifreeze_doctor::{Options, Routes, Verdict, examine};
//!
//! # async fn main_() -> Result<(), antifreeze::Error> {
//! let routes = Routes::new(Config::from_env()?)?;
//! let report = examine(&routes, &Options::default(), &mut |check| println!("{check}")).await;
//! assert_eq!(report.verdict(), Verdict::Ok);
//! # Ok(())
//! # }
//! ```
//!
//! The examination changes nothing in the database, and waits for no lock longer than 500 ms. It opens one
//! session; behind a pooler, up to four more, one after the other.

mod activity;
mod configuration;
mod connect;
mod database_name;
mod examine;
mod facts;
mod locks;
mod maintenance;
mod overview;
mod pooler;
mod redact;
mod region;
mod report;
mod routes;
mod sequences;
mod server;
mod server_slots;
mod session;
mod slots;
mod text;
mod timeouts;

use std::time::Duration;

pub use activity::{ServerSession, sessions};
pub use examine::{Options, examine};
pub use overview::{Overview, PreparedTransaction, overview};
pub use report::{Check, Report, Status, Step, Verdict};
pub use routes::{Route, Routes};
pub use server_slots::{ServerSlots, server_slots};
pub use session::{CLOSE_TIMEOUT, open};
pub use text::{format_seconds, parse_duration, printable};

/// Returns the one of `words` that `word` is most likely a misspelling of, if any.
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

/// The share of connection slots in use above which the doctor reports a finding.
const CROWDED: f64 = 0.8;

/// The remaining validity of a certificate below which the doctor reports a finding. Let's
/// Encrypt's certificates, for example, are renewed 30 days before they expire (its
/// documents, "FAQ").
const EXPIRES_SOON: Duration = Duration::from_secs(14 * 24 * 60 * 60);

/// Compiles the example of the README with the doc tests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
mod readme {}
