//! What the crates, the tests and the fuzz targets beside this crate need of its inside. It may
//! change with any release.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

pub use crate::backoff::Backoff;
pub use crate::clock::{Clock, System};
use crate::config::{Origin, Pooler, Settings};
pub use crate::config::{ServerTimeout, nearest, parse_duration};
pub use crate::connect::{ConnectOptions, Connector, Progress, Target};
pub use crate::credentials::given;
pub use crate::observe::{Kind, METRICS, Metric, Unit};
use crate::provider::Host;
pub use crate::provider::RESERVED;
pub use crate::random::number as random_number;
pub use crate::tls::{Handshake, Summary as CertificateSummary};
pub use crate::wire::residue::setting;
use crate::{Database, Result, Session};

/// Adds the variables of files such as `.env` to the environment that configurations are read
/// from, below those of the process that are not blank. The `hidden` ones of the process do not
/// count. Has an effect once, before a configuration is read.
pub fn add_variables(variables: BTreeMap<String, String>, hidden: BTreeSet<String>) {
    crate::config::add_files(variables, hidden);
}

/// Reads a variable of the process, or else one that was added.
pub fn variable(name: &str) -> Option<String> {
    crate::config::variable(name)
}

/// The region in the name of a host, if the provider has it there.
pub fn region(host: &str) -> Option<String> {
    Host::of(host).region
}

/// Makes a database with these settings; the environment is not read.
///
/// # Errors
///
/// Its health token cannot be used.
pub fn database(settings: Settings) -> Result<Database> {
    Database::of(settings)
}

/// Changes the settings to those for a pooler that was detected.
pub fn follow(settings: &mut Settings, pooler: Pooler) {
    settings.follow(pooler, Some(Origin::Code));
}

/// The connector that opens the sessions of `database`.
pub fn connector(database: &Database) -> &Arc<Connector> {
    &database.pools().connector
}

/// Opens a session.
///
/// # Errors
///
/// Those of connecting.
pub async fn open(connector: &Arc<Connector>, options: ConnectOptions<'_>) -> Result<Session> {
    Session::open(connector, options).await
}

/// Whether the start-up packet of these settings has options.
pub fn has_startup_options(settings: &Settings) -> bool {
    settings
        .startup_options(settings.longest_call(None))
        .is_some()
}

/// Whether timeouts and `jit` are among the start-up options.
pub fn sends_settings(settings: &Settings) -> bool {
    settings.sends_settings()
}

/// The timeouts in the start-up packet, in milliseconds.
pub fn startup_timeouts(settings: &Settings) -> Vec<ServerTimeout> {
    settings.startup_timeouts(settings.longest_call(None))
}

/// The timeouts that are sent once a session has started.
pub fn session_timeouts(settings: &Settings) -> Vec<ServerTimeout> {
    settings.server_timeouts(settings.longest_call(None))
}

/// Why migrations cannot run on the server of these settings, and what to do instead.
pub fn refuses_migrations(settings: &Settings) -> Option<(&'static str, &'static str)> {
    settings.limits().migrations
}

/// Errors of this crate, made by another.
pub mod error {
    use std::borrow::Cow;
    use std::time::Duration;

    use crate::{Error, ErrorKind};

    /// An error of this kind.
    pub fn new(kind: ErrorKind, message: impl Into<Cow<'static, str>>) -> Error {
        Error::new(kind, message)
    }

    /// An error of this kind with its source.
    pub fn because(
        kind: ErrorKind,
        message: impl Into<Cow<'static, str>>,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Error {
        Error::new(kind, message).with_source(source)
    }

    /// An error with the remedy of its kind behind the cause.
    pub fn caused(
        kind: ErrorKind,
        cause: impl Into<Cow<'static, str>>,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Error {
        Error::caused(kind, cause).with_source(source)
    }

    /// A configuration error with a remedy of its own.
    pub fn misconfigured(cause: &'static str, remedy: &'static str) -> Error {
        Error::configuration(cause).with_remedy(remedy)
    }

    /// A configuration error.
    pub fn configuration(message: impl Into<Cow<'static, str>>) -> Error {
        Error::configuration(message)
    }

    /// The error where a pooler accepted a client and gave it no server in time.
    pub fn no_server(limit: Duration) -> Error {
        Error::no_server(limit)
    }
}

/// The private socket, for the fuzz target.
#[cfg(fuzzing)]
pub mod bridge {
    pub use crate::bridge::fuzzing::answers;
}

/// The start of a session, for the fuzz target.
#[cfg(fuzzing)]
pub mod startup {
    pub use crate::connect::startup::Mechanism;
    pub use crate::connect::startup::fuzzing::{Asked, authenticate};
}

/// The stream under tokio-postgres, for the tests and the fuzz targets.
pub mod wire {
    pub use crate::wire::{Diverted, Names, Naming, OwnAnswer, Snapshot, Stream, Transport, Wire};
}
