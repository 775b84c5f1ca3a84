//! How a database is reached and how its connections are kept.

mod application;
mod backstops;
mod builder;
mod described;
mod duration;
mod endpoint;
mod environment;
#[cfg(test)]
mod every;
mod foreign;
mod keywords;
#[cfg(test)]
mod leaks;
mod load_shed;
mod migrations;
mod overrides;
mod parameters;
mod read;
mod session;
mod settle;
mod source;
mod spelling;
mod startup;
mod tls;
mod url;
mod values;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use backstops::Backstop;
pub use builder::ConfigBuilder;
pub use described::Described;
pub use duration::parse as parse_duration;
pub use endpoint::{DirectEndpoint, Endpoint};
pub use environment::given;
pub(crate) use environment::{Environment, without_line_end};
pub use load_shed::LoadShed;
pub(crate) use session::Reported;
pub use session::TargetSessionAttrs;
pub use spelling::nearest;
pub use tls::{ChannelBinding, ClientCertificate, Pem, RequireAuth, Roots, Tls, TlsMode};
pub(crate) use tls::{Method, could_be_file};

use crate::credentials::Credentials;
use crate::error::Result;
pub use crate::provider::Path;
use read::Read;
use source::Source;

/// Everything that a [`Database`](crate::Database) needs to know.
///
/// Made from a URL, from the environment, by a [builder](Config::builder) or by serde,
/// then changed field by field. What an operator sets in `ANTIFREEZE_*` variables wins
/// over the code, the code over the URL, the URL over `DB_MAX_*` variables, and those
/// over the defaults; `docs/configuration.md` has all of them.
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
    ///
    /// `application_name` is the function's name and version where Lambda or Vercel tell
    /// them and the URL does not.
    pub server: tokio_postgres::Config,
    /// Who is asked for the password at every connect, instead of what `server` says.
    /// Default: nobody. [`credentials`](crate::credentials) has what there is.
    pub credentials: Option<Arc<dyn Credentials>>,
    /// How the connection is encrypted and whom it trusts.
    pub tls: Tls,
    /// What lies between us and the server. Default: what the address tells, which is
    /// [`Path::Direct`] unless it is known for a pooler; and where it turns out when
    /// connecting that it is one, it is treated as one, and a warning says what to set.
    /// Setting the field alone leaves `lifetime` as it is:
    /// [`set_path`](Config::set_path) does both, and is what is meant even if it is
    /// `Direct`.
    pub path: Path,
    /// A way to the same database past its pooler. Default: what
    /// `DATABASE_URL_UNPOOLED`, `POSTGRES_URL_NON_POOLING` or `DIRECT_URL` name, if the
    /// database is the environment's, too.
    pub direct: Option<DirectEndpoint>,
    /// Which of the two is used. Default: [`Endpoint::Pooled`], the one of the URL.
    pub endpoint: Endpoint,
    /// What a session has to be, if several hosts are named. Default: anything.
    pub target_session_attrs: TargetSessionAttrs,
    /// How long a connection lives. Default: what the path calls for.
    pub lifetime: ConnectionLifetime,
    /// What removes session state before a connection is kept.
    pub reset: Reset,
    /// The most connections that a tokio runtime of this process has at a time.
    /// Default: `connection_limit` of the URL, `DB_MAX_OPEN_CONNS`, or else 1 on Lambda,
    /// the concurrency on Lambda Managed Instances, elsewhere 3.
    pub max_connections: usize,
    /// The most connections that are kept between invocations, with
    /// [`PerEventLoop`](ConnectionLifetime::PerEventLoop). Default: `DB_MAX_IDLE_CONNS`,
    /// or else `None`, all of them.
    pub max_idle: Option<usize>,
    /// A connection older than this, less up to a tenth of it, is not kept: those that were
    /// opened at once do not end at once. Default: `DB_MAX_LIFETIME`, or else 30 minutes; on
    /// Aurora DSQL, which ends connections after an hour, 50 minutes at most.
    pub max_age: Duration,
    /// A connection that was kept for longer than this without use, by the wall clock,
    /// is replaced when it is next asked for. Default: `DB_MAX_IDLE_TIME`, or else
    /// `None`, however long.
    pub max_idle_time: Option<Duration>,
    /// A connection that was kept for longer than this without use answers an empty query
    /// before it is leased again, alone and within a second: what lies in between may have
    /// forgotten it without a word, as NAT gateways and connection tracking do after 350 s
    /// (AWS, "NAT gateways", "Connection tracking"). Default: 60 s.
    pub probe_after: Duration,
    /// How long to wait for a connection that others have. Default: `pool_timeout` of the
    /// URL, or else 5 s.
    pub acquire_timeout: Duration,
    /// How long connecting may take. Default: `connect_timeout` of the URL, or else 10 s.
    pub connect_timeout: Duration,
    /// The server's `statement_timeout`, in whole milliseconds. Default: 30 s, unless
    /// `options` of the URL say otherwise. Zero: the server's own. It is sent on
    /// [`Path::Direct`] alone, since poolers refuse it: behind one, use
    /// `ALTER ROLE .. SET`.
    pub statement_timeout: Duration,
    /// The server's `idle_in_transaction_session_timeout`, which ends what no
    /// teardown could: the process was killed, the network is gone. Default: 60 s.
    /// Zero: the server's own. Sent as `statement_timeout` is.
    pub idle_in_transaction_timeout: Duration,
    /// The server's `transaction_timeout` (PostgreSQL 17 and newer): a transaction that
    /// takes longer ends with its session. Default: 15 minutes, the longest that Lambda runs
    /// a function. Zero: the server's own. Sent on [`Path::Direct`] alone.
    pub transaction_timeout: Duration,
    /// The server's `idle_session_timeout` (PostgreSQL 14 and newer): a session that was not
    /// used for so long is ended, as those that frozen processes hold; it is found to be dead
    /// when it is next asked for, without a round trip. Default: 15 minutes. Zero: the
    /// server's own. Sent on [`Path::Direct`] alone, and never to a pooler.
    pub idle_session_timeout: Duration,
    /// How long a call of the function may take, where nobody else says so yet, as while the
    /// function starts: the server's time-outs are lowered to it, but to no less than 1 s,
    /// and `idle_session_timeout` not at all. Within an invocation its own time counts, if
    /// that is shorter. On Lambda it is the deadline of a request that carries none, too
    /// ([`DatabaseLayer::max_duration`](crate::DatabaseLayer::max_duration)). Default:
    /// `None`, not known.
    pub function_timeout: Option<Duration>,
    /// The schema that is looked in, instead of the server's `search_path`. Default:
    /// `schema` of the URL, or else `None`. It is sent on [`Path::Direct`] alone; behind a
    /// pooler any but `public` is an error.
    pub schema: Option<String>,
    /// Whether the server may compile statements (`jit`), which costs short ones more
    /// than it brings. Default: no, where the path takes the setting, as
    /// [`Path::Direct`] does.
    pub jit: bool,
    /// How many statements [`prepare_cached`](crate::Connection::prepare_cached)
    /// keeps for each connection, the least recently used out first. Default:
    /// `statement_cache_size` of the URL, or else 100.
    pub statement_cache: usize,
    /// The part of the server's slots, in percent, above which connections are given back
    /// at the end of each invocation instead of being kept. Default: 80. It counts on
    /// [`Path::Direct`] and [`Path::SessionPooler`], where a connection that is kept
    /// takes a slot.
    pub crowded_at: u8,
    /// Who is turned away while the server is full or away. Default:
    /// [`LoadShed::FirstUse`].
    pub load_shed: LoadShed,
    /// Who presents this as `Authorization: Bearer ..` is told the details of
    /// [`health`](crate::health). Default: `None`, nobody over HTTP. 16 characters or more,
    /// without spaces.
    pub health_token: Option<String>,
    /// The operator's variables that are set, once the settings are in force.
    levers: Vec<(&'static str, String)>,
    /// Time-outs of the server that the operator has set.
    operators: Vec<&'static str>,
    /// What the address tells of the path; `None` once somebody has chosen one.
    detected: Option<Path>,
    /// Somebody has chosen the lifetime, be it the one that the path calls for.
    lifetime_chosen: bool,
}

/// How long a connection lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum ConnectionLifetime {
    /// Opened when an invocation first asks for it, closed before its response
    /// leaves (SQLAlchemy calls it a `NullPool`). A frozen process holds no slot of
    /// the server; each invocation pays for connecting.
    PerInvocation,
    /// Kept between invocations, for the tokio runtime that drives it.
    PerEventLoop,
}

impl ConnectionLifetime {
    /// The one that a path calls for.
    fn behind(path: Path) -> Self {
        match path {
            // Its clients are as dear as the server's own slots.
            Path::SessionPooler => ConnectionLifetime::PerInvocation,
            _ => ConnectionLifetime::PerEventLoop,
        }
    }
}

/// What removes session state (`SET`, `LISTEN`, session locks, temporary tables)
/// before a connection is kept. It costs one round trip when it runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
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

impl Config {
    /// Reads a URL (`postgres://user:password@host:port/database?..`) or a libpq
    /// keyword string (`host=.. user=..`), with every parameter that libpq knows, and
    /// Prisma's: `docs/configuration.md` says what becomes of each.
    ///
    /// A host that is not local is verified in full unless the URL says otherwise
    /// (`sslmode`, `sslrootcert`, `sslnegotiation`).
    ///
    /// # Errors
    ///
    /// Says what it could not understand, without repeating the password; or names the
    /// `DB_MAX_*` variable that is misspelt.
    pub fn from_url(url: &str) -> Result<Self> {
        let read = Source::code(url)?.read()?;
        Config::from_read(read, &Environment::of_process())
    }

    /// Reads the environment: `DATABASE_URL` or `POSTGRES_URL`, or else `DB_HOST` and its
    /// companions, or else libpq's `PGHOST` and its companions; and the direct endpoint
    /// from `DATABASE_URL_UNPOOLED`, `POSTGRES_URL_NON_POOLING` or `DIRECT_URL`.
    ///
    /// # Errors
    ///
    /// None is set, or what is set cannot be understood; the variable is named.
    pub fn from_env() -> Result<Self> {
        Config::from_environment(&Environment::of_process())
    }

    /// A configuration by its settings' names.
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use antifreeze::Config;
    ///
    /// let config = Config::builder()
    ///     .host("localhost")
    ///     .dbname("shop")
    ///     .statement_timeout(Duration::from_secs(5))
    ///     .build()?;
    /// # Ok::<(), antifreeze::Error>(())
    /// ```
    pub fn builder() -> ConfigBuilder {
        ConfigBuilder::default()
    }

    fn from_environment(environment: &Environment) -> Result<Self> {
        ConfigBuilder::default().build_in(environment)
    }

    fn from_read(mut read: Read, environment: &Environment) -> Result<Self> {
        if let Some(name) =
            application::name(environment).filter(|_| read.server.get_application_name().is_none())
        {
            read.server.application_name(name);
        }
        let limits = environment.limits()?;
        let seconds = Duration::from_secs;
        let size = read.max_connections.or(limits.max_connections);
        Ok(Config {
            server: read.server,
            credentials: None,
            tls: read.tls,
            path: read.path,
            direct: None,
            endpoint: Endpoint::default(),
            target_session_attrs: read.target_session_attrs,
            lifetime: ConnectionLifetime::behind(read.path),
            reset: Reset::default(),
            max_connections: size.unwrap_or_else(|| environment.concurrency()),
            max_idle: limits.max_idle,
            max_age: limits.max_age.unwrap_or(seconds(30 * 60)),
            max_idle_time: limits.max_idle_time,
            probe_after: seconds(60),
            acquire_timeout: read.acquire_timeout.unwrap_or(seconds(5)),
            connect_timeout: read.connect_timeout.unwrap_or(seconds(10)),
            statement_timeout: backstops::STATEMENT_TIMEOUT,
            idle_in_transaction_timeout: backstops::IDLE_IN_TRANSACTION_TIMEOUT,
            transaction_timeout: backstops::TRANSACTION_TIMEOUT,
            idle_session_timeout: backstops::IDLE_SESSION_TIMEOUT,
            function_timeout: None,
            schema: read.schema,
            jit: false,
            statement_cache: read.statement_cache.unwrap_or(100),
            crowded_at: 80,
            load_shed: LoadShed::default(),
            health_token: None,
            levers: Vec::new(),
            operators: Vec::new(),
            detected: Some(read.path),
            lifetime_chosen: false,
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
        self.detected = None;
        self.lifetime = ConnectionLifetime::behind(path);
        self.lifetime_chosen = false;
        self
    }

    /// Whether a connection takes one of the server's slots, so that it is worth asking
    /// how many are left.
    pub(crate) fn takes_slots(&self) -> bool {
        let counted = matches!(self.path, Path::Direct | Path::SessionPooler);
        counted && self.limits().slots
    }

    /// The operator's variables that are set, each with its value.
    pub(crate) fn levers(&self) -> &[(&'static str, String)] {
        &self.levers
    }

    /// Sets the lifetime, whatever path the operator may choose later. Setting the field
    /// to what the path calls for anyway says nothing.
    pub fn set_lifetime(&mut self, lifetime: ConnectionLifetime) -> &mut Self {
        self.lifetime = lifetime;
        self.lifetime_chosen = true;
        self
    }

    /// Nobody has said what lies in between: it was guessed from the address.
    pub(crate) fn path_is_detected(&self) -> bool {
        self.detected == Some(self.path)
    }

    /// How many connections may stay open between invocations.
    pub(crate) fn idle_limit(&self) -> usize {
        let size = self.max_connections;
        match self.lifetime {
            ConnectionLifetime::PerInvocation => 0,
            ConnectionLifetime::PerEventLoop => self.max_idle.map_or(size, |idle| idle.min(size)),
        }
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
            .field("direct", &self.direct)
            .field("endpoint", &self.endpoint)
            .field("target_session_attrs", &self.target_session_attrs)
            .field("lifetime", &self.lifetime)
            .field("reset", &self.reset)
            .field("max_connections", &self.max_connections)
            .field("max_idle", &self.max_idle)
            .field("max_age", &self.max_age)
            .field("max_idle_time", &self.max_idle_time)
            .field("probe_after", &self.probe_after)
            .field("acquire_timeout", &self.acquire_timeout)
            .field("connect_timeout", &self.connect_timeout)
            .field("statement_timeout", &self.statement_timeout)
            .field(
                "idle_in_transaction_timeout",
                &self.idle_in_transaction_timeout,
            )
            .field("transaction_timeout", &self.transaction_timeout)
            .field("idle_session_timeout", &self.idle_session_timeout)
            .field("function_timeout", &self.function_timeout)
            .field("schema", &self.schema)
            .field("jit", &self.jit)
            .field("statement_cache", &self.statement_cache)
            .field("crowded_at", &self.crowded_at)
            .field("load_shed", &self.load_shed)
            .field("health_token", &self.health_token.as_ref().map(|_| ".."))
            .finish()
    }
}
