//! Configures how a database is reached and how its connections are kept.

mod application;
mod build;
mod deserialize;
pub(crate) mod duration;
mod endpoint;
pub(crate) mod environment;
mod foreign;
mod keywords;
mod load_shed;
mod macros;
mod names;
mod options;
mod origin;
mod overrides;
mod parameters;
mod read;
mod readers;
mod report;
pub(crate) mod server_timeouts;
mod settings;
mod source;
pub(crate) mod spelling;
pub(crate) mod startup;
mod table;
mod target_session_attrs;
#[cfg(test)]
mod tests;
mod tls;
mod url;
mod values;
mod words;

use serde::{Deserialize, Serialize};

pub use endpoint::{DirectEndpoint, Endpoint};
pub(crate) use environment::Environment;
pub use load_shed::LoadShed;
pub use origin::Origin;
pub(crate) use server_timeouts::{CLIENT_CHECK, ServerTimeout, set_statements, since};
pub use table::{Config, Settings, SettingsReport};
pub(crate) use target_session_attrs::ReportedParameters;
pub use target_session_attrs::TargetSessionAttrs;
pub use tls::{ChannelBinding, ClientCertificate, Pem, RequireAuth, Roots, Tls, TlsMode};
pub(crate) use tls::{Method, could_be_file};

pub use crate::provider::Pooler;

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
    /// Returns the default lifetime behind `pooler`.
    fn behind(pooler: Pooler) -> Self {
        match pooler {
            // Each of its clients holds a slot of the server.
            Pooler::Session => ConnectionLifetime::PerInvocation,
            _ => ConnectionLifetime::PerEventLoop,
        }
    }
}

/// Whether the first message of SCRAM is sent together with the startup packet, which saves a
/// round trip of each connect.
///
/// If the server asks for something else (MD5, the password itself, or nothing), the connect is
/// repeated once without it, the server logs a protocol error, and from then on the process
/// sends what that server asked for. The message holds no part of the password.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum GuessAuthentication {
    /// For PostgreSQL and PgBouncer, and not for hosts of known providers.
    #[default]
    Auto,
    /// For every host.
    On,
    /// Never.
    Off,
}

/// What removes session state (`SET`, `LISTEN`, session locks, temporary tables)
/// before a connection is kept. It costs one round trip when it runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Reset {
    /// After a statement that leaves session state. State that a function of the server
    /// sets is not detected.
    #[default]
    Detected,
    /// After every invocation.
    Always,
    /// Never: the next invocation finds the session state of the previous one.
    Never,
}
