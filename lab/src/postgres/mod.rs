//! A throwaway PostgreSQL cluster.
//!
//! [`Postgres::start`] makes a cluster in a temporary directory (in memory, where
//! there is room) within a second, on a free port of 127.0.0.1; dropping it stops
//! the server and removes the directory. So does the death of the process that owns
//! it, however sudden: a tiny shell waits for that, and cleans up.
//!
//! ```no_run
//! use lab::postgres::{Auth, Installation, Postgres};
//!
//! # async fn example() -> lab::Result<()> {
//! let postgres = Postgres::builder()
//!     .installation(Installation::embedded("17")?)
//!     .setting("max_connections", 25)
//!     .tls(true)
//!     .auth(Auth::Scram)
//!     .start()
//!     .await?;
//! let database = postgres.create_database("shop").await?;
//! database.execute("create table partners (name text)").await?;
//! println!("psql {}", database.url);
//! postgres.stop().await?;
//! # Ok(())
//! # }
//! ```

mod administration;
mod builder;
mod cluster;
mod embedded;
mod installation;
mod server;
pub(crate) mod user;

use std::{
    fmt,
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use tokio::sync::OnceCell;

use self::{administration::Access, cluster::Cluster};
pub use self::{
    administration::Rows,
    builder::{Auth, Builder},
    installation::Installation,
};
use crate::{Result, background::blocking};

/// Who owns the cluster, in the database.
const SUPERUSER: &str = "postgres";
/// The database that is there before any other.
const ADMINISTRATION: &str = "postgres";
const PASSWORD: &str = "lab";

/// A running cluster; see the [module](self).
pub struct Postgres {
    cluster: Arc<Cluster>,
    databases: AtomicU64,
}

impl Postgres {
    /// The password of every role that the lab makes.
    pub const PASSWORD: &str = PASSWORD;

    /// A cluster other than the usual one.
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// Starts a cluster without TLS that trusts everybody.
    ///
    /// # Errors
    /// Those of [`Builder::start`].
    pub async fn start() -> Result<Self> {
        Self::builder().start().await
    }

    /// One cluster for all the tests of this process, started by the first that
    /// asks; each takes its own [`fresh_database`](Postgres::fresh_database). It
    /// does not belong to the tokio runtime that happened to start it.
    ///
    /// # Errors
    /// Those of [`Builder::start`].
    pub async fn shared() -> Result<&'static Self> {
        static SHARED: OnceCell<Postgres> = OnceCell::const_new();
        SHARED.get_or_try_init(Self::start).await
    }

    fn new(cluster: Cluster) -> Self {
        Self {
            cluster: Arc::new(cluster),
            databases: AtomicU64::new(0),
        }
    }

    /// Which server it is.
    pub fn installation(&self) -> &Installation {
        &self.cluster.installation
    }

    /// The port, on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.cluster.port
    }

    /// 127.0.0.1 and the port.
    pub fn address(&self) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, self.port()))
    }

    /// The URL of the superuser and the database `postgres`. It says nothing about
    /// TLS: clients differ in what they understand.
    pub fn url(&self) -> String {
        self.url_for(SUPERUSER, ADMINISTRATION)
    }

    /// The URL for a role and a database, which need not exist; with
    /// [`PASSWORD`](Postgres::PASSWORD) if the cluster asks for one.
    pub fn url_for(&self, user: &str, database: &str) -> String {
        self.cluster.access().url_for(user, database)
    }

    /// All that the server has logged: a line starts with the time, the pid in
    /// brackets, and the application's name.
    pub fn log(&self) -> String {
        self.cluster.log()
    }

    /// The file with the authority that signed the server's certificate, if it has
    /// one (libpq's `sslrootcert`).
    pub fn certificate_authority(&self) -> Option<&Path> {
        self.cluster.authority.as_deref()
    }

    /// The directory that holds everything, the unix socket among it.
    pub fn directory(&self) -> &Path {
        self.cluster.base()
    }

    /// Makes a database.
    ///
    /// # Errors
    /// When there is one of that name.
    pub async fn create_database(&self, name: &str) -> Result<Database> {
        // template0 has no visitors, who would be in the way; to copy its files is the
        // quickest where the files are not synced.
        let strategy = if self.installation().major() >= 15 {
            "strategy file_copy"
        } else {
            ""
        };
        let name_in_sql = quote(name);
        self.execute(&format!(
            "create database {name_in_sql} template template0 {strategy}"
        ))
        .await?;
        Ok(Database {
            url: self.url_for(SUPERUSER, name),
            name: name.to_owned(),
            access: self.cluster.access(),
        })
    }

    /// Makes a database with a name of its own.
    ///
    /// # Errors
    /// When the server is down.
    pub async fn fresh_database(&self) -> Result<Database> {
        let number = self.databases.fetch_add(1, Ordering::Relaxed) + 1;
        self.create_database(&format!("fresh_{number}")).await
    }

    /// Makes a role that may log in and is no superuser: the last slots of
    /// `max_connections`, for example, are not for it.
    ///
    /// # Errors
    /// When there is one of that name.
    pub async fn create_role(&self, name: &str) -> Result<()> {
        let role = quote(name);
        self.execute(&format!("create role {role} login password '{PASSWORD}'"))
            .await
    }

    /// Runs statements as superuser in the database `postgres`, over the unix
    /// socket: no TLS, no password, no relay, and a slot that is kept for superusers.
    ///
    /// # Errors
    /// The server's, as the source.
    pub async fn execute(&self, sql: &str) -> Result<()> {
        self.query(sql).await.map(drop)
    }

    /// Like [`execute`](Postgres::execute), and returns the rows.
    ///
    /// # Errors
    /// The server's, as the source.
    pub async fn query(&self, sql: &str) -> Result<Rows> {
        self.cluster.access().run(ADMINISTRATION, sql).await
    }

    /// Stops the server in fast mode and starts it on the same port.
    ///
    /// # Errors
    /// When it does not stop or does not start.
    pub async fn restart(&self) -> Result<()> {
        self.work(|cluster| {
            cluster.halt(true)?;
            cluster.launch()
        })
        .await
    }

    /// Stops the server in fast mode and leaves it down, its data in place, until
    /// [`restart`](Postgres::restart).
    ///
    /// # Errors
    /// When it does not stop.
    pub async fn halt(&self) -> Result<()> {
        self.work(|cluster| cluster.halt(true)).await
    }

    /// Ends the server as a crash would (immediate mode: no goodbye to clients),
    /// and leaves it down until [`restart`](Postgres::restart).
    ///
    /// # Errors
    /// When it does not end.
    pub async fn kill_hard(&self) -> Result<()> {
        self.work(|cluster| cluster.halt(false)).await
    }

    /// Stops the server, removes everything, and waits until that is done.
    /// Dropping does the same, and blocks meanwhile.
    ///
    /// # Errors
    /// When the server does not stop.
    pub async fn stop(self) -> Result<()> {
        blocking(move || {
            let result = self.cluster.halt(true);
            drop(self);
            result
        })
        .await
    }

    async fn work(&self, work: impl FnOnce(&Cluster) -> Result<()> + Send + 'static) -> Result<()> {
        let cluster = self.cluster.clone();
        blocking(move || work(&cluster)).await
    }
}

impl fmt::Debug for Postgres {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Postgres")
            .field("version", &self.installation().version())
            .field("address", &self.address())
            .finish_non_exhaustive()
    }
}

/// A database in a cluster, which lasts as long as the cluster, unless it is
/// [discarded](Database::discard) before.
#[derive(Clone)]
pub struct Database {
    /// Its URL, as superuser over TCP.
    pub url: String,
    /// Its name.
    pub name: String,
    access: Access,
}

impl Database {
    /// The URL for another role.
    pub fn url_for(&self, user: &str) -> String {
        self.access.url_for(user, &self.name)
    }

    /// Runs statements as superuser; see [`Postgres::execute`].
    ///
    /// # Errors
    /// The server's, as the source.
    pub async fn execute(&self, sql: &str) -> Result<()> {
        self.query(sql).await.map(drop)
    }

    /// Runs statements as superuser and returns the rows; see [`Postgres::execute`].
    ///
    /// # Errors
    /// The server's, as the source.
    pub async fn query(&self, sql: &str) -> Result<Rows> {
        self.access.run(&self.name, sql).await
    }

    /// Drops the database with all that is in it (seven megabytes at least, which may
    /// be memory), and ends the sessions that somebody still has there, whatever they
    /// are doing. PostgreSQL 13 or later.
    ///
    /// # Errors
    /// The server's, as the source.
    pub async fn discard(self) -> Result<()> {
        let name = quote(&self.name);
        let drop_database = format!("drop database {name} with (force)");
        self.access
            .run(ADMINISTRATION, &drop_database)
            .await
            .map(drop)
    }
}

impl fmt::Debug for Database {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Database")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

/// A name as SQL writes it.
fn quote(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}
