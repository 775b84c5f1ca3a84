//! Reports the health of the server and of this process's pool.
//!
//! ```no_run
//! # use tower_layer::Layer;
//! # fn main_(handler: ()) -> Result<(), antifreeze::Error> {
//! let database = antifreeze::Database::from_env()?;
//! let layer = antifreeze::DatabaseLayer::new(database).health_check("/health/db");
//! let service = layer.layer(handler);
//! # Ok(())
//! # }
//! ```
//!
//! There are three ways to get the report:
//!
//! - [`DatabaseLayer::health_check`](crate::DatabaseLayer::health_check), on every host
//!   whose requests are HTTP;
//! - [`HealthService`](crate::layer::HealthService), a tower service of its own, which an axum
//!   router takes with `route_service`;
//! - [`Database::health`](crate::Database::health), for a response of your own.
//!
//! # The response
//!
//! `{"status":"ok"}`, to every caller; the details ([`Health`]) to a caller that presents
//! [`Config::health_token`](crate::Config::health_token), the operator's
//! `ANTIFREEZE_HEALTH_TOKEN`, as `Authorization: Bearer ..`. The HTTP status follows the
//! server: 503 when it cannot be reached, or when more of its slots are taken than
//! [`Config::high_water_mark`](crate::Config::high_water_mark) says (where a connection
//! takes a slot), so that a load balancer sheds load before the server fails. What this process's
//! own pool does is reported and does not change the status: a pool of one is full whenever it works.
//!
//! [`Database::expect_migrations`](crate::Database::expect_migrations) makes it name the migrations that
//! were not run yet.
//!
//! # What it costs
//!
//! The server is read at most once in 5 s; concurrent callers share one reading. A reading is
//! an invocation of its own with a deadline of 2 s, and takes a connection through the pool.
//! It never queues behind requests: while all connections are checked out, or the
//! circuit breaker is open and its next try is not due, the last reading is reported with
//! its age.

mod figures;
mod migrations;
mod monitor;
mod report;
mod token;
mod verdict;

pub use crate::config::SettingsReport;
pub use crate::limit::Slots;
pub use migrations::{ExpectedMigrations, PendingFuture, PendingMigrations};
pub(crate) use monitor::Monitor;
pub use report::{Circuit, Health, Process, Reachability, Server, Status};
