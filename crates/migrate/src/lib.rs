//! Migrations that cannot take the site down.
//!
//! An `ALTER TABLE` waits for a session that idles in a transaction; every reader queues
//! behind the `ALTER TABLE`; the site is down until somebody finds the session. Here a
//! statement waits for its lock for 2 s at most, gives way, lets the readers through and is
//! tried again, and the report names the session.
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
//! It is for deployments, not for a cold start. Files and history are [refinery]'s; other
//! tools are run [`Around`] their own. `docs/migrations.md` says the rest.
//!
//! [refinery]: https://docs.rs/refinery

mod apply;
mod around;
mod directory;
mod error;
mod event;
mod expected;
mod failed;
mod files;
mod held;
mod history;
mod index;
mod limits;
mod lint;
mod lock;
mod options;
mod report;
mod run;
mod script;
mod session;
mod settings;
#[doc(hidden)]
pub mod split;
mod tool;
mod watch;

pub use around::Around;
pub use error::{Error, Kind, Result};
pub use event::{Applied, Blocked, Event, Session};

pub use files::Migrations;
pub use history::{State, Status};
pub use lint::{Finding, Rule};
pub use report::Report;
pub use run::Runner;

/// The example of this page is compiled with the crate's own.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
mod readme {}
