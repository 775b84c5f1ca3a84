//! Exposes internals to the other crates, the tests and the fuzz targets of this repository. It may
//! change with any release.

use std::sync::Arc;

pub use crate::backoff::Backoff;
pub use crate::clock::{Clock, System};
pub use crate::config::duration::parse as parse_duration;
pub use crate::config::environment::{replace_variables, variable};
pub use crate::config::server_timeouts::ServerTimeout;
pub use crate::config::spelling::nearest;
use crate::config::{Origin, Pooler, Settings};
pub use crate::connect::{ConnectOptions, Connector, Progress, Target};
pub use crate::credentials::text::given;
pub use crate::observe::{Kind, METRICS, Metric, Unit};
use crate::provider::Host;
pub use crate::provider::{RESERVED, detect as detect_pooler};
pub use crate::random::number as random_number;
pub use crate::teardown::be_patient;
pub use crate::tls::{Handshake, Summary as CertificateSummary};
pub use crate::wire::residue::setting;
use crate::{Database, Result, Session};

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

/// The timeouts that the server is sent, in milliseconds: as a session starts, and after. None
/// where the server or the pooler takes no settings.
pub fn timeouts(settings: &Settings) -> Vec<ServerTimeout> {
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
    pub use crate::connect::startup::fuzzing::authenticate;
}

/// The stream under tokio-postgres, for the tests and the fuzz targets.
pub mod wire {
    pub use crate::wire::{Diverted, Names, Naming, OwnAnswer, Snapshot, Stream, Transport, Wire};
}
