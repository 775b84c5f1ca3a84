//! Migrations that the database still waits for.
//!
//! It is what a deployment forgot, or what it is about to do: it is told, and decides
//! nothing. Without the feature `migrate` nobody can say where they are.

use serde::Serialize;
use tokio_postgres::Client;

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

/// Those that there should be.
#[derive(Default)]
pub(super) struct Expected {
    #[cfg(feature = "migrate")]
    migrations: std::sync::OnceLock<crate::migrate::Migrations>,
}

impl Expected {
    #[cfg(not(feature = "migrate"))]
    pub(super) async fn pending(&self, _: &Client) -> Option<Pending> {
        None
    }
}

#[cfg(feature = "migrate")]
mod told {
    use super::{Client, Expected, Pending};
    use crate::database::Database;
    use crate::migrate::{Migrations, Standing};

    /// As many names are told.
    const MOST: usize = 50;

    impl Expected {
        /// Asks what became of them, if there are any. That it cannot be known is no failure.
        pub(in crate::health) async fn pending(&self, client: &Client) -> Option<Pending> {
            let unknown = |why: String| Pending {
                pending: None,
                names: None,
                unknown: Some(why),
            };
            Some(match self.migrations.get()?.standing(client).await {
                Ok(Standing::Pending(mut names)) => {
                    let pending = Some(names.len());
                    names.truncate(MOST);
                    Pending {
                        pending,
                        names: Some(names),
                        unknown: None,
                    }
                }
                Ok(Standing::Hidden(why)) => unknown(why),
                Err(error) => unknown(error.to_string()),
            })
        }
    }

    impl Database {
        /// Has the [health report](Database::health) say which of `migrations` were not run
        /// on this database. Feature `migrate`. It can be said once.
        ///
        /// It takes one more round trip for each reading, or two, and is told under
        /// `server.migrations`; the status does not depend on it. Where the function's role
        /// may not see the history, that is told with the GRANT to run.
        ///
        /// ```no_run
        /// # async fn main_() -> Result<(), Box<dyn std::error::Error>> {
        /// use antifreeze::Database;
        /// use antifreeze::migrate::Migrations;
        ///
        /// let database = Database::from_env()?.expect_migrations(Migrations::from_dir("migrations")?);
        /// let server = database.health().await.server;
        /// let migrations = server.and_then(|server| server.migrations);
        /// println!("{:?}", migrations.and_then(|migrations| migrations.names));
        /// # Ok(())
        /// # }
        /// ```
        pub fn expect_migrations(self, migrations: Migrations) -> Self {
            let _ = self.monitor().expected().migrations.set(migrations);
            self
        }
    }
}
