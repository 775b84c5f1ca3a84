//! The pooler between the function and the server, as the address tells it.

use serde::{Deserialize, Serialize};

use super::{ALL, Told, labels, lower};

/// The pooler between the function and the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Pooler {
    /// None: a connection is a session of the server.
    #[default]
    None,
    /// A pooler that gives out a server for one transaction at a time (PgBouncer,
    /// Neon's pooled host, Supavisor on 6543): named statements are sent unnamed,
    /// no settings at start-up, no session state.
    Transaction,
    /// A pooler that gives out a server for as long as the client stays.
    Session,
    /// Amazon RDS Proxy: no settings at start-up, and no CancelRequest.
    RdsProxy,
}

/// By their names in variables.
pub(crate) const POOLERS: [(&str, Pooler); 4] = [
    ("none", Pooler::None),
    ("transaction", Pooler::Transaction),
    ("session", Pooler::Session),
    ("rds-proxy", Pooler::RdsProxy),
];

/// Detects the pooler that an address belongs to.
pub(crate) fn detect(host: &str, port: u16) -> Option<Told> {
    let host = lower(host);
    let labels = labels(&host);
    let mut told = ALL.iter().filter_map(|it| (it.pooler)(&labels, port));
    told.next()
}

impl Pooler {
    /// Why it is this one.
    pub(crate) fn why(self, host: &str, port: u16) -> &'static str {
        match (self, detect(host, port)) {
            (_, Some((told, why))) if told == self => why,
            (Pooler::Transaction, _) => "pgbouncer=true in the URL, or the code, says so",
            (Pooler::None, _) => "nothing in the host or the port speaks of a pooler",
            _ => "the configuration says so",
        }
    }

    pub(crate) fn takes_cancel(self) -> bool {
        self != Pooler::RdsProxy
    }

    /// Whether settings can be sent in the start-up packet. PgBouncer refuses them,
    /// RDS Proxy too, and Supavisor forgets them in silence.
    pub(crate) fn takes_options(self) -> bool {
        self == Pooler::None
    }

    /// As the settings name it: `none`.
    pub fn name(self) -> &'static str {
        let named = POOLERS.iter().find(|(_, pooler)| *pooler == self);
        named.map_or("none", |(name, _)| name)
    }
}
