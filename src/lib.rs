//! antifreeze
#![allow(dead_code)]
mod clock;
mod config;
mod connect;
mod connection;
mod database;
mod deadline;
mod error;
mod host;
mod invocation;
mod layer;
mod net;
mod observe;
mod pool;
mod teardown;
mod tls;
mod warm_up;
mod wire;

pub use config::{Config, ConnectionLifetime, Path, Reset, Roots, Tls, TlsMode};
pub use database::Database;
pub use deadline::Deadline;
pub use error::{Error, ErrorKind, Result};
#[cfg(feature = "lambda")]
pub use host::event::{EventError, EventFuture};
#[cfg(feature = "vercel")]
pub use host::vercel::VercelFuture;
pub use invocation::{
    CancelToken, Connection, Invocation, IsolationLevel, Savepoint, Transaction,
    TransactionBuilder, connection, invocation, transaction,
};
pub use layer::{Body, DatabaseLayer, DatabaseService, ResponseFuture};
pub use teardown::{Outcome, Step, Teardown};
pub use warm_up::{WarmUp, WarmedUp};
pub use wire::TransactionStatus;

/// What the fuzz targets need.
#[cfg(fuzzing)]
#[doc(hidden)]
pub mod fuzzing {
    pub use crate::wire::{model, replay};
}
