//! The last word on a configuration: the operator's, then whether it makes sense.

use tokio::sync::Semaphore;

use super::endpoint::{host_names, with_hosts};
use super::overrides::{self, Overrides};
use super::startup::PUBLIC;
use super::{
    Config, ConnectionLifetime, DirectEndpoint, Endpoint, Environment, Path, TargetSessionAttrs,
};
use crate::error::{Error, Result};
use crate::observe;
use crate::provider::Host;

/// The least: 16 characters of base64 are 96 bits.
const HEALTH_TOKEN_LENGTH: usize = 16;

impl Config {
    /// What is in force, with the operator's `ANTIFREEZE_*` variables over the code's
    /// settings and on the endpoint that was chosen. Logged, once for each database.
    pub(crate) fn settled(mut self, environment: &Environment) -> Result<Self> {
        let overrides = Overrides::read(environment)?;
        if let Some(endpoint) = overrides.endpoint {
            self.endpoint = endpoint;
        }
        let switched = match self.endpoint {
            Endpoint::Direct => self.take_direct_endpoint()?,
            Endpoint::Pooled => true,
        };
        self.tls.keep_to(&self.server);
        overrides.apply(&mut self);
        let limits = self.limits();
        self.max_age = self.max_age.min(limits.max_age);
        self.check()?;
        if overrides.endpoint.is_some() && !switched {
            let why = "no direct endpoint is known, and the path is direct as it is";
            observe::without_effect(overrides::ENDPOINT, why);
        }
        let timeouts = overrides.server_timeouts();
        if !timeouts.is_empty() && !self.sends_settings() {
            let names: Vec<_> = timeouts.iter().map(|(name, _)| *name).collect();
            let why = "the server is sent no time-outs on this path: run the statements for the \
                       function's role";
            observe::without_effect(&names.join(" "), why);
        }
        if !self.path.takes_options() && limits.settings {
            observe::backstops_elsewhere(self.path.name(), &self.alter_role());
        }
        for name in overrides::unknown(environment) {
            observe::unknown_variable(&name);
        }
        self.levers = overrides::in_force(environment);
        let shown = overrides::shown(&self.levers);
        observe::configured(self.path.name(), self.max_connections, &shown);
        Ok(self)
    }

    /// Takes `path`, and its lifetime unless somebody has chosen another.
    pub(super) fn follow(&mut self, path: Path) {
        if !self.lifetime_chosen && self.lifetime == ConnectionLifetime::behind(self.path) {
            self.lifetime = ConnectionLifetime::behind(path);
        }
        self.path = path;
        self.detected = Some(path);
    }

    /// Whether there is one.
    fn take_direct_endpoint(&mut self) -> Result<bool> {
        let known = self.direct.take().or_else(|| self.past_pooler());
        let Some(direct) = known else {
            if self.path == Path::Direct {
                return Ok(false);
            }
            return Err(Error::configuration(
                "the direct endpoint is wanted (ANTIFREEZE_ENDPOINT=direct, or Config::endpoint) \
                 and is not known: set Config::direct (direct_url of the builder), or, where the \
                 database is the environment's too (from_env), DATABASE_URL_UNPOOLED, \
                 POSTGRES_URL_NON_POOLING or DIRECT_URL",
            ));
        };
        self.take(direct.clone());
        self.direct = Some(direct);
        Ok(true)
    }

    /// Goes another way to the same database.
    pub(super) fn take(&mut self, mut direct: DirectEndpoint) {
        // It is the function's name for itself, whatever way it goes.
        if let Some(name) = self.server.get_application_name() {
            direct.server.application_name(name);
        }
        self.server = direct.server;
        self.tls = direct.tls;
        self.follow(direct.path);
        // A pooler's URL says `public` since it takes nothing else.
        let schema = self.schema.take().filter(|schema| schema != PUBLIC);
        self.schema = direct.schema.or(schema);
        if direct.target_session_attrs != TargetSessionAttrs::Any {
            self.target_session_attrs = direct.target_session_attrs;
        }
    }

    /// The server itself, where the name of its pooler tells that of its own host.
    pub(super) fn past_pooler(&self) -> Option<DirectEndpoint> {
        let hosts = host_names(&self.server).map(|host| Host::of(host).direct);
        let hosts = hosts.collect::<Option<Vec<_>>>()?;
        Some(DirectEndpoint {
            server: with_hosts(&self.server, hosts, |port| port),
            tls: self.tls.clone(),
            path: Path::Direct,
            schema: None,
            target_session_attrs: TargetSessionAttrs::Any,
        })
    }

    fn check(&self) -> Result<()> {
        if self.max_connections == 0 {
            return Err(Error::configuration(
                "max_connections is 0: it takes at least 1",
            ));
        }
        if self.max_connections > Semaphore::MAX_PERMITS {
            return Err(Error::configuration(format!(
                "max_connections is more than {}",
                Semaphore::MAX_PERMITS
            )));
        }
        if self.connect_timeout.is_zero() {
            return Err(Error::configuration(
                "connect_timeout is zero: nothing connects in no time",
            ));
        }
        if !(1..=100).contains(&self.crowded_at) {
            return Err(Error::configuration(
                "crowded_at is a part of the server's slots in percent: 1 to 100",
            ));
        }
        self.check_startup()?;
        self.check_health_token()?;
        if self.server.get_hosts().is_empty() && self.server.get_hostaddrs().is_empty() {
            return Err(Error::configuration(
                "no host is given: set DATABASE_URL=postgres://user:password@host/database",
            ));
        }
        Ok(())
    }
}

impl Config {
    /// Whoever presents the token reads who uses the server: it must not be guessed, and
    /// it must fit into a header.
    fn check_health_token(&self) -> Result<()> {
        match &self.health_token {
            Some(token) if token.len() < HEALTH_TOKEN_LENGTH => Err(Error::configuration(format!(
                "health_token (ANTIFREEZE_HEALTH_TOKEN) is shorter than {HEALTH_TOKEN_LENGTH} \
                     characters: take a random one, as `openssl rand -hex 32` prints"
            ))),
            Some(token) if !token.bytes().all(|byte| byte.is_ascii_graphic()) => {
                Err(Error::configuration(
                    "health_token (ANTIFREEZE_HEALTH_TOKEN) holds a space, or what is not ASCII: \
                     it goes into a header, so take letters and digits",
                ))
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests;
