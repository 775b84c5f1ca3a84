//! PgBouncer in front of a throwaway cluster.
//!
//! Its own port of 127.0.0.1, its own directory, its own process, which ends when it
//! is dropped and with the process that started it. As root it runs as the same other
//! user as PostgreSQL does, since it refuses to be root too.
//!
//! ```no_run
//! use lab::pgbouncer::{Mode, PgBouncer};
//! use lab::postgres::Postgres;
//!
//! # async fn example() -> lab::Result<()> {
//! let postgres = Postgres::start().await?;
//! let database = postgres.fresh_database().await?;
//! let pooler = PgBouncer::builder(&postgres)
//!     .mode(Mode::Transaction)
//!     .pool_size(2)
//!     .start()
//!     .await?;
//! println!("psql {}", pooler.url(&database.url));
//! # Ok(())
//! # }
//! ```
//!
//! PgBouncer keeps the servers that it opened: a database cannot be dropped meanwhile.

mod builder;
mod files;
mod program;

use std::{
    fmt,
    net::{Ipv4Addr, SocketAddr},
};

use tempfile::TempDir;

pub use self::builder::{Builder, Mode};
use crate::{
    leash::Leash,
    postgres::Postgres,
    program::{Program, State},
    relay::url::replace_address,
};

/// A running PgBouncer; see the [module](self).
pub struct PgBouncer {
    // Dropped in this order: the files go while the leash still watches over them.
    program: Program,
    _directory: TempDir,
    _leash: Leash,
    port: u16,
    mode: Mode,
    version: String,
}

impl PgBouncer {
    /// A PgBouncer for `postgres`, in transaction mode with 20 servers for each
    /// database and user unless the builder is told otherwise.
    pub fn builder(postgres: &Postgres) -> Builder {
        Builder::new(postgres.port())
    }

    /// The port, on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// 127.0.0.1 and the port.
    pub fn address(&self) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, self.port))
    }

    /// `url`, of a database of the cluster, through the pooler.
    pub fn url(&self, url: &str) -> String {
        replace_address(url, self.address())
    }

    /// Its version: `1.18.0`.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// All that it has logged: who came and went, and what was refused.
    pub fn log(&self) -> String {
        self.program.log()
    }

    /// Whether it still runs.
    pub fn is_running(&self) -> bool {
        !matches!(self.program.state(), State::Ended(_))
    }
}

impl fmt::Debug for PgBouncer {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("PgBouncer")
            .field("version", &self.version)
            .field("mode", &self.mode)
            .field("address", &self.address())
            .finish_non_exhaustive()
    }
}
