//! Runs PostgreSQL migrations without blocking traffic.
//!
//! An `ALTER TABLE` that waits for a session which is idle in a transaction blocks every
//! reader that queues behind it, until the session ends. This crate limits the wait for a
//! lock to 2 s, cancels the statement, lets the readers through and retries. The report names
//! the blocking session.
//!
//! ```no_run
//! use antifreeze_migrate::Migrations;
//!
//! # async fn deploy() -> Result<(), Box<dyn std::error::Error>> {
//! let database = antifreeze::Database::from_env()?;
//! let report = Migrations::from_dir("migrations")?
//!     .runner(&database)
//!     .on_event(|event| println!("{event}"))
//!     .run()
//!     .await?;
//! # Ok(())
//! # }
//! ```
//!
//! Run migrations during a deployment, not during a cold start. File names and history are
//! those of [refinery]; in contrast to refinery, a [`Runner`] sets timeouts, retries, and
//! allows one runner at a time. [`ToolRunner`] does the same for other tools. Details:
//! `docs/migrations.md`.
//!
//! [refinery]: https://docs.rs/refinery

mod apply;
mod directory;
mod endpoint;
mod error;
mod event;
mod files;
mod history;
mod index;
mod limits;
mod lint;
mod lock;
mod locked;
mod monitor;
mod options;
mod pending;
mod report;
mod run_settings;
mod runner;
mod script;
mod session;
#[doc(hidden)]
pub mod split;
mod statement_error;
mod tool_process;
mod tool_runner;

pub use error::{Error, ErrorKind, Result};
pub use event::{Applied, Blocked, Event, ServerSession};
pub use tool_runner::ToolRunner;

pub use files::Migrations;
pub use history::{State, Status};
pub use lint::{Finding, Rule};
pub use report::Report;
pub use runner::Runner;

/// Compiles the example of the README with the doc tests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
mod readme {}
