//! Recognises providers and poolers by their addresses and messages.
//!
//! A provider is a [`Provider`] in a file of its own, listed in [`ALL`]; its page is in
//! `docs/providers`. The rest of the crate looks up the pooler, the limits or the authority of a
//! host here, and contains no provider's name.

mod aiven;
mod dsql;
mod known_error;
mod neon;
mod others;
mod pgbouncer;
mod pooler;
mod postgresql;
mod prisma;
mod rds;
mod rds_proxy;
mod supabase;

use std::time::Duration;

pub(crate) use known_error::CHECK_POOL;
use known_error::KnownError;
pub(crate) use pgbouncer::{DROPS_OPTIONS, detect_at_start, pool_mode, refuses_settings};
pub(crate) use pooler::POOLERS;
pub use pooler::{Pooler, detect};
pub use postgresql::RESERVED;
pub(crate) use prisma::{OWN_SERVICE, SSLCERT, is_own_scheme};
pub(crate) use rds::{NO_CREDENTIALS, PASSWORD_REFUSED, PASSWORD_UNANSWERED};
pub(crate) use supabase::pool_size;

/// What is known of one provider or pooler.
struct Provider {
    /// Describes a host by the [labels](labels) of its name.
    host: fn(&[&str]) -> Option<Host>,
    /// Detects the pooler by labels and port.
    pooler: fn(&[&str], u16) -> Option<Detected>,
    /// Its own error messages.
    known_errors: &'static [KnownError],
}

/// A pooler, and the part of the address that it was detected by.
type Detected = (Pooler, &'static str);

/// Every provider; the first that matches applies, those with host names before ports.
const ALL: &[Provider] = &[
    aiven::PROVIDER,
    dsql::PROVIDER,
    neon::PROVIDER,
    rds_proxy::PROVIDER,
    rds::PROVIDER,
    supabase::PROVIDER,
    others::PROVIDER,
    pgbouncer::PROVIDER,
];

/// A provider of which nothing is known.
const UNKNOWN: Provider = Provider {
    host: |_| None,
    pooler: |_, _| None,
    known_errors: &[],
};

/// What is known of a host by its name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Host {
    /// The name alone determines the pooler. The process numbers of its sessions are then not
    /// considered: a provider's proxy may make them up as a pooler does, and yet assign one
    /// server connection to each session.
    pub(crate) certain: bool,
    /// The host of the server itself, without the pooler.
    pub(crate) direct: Option<String>,
    /// The pooler at port 5432 of a host that has a transaction pooler on another port.
    pub(crate) session: Option<Pooler>,
    /// The authority that signs the certificate.
    pub(crate) authority: Authority,
    /// The limits of the server, where they differ from those of PostgreSQL.
    pub(crate) limits: Limits,
    /// The provider's region.
    pub(crate) region: Option<String>,
    /// The remedy if the name has no reachable address.
    pub(crate) unreachable: Option<&'static str>,
}

/// The authority that signs the certificate of a host.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Authority {
    /// Not known by the name.
    #[default]
    Unknown,
    /// A public authority, which browsers trust.
    Public,
    /// An authority of the provider.
    Provider {
        /// The certificates that are shipped, PEM.
        shipped: Option<&'static str>,
        /// The remedy if another authority signed.
        otherwise: &'static str,
    },
}

/// The limits of a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Limits {
    /// The age at which a connection is replaced before the server closes it.
    pub(crate) max_age: Duration,
    /// The server accepts the startup settings of PostgreSQL.
    pub(crate) settings: bool,
    /// Each connection takes a slot that `pg_stat_activity` shows.
    pub(crate) slots: bool,
    /// Why migrations cannot run, and the remedy.
    pub(crate) migrations: Option<(&'static str, &'static str)>,
}

/// The limits of PostgreSQL.
impl Default for Limits {
    fn default() -> Self {
        Limits {
            max_age: Duration::MAX,
            settings: true,
            slots: true,
            migrations: None,
        }
    }
}

impl Host {
    /// Looks a name up by its end, which the provider owns.
    pub(crate) fn of(name: &str) -> Self {
        let name = lower(name);
        let labels = labels(&name);
        let known = ALL.iter().find_map(|provider| (provider.host)(&labels));
        known.unwrap_or_default()
    }
}

/// Returns whether nothing is known of a host: it is PostgreSQL or PgBouncer.
pub(crate) fn is_unknown(host: Option<&str>, pooler: Pooler) -> bool {
    Host::of(host.unwrap_or_default()) == Host::default() && pooler != Pooler::RdsProxy
}

fn lower(name: &str) -> String {
    name.trim_end_matches('.').to_ascii_lowercase()
}

/// Splits a name into its labels, the last first: `com`, `example`, `db`.
fn labels(name: &str) -> Vec<&str> {
    name.rsplit('.').collect()
}

/// Looks up what an ErrorResponse means; `at_start`: it answers the startup packet.
///
/// Poolers put nearly everything under a few codes. Their messages are no interface and change
/// from one release to the next: an unknown message falls back to its code.
pub(crate) fn known_error(
    code: &str,
    message: &str,
    routine: &str,
    at_start: bool,
) -> &'static KnownError {
    let poolers = ["08P01", "08006", "XX000", "53300", "0A000", "28000"];
    let pooler = at_start || poolers.contains(&code);
    let rows = |wanted: bool, rows: &'static [KnownError]| rows.iter().filter(move |_| wanted);
    let text = format!("{message}\n{routine}").to_ascii_lowercase();
    ALL.iter()
        .flat_map(|provider| rows(pooler, provider.known_errors))
        .chain(rows(at_start, postgresql::AT_START))
        .chain(postgresql::ERRORS)
        .find(|known| known.matches(code, &text))
        .unwrap_or(&postgresql::FALLBACKS[usize::from(at_start)])
}

#[cfg(test)]
mod tests;
