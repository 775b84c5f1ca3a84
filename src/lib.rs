//! A tower layer that lets a serverless function use PostgreSQL safely.
//!
//! A serverless host freezes the process once the response is out, and whatever a
//! database connection was doing stays as it was: a transaction left open keeps its
//! locks until the session is ended. This crate makes one promise:
//!
//! > When a response leaves an invocation, every database connection it used is idle
//! > outside any transaction, acknowledged by the server, or closed (and ended by the
//! > server's own timeouts if it did not confirm in time); at no cost in round trips
//! > when there was nothing to clean up.
//!
//! [`DatabaseLayer`] lists what it requires of the function.
//!
//! ```no_run
//! # #[cfg(feature = "lambda")] mod function {
//! use lambda_http::{Body, Error, Request, Response};
//!
//! #[tokio::main]
//! async fn main() -> Result<(), Error> {
//!     lambda_http::tracing::init_default_subscriber(); // the log; JSON if the function says so
//!     let database = antifreeze::Database::from_env()?; // DATABASE_URL
//!     database.warm_up().await?;
//!     let service = tower::ServiceBuilder::new()
//!         .layer(antifreeze::DatabaseLayer::new(database))
//!         .service_fn(create_partner);
//!     lambda_http::run(service).await
//! }
//!
//! async fn create_partner(_: Request) -> Result<Response<Body>, Error> {
//!     let mut connection = antifreeze::connection().await?;
//!     let transaction = connection.transaction().await?; // tokio_postgres's own type
//!     transaction.execute("insert into partners (name) values ($1)", &[&"acme"]).await?;
//!     transaction.commit().await?;
//!     Ok(Response::new(Body::Empty))
//! }
//! # }
//! ```
//!
//! # Where to look
//!
//! The guide: [connections and transactions](guide::basics), [AWS Lambda](guide::lambda),
//! [Vercel](guide::vercel), [sqlx, SeaORM and Diesel](guide::other_drivers).
//!
//! | for | see |
//! | --- | --- |
//! | mounting it: `lambda_http`, Lambda events, axum, Vercel, any tower service | [`DatabaseLayer`] |
//! | a connection: a [`tokio_postgres::Client`] that is brought to rest | [`connection()`], [`Connection`] |
//! | sqlx, SeaORM, Diesel and every other driver | [`Database::url`], [`Invocation::url`], [`Invocation::transaction_url`], [`sqlx_hooks!`], [`claim()`] |
//! | a transaction that the response decides | [`transaction()`], [`Transaction`] |
//! | a transaction that is retried after a serialization failure | [`retry_transaction()`], [`Connection::retry_transaction`] |
//! | tasks, clean-ups, streaming | [`Invocation`] |
//! | the same without a host: tests, jobs, `main` | [`Database::invocation`] |
//! | settings, and whether connections outlive an invocation | [`Config`], [`ConnectionLifetime`](config::ConnectionLifetime) |
//! | passwords that rotate, tokens | [`credentials`] |
//! | migrations that do not stop the traffic | the crate `antifreeze-migrate` |
//! | the end of the process, SnapStart | [`shutdown`], [`Database::close`] |
//! | the state of the server and of the pool, for a load balancer and for people | [`health`] |
//! | what happened | [`Teardown`](teardown::Teardown), [`Database::on_teardown`], `tracing` spans and events with the target `antifreeze`, metrics (feature `metrics`); where no subscriber is set, warnings and errors go to stderr |
//!
//! # Tasks and blocking work
//!
//! A task that still holds a [`Connection`] when the handler is done, on the runtime
//! or in `spawn_blocking`, loses it: its statement is cancelled, its transaction rolled back, and later
//! requests on the connection fail with an error that says so ([`Error::is_invocation_ended`]).
//! Await such work before the handler returns, or start it with [`Invocation::spawn`], which
//! aborts it in time. This crate does not see the drivers of other stores: join their threads, or
//! close them in [`Invocation::defer`].
//!
//! # Work after the response
//!
//! An invocation ends with its response: a later use of it fails with
//! [`InvocationEnded`](ErrorKind::InvocationEnded). A task that continues begins an invocation of
//! its own, with [`Database::invocation`]. That works in a server that keeps running. Lambda
//! freezes the process after the response, and the task with it, perhaps in the middle of a
//! transaction: do the work before the response, or put it into a queue. On Vercel, use
//! `AppState::wait_until`.
//!
//! # Features
//!
//! None is on by default, and the core needs none.
//!
//! | feature | brings |
//! | --- | --- |
//! | `lambda` | Lambda events, and the deadline of a request, under axum too; see [`DatabaseLayer::max_duration`] |
//! | `vercel` | `(AppState, Request)`; it needs Rust 1.88, as `vercel_runtime` does |
//! | `axum` | the extractors [`Connection`], [`Transaction`] and [`Invocation`] |
//! | `metrics` | metrics of pool, teardown and load shedding, by the facade of the crate `metrics` |
//! | `test` | `testing`: a database for each test, and whether a handler leaves nothing open |
//!
//! Companion crates:
//!
//! | crate | contains |
//! | --- | --- |
//! | `antifreeze-aws` | IAM tokens for RDS, Aurora and Aurora DSQL; Secrets Manager |
//! | `antifreeze-migrate` | migrations that cannot take the site down |
//! | `antifreeze-doctor` | the checks between a function and its database, as a library |
//! | `antifreeze-cli` | the command `antifreeze` |

// docs.rs says with each item which feature brings it; it has a compiler that can.
#![cfg_attr(docsrs, feature(doc_cfg))]

mod backoff;
mod bridge;
mod clock;
pub mod config;
mod connect;
mod connection;
pub mod credentials;
mod database;
mod deadline;
mod engine;
mod error;
pub mod health;
pub mod host;
#[doc(hidden)]
pub mod internal;
pub mod invocation;
mod kind;
pub mod layer;
mod lifecycle;
mod limit;
mod lock;
mod net;
mod observe;
mod pool;
mod provider;
mod random;
mod session;
mod tally;
pub mod teardown;
#[cfg(feature = "test")]
pub mod testing;
mod tls;
mod wire;

pub use tokio_postgres;

pub use bridge::claim;
pub use config::Config;
pub use database::Database;
pub use deadline::Deadline;
pub use error::{Error, ErrorKind, Result};
pub use invocation::{
    Connection, Invocation, Transaction, connection, invocation, retry_transaction, transaction,
};
pub use layer::DatabaseLayer;
pub use session::Session;

/// Closes every connection at the end of the process, acknowledged by the server.
///
/// One line for each host, before the function starts to serve:
///
/// | host | line |
/// | --- | --- |
/// | Lambda | `antifreeze::shutdown::on_lambda(&database).await?` (feature `lambda`) |
/// | Vercel | `antifreeze::shutdown::around(&database, run(service)).await` |
/// | a plain server | `.with_graceful_shutdown(antifreeze::shutdown::signal(&database))` |
/// | Lambda with SnapStart | `.register_snapstart_resource(antifreeze::shutdown::snapstart(&database))` (feature `lambda`) |
/// | anything else | `database.close().await` |
///
/// ```
/// # async fn main_() -> Result<(), antifreeze::Error> {
/// let database = antifreeze::Database::from_env()?;
/// // ... and at the end:
/// let closed = database.close().await;
/// assert_eq!(closed.acknowledged, closed.closed);
/// # Ok(())
/// # }
/// ```
pub mod shutdown {
    #[cfg(feature = "lambda")]
    pub use crate::host::lambda::{on_lambda, snapstart};
    pub use crate::host::signal::{around, signal};
    pub use crate::lifecycle::{Close, Closed};
}

/// Connects before the first event.
pub mod warm_up {
    pub use crate::lifecycle::{WarmUp, WarmedUp};
}

#[cfg(doc)]
#[path = "../docs/guide.rs"]
pub mod guide;

/// The examples of these pages are compiled with the crate's own.
#[cfg(all(
    doctest,
    feature = "lambda",
    feature = "vercel",
    feature = "axum",
    feature = "test"
))]
mod pages {
    #[doc = include_str!("../README.md")]
    mod readme {}
    #[doc = include_str!("../docs/configuration.md")]
    mod configuration {}
    #[doc = include_str!("../docs/health.md")]
    mod health {}
    #[doc = include_str!("../docs/observability.md")]
    mod observability {}
}

#[cfg(doctest)]
#[doc = include_str!("../docs/migrations.md")]
mod migrations_page {}

#[cfg(doctest)]
mod providers {
    #[doc = include_str!("../docs/providers/aiven.md")]
    mod aiven {}
    #[doc = include_str!("../docs/providers/dsql.md")]
    mod dsql {}
    #[doc = include_str!("../docs/providers/neon.md")]
    mod neon {}
    #[doc = include_str!("../docs/providers/pgbouncer.md")]
    mod pgbouncer {}
    #[doc = include_str!("../docs/providers/rds-proxy.md")]
    mod rds_proxy {}
    #[doc = include_str!("../docs/providers/rds.md")]
    mod rds {}
    #[doc = include_str!("../docs/providers/supabase.md")]
    mod supabase {}
}
