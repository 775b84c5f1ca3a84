//! What the crates, the tests and the fuzz targets beside this crate need of its inside. It may
//! change with any release.

use std::sync::Arc;

pub use crate::backoff::Backoff;
pub use crate::clock::{Clock, System};
pub use crate::config::{Described, ServerTimeout, nearest, parse_duration};
use crate::config::{DirectEndpoint, Environment, Origin, Pooler, Settings};
pub use crate::connect::{ConnectOptions, Connector, Progress, Target};
pub use crate::credentials::given;
use crate::provider::Host;
pub use crate::provider::RESERVED;
pub use crate::random::number as random_number;
pub use crate::tls::{Handshake, Summary as CertificateSummary};
pub use crate::wire::residue::setting;
use crate::{Database, Result, Session};

/// The region that the name of a host tells, if a provider's name tells one.
pub fn region(host: &str) -> Option<String> {
    Host::of(host).region
}

/// Creates a database with these settings and ignores the environment.
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

/// What the sessions of `database` are opened by.
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

/// What the process's environment has to say about these settings.
pub fn described(settings: &Settings) -> Described {
    settings.described()
}

/// Whether a session of these settings is sent any options at its start.
pub fn has_startup_options(settings: &Settings) -> bool {
    settings.startup_options().is_some()
}

/// Whether timeouts and `jit` are among them.
pub fn sends_settings(settings: &Settings) -> bool {
    settings.sends_settings()
}

/// The timeouts that a session of these settings is told at its start, in milliseconds.
pub fn startup_timeouts(settings: &Settings) -> Vec<ServerTimeout> {
    settings.startup_timeouts()
}

/// Those that it is told behind its start.
pub fn told_timeouts(settings: &Settings) -> Vec<ServerTimeout> {
    settings.server_timeouts(settings.longest_call(None))
}

/// The settings for a session that keeps its locks.
///
/// # Errors
///
/// No endpoint is known that keeps a session.
pub fn for_migrations(
    settings: &Settings,
    endpoint: Option<DirectEndpoint>,
    environment: bool,
) -> Result<Settings> {
    let environment = environment.then(Environment::of_process);
    settings.for_migrations(endpoint, environment.as_ref())
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

    /// The same with its source.
    pub fn because(
        kind: ErrorKind,
        message: impl Into<Cow<'static, str>>,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Error {
        Error::new(kind, message).with_source(source)
    }

    /// The same, with the remedy of its kind behind the cause.
    pub fn caused(
        kind: ErrorKind,
        cause: impl Into<Cow<'static, str>>,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Error {
        Error::caused(kind, cause).with_source(source)
    }

    /// What is configured cannot be.
    pub fn configuration(message: impl Into<Cow<'static, str>>) -> Error {
        Error::configuration(message)
    }

    /// A pooler let a client in and gave it no server in time.
    pub fn no_server(limit: Duration) -> Error {
        Error::no_server(limit)
    }
}

/// The start of a session, for the fuzz target.
#[cfg(fuzzing)]
pub mod startup {
    pub use crate::connect::startup::Mechanism;
    pub use crate::connect::startup::fuzzing::{Asked, authenticate};
}

/// The stream under tokio-postgres, for the tests and the fuzz targets.
pub mod wire {
    pub use crate::wire::{Snapshot, Stream, Transport, Wire};
}
