//! Generates setters, fields and readers from the [table](super::table).

/// The parameters that have a setter, then the settings. A setting is
///
/// ```text
/// name: type [= default] [, default "in words"]
///     [, url "parameter" reader] [, overrides "VARIABLE" reader] [, limit "VARIABLE" reader]
///     [, health field reader];
/// ```
///
/// Without a default it is an `Option` once in force. The two arguments in front are what a
/// default may depend on.
macro_rules! settings {
    (
        parameters { $($(#[$about:meta])+ $text:ident: $text_type:ident;)+ }
        settings($environment:ident, $pooler:ident) { $(
            $(#[$doc:meta])+
            $name:ident: $type:ident $(= $default:expr)? $(, default $words:literal)?
                $(, url $parameter:literal $of_parameter:ident)?
                $(, overrides $override:literal $of_override:ident)?
                $(, limit $limit:literal $of_limit:ident)?
                $(, health $echo:ident $of_echo:ident)?;
        )+ }
    ) => {
        impl Config {
            $(
                $(#[$about])+
                pub fn $text(mut self, $text: settings!(@argument $text_type)) -> Self {
                    let value: $text_type = $text.into();
                    self.parameters.set(stringify!($text), value.to_string(), Origin::Code);
                    self
                }
            )+
            $(
                $(#[$doc])+
                pub fn $name(mut self, $name: settings!(@argument $type)) -> Self {
                    self.code.$name = Some(Sourced { value: $name.into(), origin: Origin::Code });
                    self
                }
            )+
        }

        /// The fields that a [`Config`] is deserialized from.
        #[derive(Default, serde::Deserialize)]
        #[serde(default, deny_unknown_fields)]
        pub(super) struct Fields {
            #[serde(deserialize_with = "value")]
            pub(super) url: Option<String>,
            #[serde(deserialize_with = "value")]
            pub(super) direct_url: Option<String>,
            $(#[serde(deserialize_with = "value")] $text: Option<$text_type>,)+
            $(#[serde(deserialize_with = "value")] $name: Option<$type>,)+
        }

        impl Fields {
            /// Sets all fields but the URLs in `config`.
            pub(super) fn over(self, mut config: Config) -> Result<Config> {
                $(if let Some(value) = self.$text {
                    values::check(stringify!($text), stringify!($text), &value.to_string())?;
                    config = config.$text(value);
                })+
                $(if let Some(value) = self.$name {
                    config = config.$name(value);
                })+
                Ok(config)
            }
        }

        /// The settings that were set, and where.
        #[derive(Clone, Default)]
        pub(super) struct PartialSettings {
            $(pub(super) $name: Option<Sourced<$type>>,)+
        }

        impl PartialSettings {
            /// Merges the sources: overrides over `code`, that over the connection parameters,
            /// those over the variables with the limits of Go's `database/sql`.
            pub(super) fn merged(
                code: PartialSettings,
                given: &Parameters,
                environment: &Environment,
            ) -> Result<Self> {
                let variable = Origin::Variable;
                Ok(PartialSettings { $($name: [
                    $(sourced($of_override(environment, $override)?, variable($override)),)?
                    code.$name,
                    $(sourced($of_parameter(given, $parameter)?, given.origin($parameter)),)?
                    $(sourced($of_limit(environment, $limit)?, variable($limit)),)?
                ].into_iter().flatten().next(),)+ })
            }

            /// The settings of connections to `endpoint`.
            pub(super) fn in_force(
                self,
                endpoint: DirectEndpoint,
                given: &Parameters,
                $environment: &Environment,
            ) -> Settings {
                let $pooler = self.pooler.as_ref().map_or(endpoint.pooler, |set| set.value);
                let mut origins = Vec::new();
                $(origins.extend(given.get(stringify!($text)).map(|_| {
                    (stringify!($text), given.origin(stringify!($text)))
                }));)+
                $(origins.extend(self.$name.as_ref().map(|set| (stringify!($name), set.origin)));)+
                Settings {
                    server: endpoint.server,
                    credentials: None,
                    tls: endpoint.tls,
                    direct: None,
                    $($name: settings!(@resolve self.$name, $($default)?),)+
                    origins,
                    variables: Vec::new(),
                }
            }
        }

        /// The settings in force: what a [`Config`], the environment and the defaults come
        /// to. [`Database::settings`](crate::Database::settings) has them.
        ///
        /// Its `Debug` shows neither password nor client keys.
        #[derive(Clone)]
        #[non_exhaustive]
        pub struct Settings {
            /// The address and the login: hosts, ports, user, password, database,
            /// `application_name`, `options`, keepalives.
            pub server: tokio_postgres::Config,
            /// The provider of the password for every connect.
            pub credentials: Option<Arc<dyn Credentials>>,
            /// Encryption and verification.
            pub tls: Tls,
            /// The direct endpoint of the same database.
            pub direct: Option<DirectEndpoint>,
            $(
                #[doc = concat!("[`Config::", stringify!($name), "`].")]
                pub $name: settings!(@in_force $type $($default)?),
            )+
            /// Where each setting was set; defaults are missing.
            pub(super) origins: Vec<(&'static str, Origin)>,
            /// The overrides that are set.
            pub(super) variables: Vec<(&'static str, String)>,
        }

        impl fmt::Debug for Settings {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                // tokio-postgres hides the password in its own Debug.
                f.debug_struct("Settings")
                    .field("server", &self.server)
                    .field("credentials", &self.credentials.as_ref().map(|_| ".."))
                    .field("tls", &self.tls)
                    .field("direct", &self.direct)
                    $(.field(stringify!($name), settings!(@shown $name, &self.$name)))+
                    .finish()
            }
        }

        /// The settings in force, without hosts, names and secrets. Times are in seconds;
        /// `None` is no limit, or the server's own.
        #[derive(Debug, Clone, PartialEq, Serialize)]
        #[non_exhaustive]
        pub struct SettingsReport {
            $($(
                #[doc = concat!("[`Config::", stringify!($name), "`].")]
                pub $echo: settings!(@echo $of_echo $type),
            )?)+
            /// The overrides (`ANTIFREEZE_*` variables), which won; a token's value is not
            /// shown.
            pub variables: BTreeMap<&'static str, String>,
        }

        impl Settings {
            /// These settings as the health report has them.
            pub fn report(&self) -> SettingsReport {
                SettingsReport {
                    $($($echo: self.$of_echo(self.$name),)?)+
                    variables: self.variables.iter().cloned().collect(),
                }
            }
        }

        /// The overrides.
        pub(super) const OVERRIDES: &[&str] = &[$($($override,)?)+];

        /// The rows of the documentation's table.
        #[cfg(test)]
        pub(super) fn rows(settings: &Settings) -> Vec<[String; 6]> {
            vec![$([
                stringify!($name),
                [$($words,)? &shown(&settings.$name)][0],
                [$($parameter,)? ""][0],
                [$($override,)? ""][0],
                [$($limit,)? ""][0],
                [$(stringify!($echo),)? ""][0],
            ].map(str::to_owned),)+]
        }
    };
    (@argument String) => { impl Into<String> };
    (@argument $type:ident) => { $type };
    (@in_force $type:ident) => { Option<$type> };
    (@in_force $type:ident $default:expr) => { $type };
    (@resolve $set:expr,) => { $set.map(|set| set.value) };
    (@resolve $set:expr, $default:expr) => { $set.map_or_else(|| $default, |set| set.value) };
    (@shown health_token, $value:expr) => { &$value.as_ref().map(|_| "..") };
    (@shown $name:ident, $value:expr) => { $value };
    (@echo same $type:ident) => { $type };
    (@echo kept $type:ident) => { usize };
    (@echo $of_echo:ident $type:ident) => { Option<f64> };
}

pub(super) use settings;
