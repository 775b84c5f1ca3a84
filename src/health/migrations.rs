//! Adds pending migrations to the health report.
//!
//! A deployment has forgotten them or is about to run them: they do not change the status.

use std::future::Future;
use std::pin::Pin;

use serde::{Deserialize, Serialize};
use tokio_postgres::Client;

/// The maximum number of names in the report.
const MAX_NAMES: usize = 50;

/// The migrations passed to
/// [`Database::expect_migrations`](crate::Database::expect_migrations) that were not run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct PendingMigrations {
    /// Their number; `None` if unknown.
    pub pending: Option<usize>,
    /// The names of the first fifty: `V2__add_column`.
    pub names: Option<Vec<String>>,
    /// Why the number is unknown, and the GRANT that makes it known.
    pub unknown: Option<String>,
}

impl PendingMigrations {
    /// Reports pending migrations by name.
    pub fn named(mut names: Vec<String>) -> Self {
        let pending = Some(names.len());
        names.truncate(MAX_NAMES);
        PendingMigrations {
            pending,
            names: Some(names),
            unknown: None,
        }
    }

    /// Reports why the pending migrations are unknown.
    pub fn unknown(why: impl Into<String>) -> Self {
        PendingMigrations {
            pending: None,
            names: None,
            unknown: Some(why.into()),
        }
    }
}

/// The future that [`ExpectedMigrations::pending`] returns.
pub type PendingFuture<'a> = Pin<Box<dyn Future<Output = PendingMigrations> + Send + 'a>>;

/// Migrations that are expected to have run on a database. `antifreeze_migrate::Migrations`
/// implements it; the migrations of another tool can do so too.
pub trait ExpectedMigrations: Send + Sync {
    /// Finds those that were not run. It must change nothing, and must not wait long for a lock.
    fn pending<'a>(&'a self, client: &'a Client) -> PendingFuture<'a>;
}
