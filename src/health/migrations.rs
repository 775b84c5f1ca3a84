//! Pending migrations in the health report.
//!
//! It is what a deployment forgot, or what it is about to do: it is told, and decides
//! nothing.

use std::future::Future;
use std::pin::Pin;

use serde::Serialize;
use tokio_postgres::Client;

/// As many names are told.
const MOST: usize = 50;

/// Migrations that were not run, of those that
/// [`Database::expect_migrations`](crate::Database::expect_migrations) was told of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Pending {
    /// How many; `None` if they could not be looked for.
    pub pending: Option<usize>,
    /// The names of the first fifty: `V2__add_column`.
    pub names: Option<Vec<String>>,
    /// Why it is unknown, and the GRANT that makes it known.
    pub unknown: Option<String>,
}

impl Pending {
    /// Those of these names.
    pub fn named(mut names: Vec<String>) -> Self {
        let pending = Some(names.len());
        names.truncate(MOST);
        Pending {
            pending,
            names: Some(names),
            unknown: None,
        }
    }

    /// Unknown, for this reason.
    pub fn unknown(why: impl Into<String>) -> Self {
        Pending {
            pending: None,
            names: None,
            unknown: Some(why.into()),
        }
    }
}

/// What [`ExpectedMigrations::pending`] returns.
pub type PendingFuture<'a> = Pin<Box<dyn Future<Output = Pending> + Send + 'a>>;

/// Migrations that a database is expected to have seen. `antifreeze_migrate::Migrations`
/// are; those of another tool can be.
pub trait ExpectedMigrations: Send + Sync {
    /// Looks which of them were not run. It must change nothing, and wait for no lock for
    /// longer than a moment.
    fn pending<'a>(&'a self, client: &'a Client) -> PendingFuture<'a>;
}
