//! A configuration put together by name: in code, or by serde.

use std::fmt;
use std::time::Duration;

use serde::de::{self, Deserialize, Deserializer, Visitor};

use super::overrides::{ENDPOINTS, LIFETIMES, set};
use super::source::{self, Source};
use super::{
    Config, ConnectionLifetime, DirectEndpoint, Endpoint, Environment, LoadShed, Path, Reset,
    duration,
};
use crate::error::Result;
use crate::provider::PATHS;

/// The struct and its setters from one list.
macro_rules! settings {
    ($($(#[$doc:meta])* $(@$with:literal)? $name:ident: $type:ty,)*) => {
        /// Puts a [`Config`] together. What is not set is as the URL or the environment
        /// says, or else the default.
        ///
        /// It is what [`Config`] is deserialized from: the setters' names are the
        /// fields' names.
        #[derive(Clone, Default, serde::Deserialize)]
        #[serde(default, deny_unknown_fields)]
        #[must_use = "a builder does nothing until `build`"]
        pub struct ConfigBuilder {
            $($(#[serde(deserialize_with = $with)])? $name: Option<$type>,)*
        }

        impl ConfigBuilder {
            $(
                $(#[$doc])*
                pub fn $name(mut self, $name: impl Into<$type>) -> Self {
                    self.$name = Some($name.into());
                    self
                }
            )*
        }
    };
}

settings! {
    /// A URL or keyword string, as for [`Config::from_url`]. Without it and without
    /// [`host`](Self::host), the environment's.
    @"text" url: String,
    /// The URL of [`Config::direct`].
    @"text" direct_url: String,
    /// Hosts, separated by commas. This and what follows up to
    /// [`options`](Self::options) wins over the URL.
    host: String,
    /// A port for all hosts.
    port: u16,
    /// The user.
    user: String,
    /// The password.
    @"text" password: String,
    /// The database.
    dbname: String,
    /// `disable`, `prefer`, `require`, `verify-ca` or `verify-full`.
    sslmode: String,
    /// Certificate authorities: a file, PEM, or `system`.
    sslrootcert: String,
    /// The name that the server shows for our sessions.
    application_name: String,
    /// Options of the server (`-c name=value`).
    options: String,
    /// [`Config::path`].
    @"path" path: Path,
    /// [`Config::endpoint`].
    @"endpoint" endpoint: Endpoint,
    /// [`Config::lifetime`].
    @"lifetime" lifetime: ConnectionLifetime,
    /// [`Config::reset`].
    @"reset" reset: Reset,
    /// [`Config::schema`].
    schema: String,
    /// [`Config::jit`].
    jit: bool,
    /// [`Config::max_connections`].
    max_connections: usize,
    /// [`Config::max_idle`].
    max_idle: usize,
    /// [`Config::max_age`].
    @"time" max_age: Duration,
    /// [`Config::max_idle_time`].
    @"time" max_idle_time: Duration,
    /// [`Config::probe_after`].
    @"time" probe_after: Duration,
    /// [`Config::acquire_timeout`].
    @"time" acquire_timeout: Duration,
    /// [`Config::connect_timeout`].
    @"time" connect_timeout: Duration,
    /// [`Config::statement_timeout`].
    @"time" statement_timeout: Duration,
    /// [`Config::idle_in_transaction_timeout`].
    @"time" idle_in_transaction_timeout: Duration,
    /// [`Config::transaction_timeout`].
    @"time" transaction_timeout: Duration,
    /// [`Config::idle_session_timeout`].
    @"time" idle_session_timeout: Duration,
    /// [`Config::function_timeout`].
    @"time" function_timeout: Duration,
    /// [`Config::statement_cache`].
    statement_cache: usize,
    /// [`Config::crowded_at`].
    crowded_at: u8,
    /// [`Config::load_shed`].
    load_shed: LoadShed,
    /// [`Config::health_token`].
    @"text" health_token: String,
}

impl ConfigBuilder {
    /// The configuration.
    ///
    /// # Errors
    ///
    /// Those of [`Config::from_url`] and [`Config::from_env`].
    pub fn build(self) -> Result<Config> {
        self.build_in(&Environment::of_process())
    }

    pub(super) fn build_in(self, environment: &Environment) -> Result<Config> {
        let (mut source, direct) = match (&self.url, &self.host) {
            (Some(url), _) => (Source::code(url)?, None),
            (None, Some(_)) => (Source::none(), None),
            (None, None) => (
                Source::environment(environment)?,
                source::direct(environment)?,
            ),
        };
        let port = self.port.map(|port| port.to_string());
        for (name, value) in [
            ("host", self.host),
            ("port", port),
            ("user", self.user),
            ("password", self.password),
            ("dbname", self.dbname),
            ("sslmode", self.sslmode),
            ("sslrootcert", self.sslrootcert),
            ("application_name", self.application_name),
            ("options", self.options),
            ("schema", self.schema),
        ] {
            if let Some(value) = value {
                source.parameters.add(name, value);
            }
        }
        let mut config = Config::from_read(source.read()?, environment)?;
        config.direct = match &self.direct_url {
            Some(url) => Some(DirectEndpoint::from_url(url)?),
            None => direct,
        };
        if let Some(path) = self.path {
            config.set_path(path);
        }
        set(&mut config.endpoint, self.endpoint);
        if let Some(lifetime) = self.lifetime {
            config.set_lifetime(lifetime);
        }
        set(&mut config.reset, self.reset);
        set(&mut config.jit, self.jit);
        set(&mut config.max_connections, self.max_connections);
        config.max_idle = self.max_idle.or(config.max_idle);
        set(&mut config.max_age, self.max_age);
        config.max_idle_time = self.max_idle_time.or(config.max_idle_time);
        set(&mut config.probe_after, self.probe_after);
        set(&mut config.acquire_timeout, self.acquire_timeout);
        set(&mut config.connect_timeout, self.connect_timeout);
        set(&mut config.statement_timeout, self.statement_timeout);
        set(
            &mut config.idle_in_transaction_timeout,
            self.idle_in_transaction_timeout,
        );
        set(&mut config.transaction_timeout, self.transaction_timeout);
        set(&mut config.idle_session_timeout, self.idle_session_timeout);
        config.function_timeout = self.function_timeout.or(config.function_timeout);
        set(&mut config.statement_cache, self.statement_cache);
        set(&mut config.crowded_at, self.crowded_at);
        set(&mut config.load_shed, self.load_shed);
        config.health_token = self.health_token;
        Ok(config)
    }
}

impl fmt::Debug for ConfigBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // It holds a password, in a URL perhaps.
        f.debug_struct("ConfigBuilder").finish_non_exhaustive()
    }
}

/// As [`ConfigBuilder`] has the fields. There is no `Serialize`, which would write the
/// password.
impl<'de> Deserialize<'de> for Config {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let builder = ConfigBuilder::deserialize(deserializer)?;
        builder.build().map_err(de::Error::custom)
    }
}

/// A text that is not repeated in errors: a password of digits without quotes is a
/// number to most formats, and serde would show it.
fn text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    struct Text;

    impl<'de> Visitor<'de> for Text {
        type Value = Option<String>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a text in quotes")
        }

        fn visit_str<E: de::Error>(self, text: &str) -> Result<Self::Value, E> {
            Ok(Some(text.to_owned()))
        }

        fn visit_u64<E: de::Error>(self, _: u64) -> Result<Self::Value, E> {
            Err(E::custom("a number where a text in quotes is expected"))
        }

        fn visit_i64<E: de::Error>(self, _: i64) -> Result<Self::Value, E> {
            self.visit_u64(0)
        }

        fn visit_f64<E: de::Error>(self, _: f64) -> Result<Self::Value, E> {
            self.visit_u64(0)
        }

        fn visit_none<E: de::Error>(self) -> Result<Self::Value, E> {
            Ok(None)
        }

        fn visit_unit<E: de::Error>(self) -> Result<Self::Value, E> {
            Ok(None)
        }

        fn visit_some<D: Deserializer<'de>>(self, inner: D) -> Result<Self::Value, D::Error> {
            inner.deserialize_any(self)
        }
    }

    deserializer.deserialize_option(Text)
}

/// One of some words. What is there instead is not repeated: it may have been meant for
/// another field.
fn word<'de, D: Deserializer<'de>, T: Copy>(
    deserializer: D,
    field: &str,
    words: &[(&str, T)],
) -> Result<Option<T>, D::Error> {
    let Some(given) = text(deserializer)? else {
        return Ok(None);
    };
    let found = words.iter().find(|(word, _)| *word == given);
    let wanted: Vec<_> = words.iter().map(|(word, _)| *word).collect();
    let wrong = || de::Error::custom(format!("{field} is one of {}", wanted.join(", ")));
    found.map(|(_, value)| Some(*value)).ok_or_else(wrong)
}

fn path<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Path>, D::Error> {
    word(deserializer, "path", &PATHS)
}

fn endpoint<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Endpoint>, D::Error> {
    word(deserializer, "endpoint", &ENDPOINTS)
}

fn lifetime<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<ConnectionLifetime>, D::Error> {
    word(deserializer, "lifetime", &LIFETIMES)
}

fn reset<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Reset>, D::Error> {
    let all = [
        ("detected", Reset::Detected),
        ("always", Reset::Always),
        ("never", Reset::Never),
    ];
    word(deserializer, "reset", &all)
}

/// `"1h30m"`, or a number of seconds.
fn time<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
    #[derive(serde::Deserialize)]
    #[serde(
        untagged,
        expecting = "a duration (\"300ms\", \"1h30m\", or a number of seconds)"
    )]
    enum Time {
        Seconds(f64),
        Text(String),
    }
    let parsed = match Option::<Time>::deserialize(deserializer)? {
        None => return Ok(None),
        Some(Time::Seconds(seconds)) => Duration::try_from_secs_f64(seconds).ok(),
        Some(Time::Text(text)) => duration::parse(&text),
    };
    match parsed {
        Some(parsed) => Ok(Some(parsed)),
        None => Err(de::Error::custom(format!("expected {}", duration::WANTED))),
    }
}

#[cfg(test)]
mod tests;
