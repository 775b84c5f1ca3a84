//! Detects the pooler between the function and the server by the address.

use serde::{Deserialize, Serialize};

use super::{ALL, Detected, labels, lower};

/// The pooler between the function and the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Pooler {
    /// No pooler: a connection is a session of the server.
    #[default]
    None,
    /// A pooler that assigns a server connection for one transaction at a time (PgBouncer,
    /// Neon's pooled host, Supavisor on 6543): named statements are sent unnamed, without
    /// settings at startup and without session state.
    Transaction,
    /// A pooler that assigns a server connection until the client disconnects.
    Session,
    /// Amazon RDS Proxy, which supports neither settings at startup nor CancelRequest.
    RdsProxy,
}

/// The poolers by their names in variables.
pub(crate) const POOLERS: [(&str, Pooler); 4] = [
    ("none", Pooler::None),
    ("transaction", Pooler::Transaction),
    ("session", Pooler::Session),
    ("rds-proxy", Pooler::RdsProxy),
];

/// Detects the pooler that an address belongs to, and the part of the address that indicates it.
pub fn detect(host: &str, port: u16) -> Option<Detected> {
    let host = lower(host);
    let labels = labels(&host);
    ALL.iter().find_map(|it| (it.pooler)(&labels, port))
}

impl Pooler {
    /// Returns whether the pooler passes on a CancelRequest.
    pub(crate) fn takes_cancel(self) -> bool {
        self != Pooler::RdsProxy
    }

    /// Returns whether settings can be sent in the startup packet. PgBouncer and RDS Proxy
    /// reject them, and Supavisor ignores them silently.
    pub(crate) fn takes_options(self) -> bool {
        self == Pooler::None
    }

    /// Returns its name in settings: `none`.
    pub fn name(self) -> &'static str {
        let named = POOLERS.iter().find(|(_, pooler)| *pooler == self);
        named.map_or("none", |(name, _)| name)
    }
}
