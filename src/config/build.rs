//! Makes a [`Config`] from a URL, from the environment, or by serde.

use std::str::FromStr;
use std::sync::Arc;

use serde::de::{self, Deserialize, Deserializer};

use super::parameters::Parameters;
use super::read::read;
use super::source;
use super::table::{Config, Fields, Settings};
use super::{DirectEndpoint, Environment};
use crate::credentials::Credentials;
use crate::error::{Error, Result};

impl Config {
    /// Creates an empty configuration. Set a [`host`](Config::host) next; without one the database is
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
    /// Prisma's: `docs/configuration.md` says how each is supported.
    ///
    /// A host that is not local is verified in full unless the URL says otherwise
    /// (`sslmode`, `sslrootcert`, `sslnegotiation`).
    ///
    /// # Errors
    ///
    /// The text cannot be parsed. The message does not contain the password.
    pub fn from_url(url: &str) -> Result<Self> {
        Config::from_parameters(Parameters::parse_code(url)?)
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
        let mut config = Config::from_parameters(source::parameters(environment)?)?;
        config.direct = source::direct(environment)?;
        Ok(config)
    }

    fn from_parameters(parameters: Parameters) -> Result<Self> {
        let config = Config {
            parameters,
            has_source: true,
            ..Config::default()
        };
        config.check()?;
        Ok(config)
    }

    fn from_fields(mut fields: Fields) -> Result<Self> {
        let mut config = match fields.url.take() {
            Some(url) => Config::from_url(&url)?,
            None => Config::new(),
        };
        if let Some(url) = fields.direct_url.take() {
            config = config.direct(DirectEndpoint::from_url(&url)?);
        }
        let config = fields.over(config)?;
        config.check()?;
        Ok(config)
    }

    /// Checks the parameters that have been set so far.
    fn check(&self) -> Result<()> {
        read(&self.parameters).map(drop)
    }

    /// Asks `credentials` for the password at every connect, instead of the configured
    /// password. [`credentials`](crate::credentials) lists the providers.
    pub fn credentials(mut self, credentials: impl Credentials + 'static) -> Self {
        self.credentials = Some(Arc::new(credentials));
        self
    }

    /// Returns whether a password is configured.
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
        let has_host = ["host", "hostaddr"]
            .iter()
            .any(|name| self.parameters.get(name).is_some());
        if !self.has_source && !has_host {
            let code = std::mem::replace(&mut self.parameters, source::parameters(environment)?);
            self.parameters.extend(code);
            if self.direct.is_none() {
                self.direct = source::direct(environment)?;
            }
        }
        Settings::new(self, environment)
    }
}

/// Parses a URL as [`Config::from_url`] does.
impl FromStr for Config {
    type Err = Error;

    fn from_str(url: &str) -> Result<Self> {
        Config::from_url(url)
    }
}

/// Deserializes a field for each setter, and `url` and `direct_url`, which are URLs or keyword
/// strings. There is no `Serialize`, which would write the password.
impl<'de> Deserialize<'de> for Config {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let fields = Fields::deserialize(deserializer)?;
        Config::from_fields(fields).map_err(de::Error::custom)
    }
}
