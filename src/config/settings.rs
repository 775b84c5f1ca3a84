//! Resolves the settings in force: merges the sources by precedence, then checks the result.

use tokio::sync::Semaphore;

use super::endpoint::{host_names, with_hosts};
use super::read::{PORT, read};
use super::startup::PUBLIC;
use super::table::PartialSettings;
use super::{
    Config, ConnectionLifetime, DirectEndpoint, Endpoint, Environment, Origin, Pooler, Settings,
    TargetSessionAttrs, application, overrides,
};
use crate::error::{Error, Result};
use crate::observe;
use crate::provider::Host;

/// The shortest health token: 16 characters of base64 are 96 bits.
const HEALTH_TOKEN_LENGTH: usize = 16;

impl Settings {
    /// Merges the sources, on the chosen endpoint: the operator's `ANTIFREEZE_*` variables win over
    /// the code, the code over the URL, and the URL over the limits of `environment`.
    pub(super) fn new(config: Config, environment: &Environment) -> Result<Self> {
        overrides::check_spelling(environment)?;
        let endpoint = read(&config.parameters)?;
        let set = PartialSettings::merged(config.code, &config.parameters, environment)?;
        let mut pooler = set.pooler.clone();
        pooler.take_if(|set| !matches!(set.origin, Origin::Variable(_)));
        let mut settings = set.in_force(endpoint, &config.parameters, environment);
        settings.credentials = config.credentials;
        settings.direct = config.direct;
        settings.variables = overrides::in_force(environment);
        if settings.server.get_application_name().is_none() {
            let name = application::name(environment);
            name.map(|name| settings.server.application_name(name));
        }
        let switched = match settings.endpoint {
            Endpoint::Direct => settings.take_direct_endpoint()?,
            Endpoint::Pooled => true,
        };
        // An override holds for the direct endpoint, too.
        if let Some(set) = pooler {
            settings.follow(set.value, Some(set.origin));
        }
        settings.max_age = settings.max_age.min(settings.limits().max_age);
        settings.check()?;
        settings.log(environment, switched);
        Ok(settings)
    }

    /// Logs the settings in force, and overrides without effect.
    fn log(&self, environment: &Environment, switched: bool) {
        if let (Some(Origin::Variable(name)), false) = (self.origin("endpoint"), switched) {
            let why = "no direct endpoint is known, and the path is direct as it is";
            observe::without_effect(name, why);
        }
        let timeouts: Vec<_> = self.overridden_timeouts().collect();
        if !timeouts.is_empty() && !self.sends_settings() {
            let why = "the server is sent no timeouts on this path: run the statements for the \
                       function's role";
            observe::without_effect(&timeouts.join(" "), why);
        }
        if !self.pooler.takes_options() && self.limits().settings {
            observe::server_timeouts_elsewhere(self.pooler.name(), &self.alter_role());
        }
        for name in overrides::unknown(environment) {
            observe::unknown_variable(&name);
        }
        let overrides = overrides::formatted(&self.variables);
        observe::configured(self.pooler.name(), self.max_connections, &overrides);
    }

    /// Returns where the setting of this name was set; `None` if it is the default.
    pub fn origin(&self, setting: &str) -> Option<Origin> {
        let mut origins = self.origins();
        origins.find_map(|(name, origin)| (name == setting).then_some(origin))
    }

    /// Lists the settings that were set, `host` and `password` among them, and where.
    pub fn origins(&self) -> impl Iterator<Item = (&'static str, Origin)> + '_ {
        self.origins.iter().copied()
    }

    /// Returns whether the pooler was detected by the address, and not configured.
    pub(crate) fn pooler_is_detected(&self) -> bool {
        self.origin("pooler").is_none()
    }

    /// Returns whether a connection takes one of the server's slots, so that it is useful to read
    /// how many are free.
    pub(crate) fn takes_slots(&self) -> bool {
        let counted = matches!(self.pooler, Pooler::None | Pooler::Session);
        counted && self.limits().slots
    }

    /// Returns how many connections may stay open between invocations.
    pub(crate) fn idle_limit(&self) -> usize {
        let size = self.max_connections;
        match self.lifetime {
            ConnectionLifetime::PerInvocation => 0,
            ConnectionLifetime::PerEventLoop => self.max_idle.map_or(size, |idle| idle.min(size)),
        }
    }

    /// Changes to `pooler`, which `origin` set or the address implies, and to its default
    /// lifetime unless a lifetime is set.
    pub(crate) fn follow(&mut self, pooler: Pooler, origin: Option<Origin>) {
        self.pooler = pooler;
        self.origins.retain(|(name, _)| *name != "pooler");
        self.origins.extend(origin.map(|origin| ("pooler", origin)));
        if self.origin("lifetime").is_none() {
            self.lifetime = ConnectionLifetime::behind(pooler);
        }
    }

    /// Changes to the direct endpoint; returns whether there is one.
    fn take_direct_endpoint(&mut self) -> Result<bool> {
        let known = self.direct.take().or_else(|| self.implied_direct());
        let Some(direct) = known else {
            if self.pooler == Pooler::None {
                return Ok(false);
            }
            return Err(Error::configuration(
                "endpoint is direct (ANTIFREEZE_ENDPOINT or Config::endpoint), but no direct \
                 endpoint is configured: set Config::direct (by serde: direct_url), or, where the \
                 database is the environment's too (from_env), DATABASE_URL_UNPOOLED, \
                 POSTGRES_URL_NON_POOLING or DIRECT_URL",
            ));
        };
        self.use_endpoint(direct.clone());
        self.direct = Some(direct);
        Ok(true)
    }

    /// Changes to another endpoint of the same database, with the pooler and the schema that
    /// belong to it.
    pub fn use_endpoint(&mut self, mut direct: DirectEndpoint) {
        // The function has the same name on every endpoint.
        if let Some(name) = self.server.get_application_name() {
            direct.server.application_name(name);
        }
        self.server = direct.server;
        self.tls = direct.tls;
        self.tls.keep_to(&self.server);
        self.follow(direct.pooler, None);
        // The URL of a pooler may set `public`, which is no wish for the direct endpoint.
        let schema = self.schema.take().filter(|schema| schema != PUBLIC);
        self.schema = direct.schema.or(schema);
        if direct.target_session_attrs != TargetSessionAttrs::Any {
            self.target_session_attrs = direct.target_session_attrs;
        }
    }

    /// Returns the server's own endpoint, if the pooler's host name implies it.
    pub fn implied_direct(&self) -> Option<DirectEndpoint> {
        let hosts = host_names(&self.server).map(|host| Host::of(host).direct);
        let hosts = hosts.collect::<Option<Vec<_>>>()?;
        let server = with_hosts(&self.server, hosts, |port| port);
        Some(self.endpoint_of(server, Pooler::None))
    }

    /// Returns the session pooler on another port of the same host, if the host's name implies it.
    pub fn implied_session(&self) -> Option<DirectEndpoint> {
        let pooler = host_names(&self.server)
            .map(|host| Host::of(host).session)
            .collect::<Option<Vec<Pooler>>>()?
            .pop()?;
        let hosts = host_names(&self.server).map(str::to_owned);
        let mut server = with_hosts(&self.server, hosts, |_| PORT);
        for &address in self.server.get_hostaddrs() {
            server.hostaddr(address);
        }
        Some(self.endpoint_of(server, pooler))
    }

    /// Makes an endpoint with the other settings of this one.
    fn endpoint_of(&self, server: tokio_postgres::Config, pooler: Pooler) -> DirectEndpoint {
        DirectEndpoint {
            server,
            tls: self.tls.clone(),
            pooler,
            schema: None,
            target_session_attrs: TargetSessionAttrs::Any,
        }
    }

    fn check(&self) -> Result<()> {
        if self.max_connections == 0 {
            return Err(Error::configuration("max_connections is 0: set at least 1"));
        }
        if self.max_connections > Semaphore::MAX_PERMITS {
            return Err(Error::configuration(format!(
                "max_connections is more than {}",
                Semaphore::MAX_PERMITS
            )));
        }
        if self.connect_timeout.is_zero() {
            let name = match self.origin("connect_timeout") {
                Some(Origin::Variable(name)) => name,
                _ => "connect_timeout",
            };
            return Err(Error::configuration(format!(
                "{name} is zero: set a longer time"
            )));
        }
        if !(1..=100).contains(&self.high_water_mark) {
            return Err(Error::configuration(
                "high_water_mark is not valid: expected 1 to 100 percent of the server's slots",
            ));
        }
        self.check_startup()?;
        self.check_health_token()?;
        if self.server.get_hosts().is_empty() && self.server.get_hostaddrs().is_empty() {
            return Err(Error::configuration(
                "no host is configured: set DATABASE_URL=postgres://user:password@host/database",
            ));
        }
        Ok(())
    }

    /// Checks the health token: it gives access to the details of the report, so it must be
    /// hard to guess, and it must fit into a header.
    fn check_health_token(&self) -> Result<()> {
        match &self.health_token {
            Some(token) if token.len() < HEALTH_TOKEN_LENGTH => Err(Error::configuration(format!(
                "health_token (ANTIFREEZE_HEALTH_TOKEN) is shorter than {HEALTH_TOKEN_LENGTH} \
                     characters: use a random one, as `openssl rand -hex 32` prints"
            ))),
            Some(token) if !token.bytes().all(|byte| byte.is_ascii_graphic()) => {
                Err(Error::configuration(
                    "health_token (ANTIFREEZE_HEALTH_TOKEN) contains a space or a character that is \
                     not ASCII: use letters and digits",
                ))
            }
            _ => Ok(()),
        }
    }
}
