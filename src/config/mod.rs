//! How a database is reached and how its connections are kept.

mod environment;
mod tls;
mod url;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;

pub(crate) use environment::Environment;
pub(crate) use tls::Method;
pub use tls::{ChannelBinding, ClientCertificate, Pem, RequireAuth, Roots, Tls, TlsMode};

use crate::credentials::Credentials;
use crate::error::Result;

/// Everything that a [`Database`](crate::Database) needs to know.
///
/// Made from a URL or from the environment, then changed field by field:
///
/// ```
/// use antifreeze::{Config, ConnectionLifetime, Database};
///
/// let mut config = Config::from_url("postgres://app@localhost/shop?sslmode=disable")?;
/// config.max_connections = 4;
/// config.lifetime = ConnectionLifetime::PerInvocation;
/// let database = Database::new(config)?;
/// # Ok::<(), antifreeze::Error>(())
/// ```
///
/// Its `Debug` shows neither password nor client keys.
#[derive(Clone)]
#[non_exhaustive]
pub struct Config {
    /// Where the server is and who we are: hosts, ports, user, password, database,
    /// `application_name`, `options`, keepalives. What it says of TLS and time-outs,
    /// `target_session_attrs` and `load_balance_hosts` is not used.
    pub server: tokio_postgres::Config,
    /// Who is asked for the password at every connect, instead of what `server` says.
    /// Default: nobody. [`credentials`](crate::credentials) has what there is.
    pub credentials: Option<Arc<dyn Credentials>>,
    /// How the connection is encrypted and whom it trusts.
    pub tls: Tls,
    /// What lies between us and the server. Default: [`Path::Direct`]. Setting the
    /// field alone leaves `lifetime` as it is: [`set_path`](Config::set_path) does both.
    pub path: Path,
    /// How long a connection lives. Default: what the path calls for.
    pub lifetime: ConnectionLifetime,
    /// What removes session state before a connection is kept.
    pub reset: Reset,
    /// The most connections that a tokio runtime of this process has at a time.
    /// Default: 1 on Lambda, the concurrency on Lambda Managed Instances, else 3.
    pub max_connections: usize,
    /// The most connections that are kept between invocations, with
    /// [`PerEventLoop`](ConnectionLifetime::PerEventLoop). Default: `None`, all of
    /// them.
    pub max_idle: Option<usize>,
    /// A connection older than this is not kept. Default: 30 minutes.
    pub max_age: Duration,
    /// How long to wait for a connection that others have. Default: 5 s.
    pub acquire_timeout: Duration,
    /// How long connecting may take. Default: 10 s.
    pub connect_timeout: Duration,
    /// The server's `statement_timeout`, in whole milliseconds. Default: 30 s. Zero: the
    /// server's own. It is sent on [`Path::Direct`] alone, since poolers refuse it:
    /// behind one, use `ALTER ROLE .. SET`.
    pub statement_timeout: Duration,
    /// The server's `idle_in_transaction_session_timeout`, which ends what no
    /// teardown could: the process was killed, the network is gone. Default: 60 s.
    /// Zero: the server's own. Sent as `statement_timeout` is.
    pub idle_in_transaction_timeout: Duration,
    /// How many statements [`prepare_cached`](crate::Connection::prepare_cached)
    /// keeps for each connection, the least recently used out first. Default: 100.
    pub statement_cache: usize,
}

/// How long a connection lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ConnectionLifetime {
    /// Opened when an invocation first asks for it, closed before its response
    /// leaves (SQLAlchemy calls it a `NullPool`). A frozen process holds no slot of
    /// the server; each invocation pays for connecting.
    PerInvocation,
    /// Kept between invocations, for the tokio runtime that drives it.
    PerEventLoop,
}

/// What removes session state (`SET`, `LISTEN`, session locks, temporary tables)
/// before a connection is kept. It costs one round trip when it runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Reset {
    /// When the wire saw a statement that leaves some. State that a function of
    /// the server sets out of sight is not seen.
    #[default]
    Detected,
    /// After every invocation.
    Always,
    /// Not at all: the next invocation meets what the last one left.
    Never,
}

/// What lies between us and the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Path {
    /// Nothing.
    #[default]
    Direct,
    /// A pooler that gives out a server for one transaction at a time (PgBouncer,
    /// Neon's pooled host, Supavisor on 6543): named statements are sent unnamed,
    /// no settings at start-up, no session state.
    TransactionPooler,
    /// A pooler that gives out a server for as long as the client stays.
    SessionPooler,
    /// Amazon RDS Proxy: no settings at start-up, and no CancelRequest.
    RdsProxy,
}

impl Config {
    /// Reads a URL (`postgres://user:password@host:port/database?..`) or a libpq
    /// keyword string (`host=.. user=..`).
    ///
    /// A host that is not local is verified in full unless the URL says otherwise
    /// (`sslmode`, `sslrootcert`, `sslnegotiation`).
    ///
    /// # Errors
    ///
    /// Says what it could not understand, without repeating the password.
    pub fn from_url(url: &str) -> Result<Self> {
        Config::from_url_in(url, &Environment::of_process())
    }

    /// Reads `DATABASE_URL`, or else `POSTGRES_URL`.
    ///
    /// # Errors
    ///
    /// Neither is set, or what is set cannot be understood.
    pub fn from_env() -> Result<Self> {
        Config::from_environment(&Environment::of_process())
    }

    pub(crate) fn from_environment(environment: &Environment) -> Result<Self> {
        let (name, url) = environment.url()?;
        Config::from_url_in(&url, environment)
            .map_err(|error| crate::Error::configuration(format!("{name}: {error}")))
    }

    fn from_url_in(url: &str, environment: &Environment) -> Result<Self> {
        let (server, tls) = url::parse(url)?;
        Ok(Config {
            server,
            credentials: None,
            tls,
            path: Path::default(),
            lifetime: ConnectionLifetime::PerEventLoop,
            reset: Reset::default(),
            max_connections: environment.concurrency(),
            max_idle: None,
            max_age: Duration::from_secs(30 * 60),
            acquire_timeout: Duration::from_secs(5),
            connect_timeout: Duration::from_secs(10),
            statement_timeout: Duration::from_secs(30),
            idle_in_transaction_timeout: Duration::from_secs(60),
            statement_cache: 100,
        })
    }

    /// Has `credentials` asked for the password at every connect.
    pub fn set_credentials(&mut self, credentials: impl Credentials + 'static) -> &mut Self {
        self.credentials = Some(Arc::new(credentials));
        self
    }

    /// Sets the path, and with it the lifetime that it calls for.
    pub fn set_path(&mut self, path: Path) -> &mut Self {
        self.path = path;
        self.lifetime = path.lifetime();
        self
    }

    /// How many connections may stay open between invocations.
    pub(crate) fn idle_limit(&self) -> usize {
        let size = self.max_connections;
        match self.lifetime {
            ConnectionLifetime::PerInvocation => 0,
            ConnectionLifetime::PerEventLoop => self.max_idle.map_or(size, |idle| idle.min(size)),
        }
    }

    pub(crate) fn check(&self) -> Result<()> {
        let most = Semaphore::MAX_PERMITS;
        if !(1..=most).contains(&self.max_connections) {
            return Err(crate::Error::configuration(format!(
                "max_connections is {}: it takes at least 1 and at most {most}",
                self.max_connections
            )));
        }
        for (name, value) in self.server_timeouts() {
            if milliseconds(value).is_none() {
                return Err(crate::Error::configuration(format!(
                    "{name} is {value:?}: the server takes at most {} ms",
                    i32::MAX
                )));
            }
        }
        if self.server.get_hosts().is_empty() && self.server.get_hostaddrs().is_empty() {
            return Err(crate::Error::configuration(
                "no host is given: set DATABASE_URL=postgres://user:password@host/database",
            ));
        }
        Ok(())
    }

    /// The `options` of the start-up packet (manual, "Connection Settings"): the
    /// user's own, and the time-outs that end what no teardown could. A pooler
    /// would refuse them.
    pub(crate) fn startup_options(&self) -> Option<String> {
        let own = self.server.get_options().unwrap_or_default();
        let mut options = String::from(own);
        if self.path == Path::Direct {
            for (name, value) in self.server_timeouts() {
                let Some(value) = milliseconds(value).filter(|&value| value > 0) else {
                    continue;
                };
                if !own.contains(name) {
                    let space = if options.is_empty() { "" } else { " " };
                    options += &format!("{space}-c {name}={value}");
                }
            }
        }
        (!options.is_empty()).then_some(options)
    }

    /// What the server is told to end by itself.
    fn server_timeouts(&self) -> [(&'static str, Duration); 2] {
        [
            ("statement_timeout", self.statement_timeout),
            (
                "idle_in_transaction_session_timeout",
                self.idle_in_transaction_timeout,
            ),
        ]
    }
}

/// As the server counts, rounded up: 0 would mean no time-out at all. `None` if it is
/// more than the server can hold.
fn milliseconds(time: Duration) -> Option<i32> {
    i32::try_from(time.as_nanos().div_ceil(1_000_000)).ok()
}

impl Path {
    fn lifetime(self) -> ConnectionLifetime {
        match self {
            // Its clients are as dear as the server's own slots.
            Path::SessionPooler => ConnectionLifetime::PerInvocation,
            _ => ConnectionLifetime::PerEventLoop,
        }
    }

    pub(crate) fn takes_cancel(self) -> bool {
        !matches!(self, Path::RdsProxy)
    }
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // tokio-postgres hides the password in its own Debug.
        f.debug_struct("Config")
            .field("server", &self.server)
            .field("credentials", &self.credentials.as_ref().map(|_| ".."))
            .field("tls", &self.tls)
            .field("path", &self.path)
            .field("lifetime", &self.lifetime)
            .field("reset", &self.reset)
            .field("max_connections", &self.max_connections)
            .field("max_idle", &self.max_idle)
            .field("max_age", &self.max_age)
            .field("acquire_timeout", &self.acquire_timeout)
            .field("connect_timeout", &self.connect_timeout)
            .field("statement_timeout", &self.statement_timeout)
            .field(
                "idle_in_transaction_timeout",
                &self.idle_in_transaction_timeout,
            )
            .field("statement_cache", &self.statement_cache)
            .finish()
    }
}
