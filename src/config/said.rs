//! Collects what is configured for a database, and where it was set.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use super::parameters::Parameters;
use super::read::read;
use super::source;
use super::table::Layer;
use super::{DirectEndpoint, Environment, Settings};
use crate::credentials::Credentials;
use crate::error::{Error, Result};

/// Configures a [`Database`](crate::Database): its address, and each setting that differs
/// from its default.
///
/// It is made from a URL, from the environment, empty or by serde; setters then change single
/// settings. What an operator sets in `ANTIFREEZE_*` variables wins over the code, the code
/// over the URL, the URL over `DB_MAX_*` variables, and those over the defaults;
/// `docs/configuration.md` lists all of them, and [`Settings`] holds the result.
///
/// ```
/// use std::time::Duration;
///
/// use antifreeze::{Config, Database};
///
/// let config = Config::from_url("postgres://app@localhost/shop?sslmode=disable")?
///     .max_connections(4)
///     .statement_timeout(Duration::from_secs(5));
/// let database = Database::new(config)?;
/// # Ok::<(), antifreeze::Error>(())
/// ```
///
/// Its `Debug` shows neither password nor client keys.
#[derive(Clone, Default)]
#[must_use = "a configuration does nothing until it is a Database's"]
pub struct Config {
    /// What a URL, a keyword string or variables say, and then the code.
    pub(super) parameters: Parameters,
    /// Where the database is was said; else the environment says it.
    is_placed: bool,
    pub(super) credentials: Option<Arc<dyn Credentials>>,
    pub(super) direct: Option<DirectEndpoint>,
    /// What the code says of the settings.
    pub(super) said: Layer,
}

/// Where a setting was set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Origin {
    /// In code, or by serde.
    Code,
    /// In a URL or keyword string that the code has.
    #[default]
    Url,
    /// In this variable.
    Variable(&'static str),
}

impl Config {
    /// An empty configuration. Set a [`host`](Config::host) next; without one the database is
    /// the environment's, as with [`Config::from_env`].
    ///
    /// ```
    /// use antifreeze::{Config, Database};
    ///
    /// let config = Config::new().host("localhost").dbname("shop");
    /// let database = Database::new(config)?;
    /// # Ok::<(), antifreeze::Error>(())
    /// ```
    pub fn new() -> Self {
        Config::default()
    }

    /// Reads a URL (`postgres://user:password@host:port/database?..`) or a libpq
    /// keyword string (`host=.. user=..`), with every parameter that libpq knows, and
    /// Prisma's: `docs/configuration.md` says what becomes of each.
    ///
    /// A host that is not local is verified in full unless the URL says otherwise
    /// (`sslmode`, `sslrootcert`, `sslnegotiation`).
    ///
    /// # Errors
    ///
    /// The text cannot be parsed. The message does not contain the password.
    pub fn from_url(url: &str) -> Result<Self> {
        Config::placed(Parameters::parse_code(url)?)
    }

    /// Reads the environment: `DATABASE_URL` or `POSTGRES_URL`, or else `DB_HOST` and its
    /// companions, or else libpq's `PGHOST` and its companions; and the direct endpoint
    /// from `DATABASE_URL_UNPOOLED`, `POSTGRES_URL_NON_POOLING` or `DIRECT_URL`.
    ///
    /// # Errors
    ///
    /// None is set, or the value cannot be parsed; the message names the variable.
    pub fn from_env() -> Result<Self> {
        Config::from_environment(&Environment::of_process())
    }

    pub(super) fn from_environment(environment: &Environment) -> Result<Self> {
        let mut config = Config::placed(source::parameters(environment)?)?;
        config.direct = source::direct(environment)?;
        Ok(config)
    }

    fn placed(parameters: Parameters) -> Result<Self> {
        let config = Config {
            parameters,
            is_placed: true,
            ..Config::default()
        };
        config.check()?;
        Ok(config)
    }

    /// Checks the parameters that have been set so far.
    pub(super) fn check(&self) -> Result<()> {
        read(&self.parameters).map(drop)
    }

    /// Asks `credentials` for the password at every connect, instead of the configured
    /// password. [`credentials`](crate::credentials) lists the providers.
    pub fn credentials(mut self, credentials: impl Credentials + 'static) -> Self {
        self.credentials = Some(Arc::new(credentials));
        self
    }

    /// Whether a password is configured.
    pub fn has_password(&self) -> bool {
        self.parameters.get("password").is_some()
    }

    /// The direct endpoint: the same database without its pooler. Default: what
    /// `DATABASE_URL_UNPOOLED`, `POSTGRES_URL_NON_POOLING` or `DIRECT_URL` name, if the
    /// database is the environment's, too.
    pub fn direct(mut self, endpoint: DirectEndpoint) -> Self {
        self.direct = Some(endpoint);
        self
    }

    /// Resolves the settings in force, with the variables of `environment`. They are logged,
    /// once for each database.
    pub(crate) fn settled(mut self, environment: &Environment) -> Result<Settings> {
        let said = ["host", "hostaddr"];
        let is_placed =
            self.is_placed || said.iter().any(|name| self.parameters.get(name).is_some());
        if !is_placed {
            let code = std::mem::replace(&mut self.parameters, source::parameters(environment)?);
            self.parameters.extend(code);
            if self.direct.is_none() {
                self.direct = source::direct(environment)?;
            }
        }
        Settings::new(self, environment)
    }
}

/// As [`Config::from_url`].
impl FromStr for Config {
    type Err = Error;

    fn from_str(url: &str) -> Result<Self> {
        Config::from_url(url)
    }
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config")
            .field("parameters", &self.parameters)
            .field("credentials", &self.credentials.as_ref().map(|_| ".."))
            .field("direct", &self.direct)
            .field("said", &self.said)
            .finish()
    }
}
