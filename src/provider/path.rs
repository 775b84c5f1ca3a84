//! What lies between us and the server, and how it is told from an address.

use serde::{Deserialize, Serialize};

use super::{ALL, Told, labels, lower};

/// What lies between us and the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Path {
    /// Nothing.
    #[default]
    Direct,
    /// A pooler that gives out a server for one transaction at a time (PgBouncer,
    /// Neon's pooled host, Supavisor on 6543): named statements are sent unnamed,
    /// no settings at start-up, no session state.
    TransactionPooler,
    /// A pooler that gives out a server for as long as the client stays.
    SessionPooler,
    /// Amazon RDS Proxy: no settings at start-up, and no CancelRequest.
    RdsProxy,
}

/// By their names in variables.
pub(crate) const PATHS: [(&str, Path); 4] = [
    ("direct", Path::Direct),
    ("transaction-pooler", Path::TransactionPooler),
    ("session-pooler", Path::SessionPooler),
    ("rds-proxy", Path::RdsProxy),
];

/// The path that an address tells.
pub(crate) fn detect(host: &str, port: u16) -> Option<Told> {
    let host = lower(host);
    let labels = labels(&host);
    let mut told = ALL.iter().filter_map(|it| (it.path)(&labels, port));
    told.next()
}

impl Path {
    /// Why it is this one.
    pub(crate) fn why(self, host: &str, port: u16) -> &'static str {
        match (self, detect(host, port)) {
            (_, Some((told, why))) if told == self => why,
            (Path::TransactionPooler, _) => "pgbouncer=true in the URL, or the code, says so",
            (Path::Direct, _) => "nothing in the host or the port speaks of a pooler",
            _ => "the configuration says so",
        }
    }

    pub(crate) fn takes_cancel(self) -> bool {
        self != Path::RdsProxy
    }

    /// Whether settings may be sent in the start-up packet. PgBouncer refuses them,
    /// RDS Proxy too, and Supavisor forgets them in silence.
    pub(crate) fn takes_options(self) -> bool {
        self == Path::Direct
    }

    /// As the settings name it: `direct`.
    pub fn name(self) -> &'static str {
        let named = PATHS.iter().find(|(_, path)| *path == self);
        named.map_or("direct", |(name, _)| name)
    }
}
