//! Knowledge of providers and poolers, one file each.
//!
//! One file each, as in `docs/providers`, and one line in [`ALL`]. The rest of the crate
//! asks for a role, the path or the authority of a host, and names none of them.

mod aiven;
mod dsql;
mod neon;
mod others;
mod pgbouncer;
mod pooler;
mod postgresql;
mod prisma;
mod rds;
mod rds_proxy;
mod refusal;
mod supabase;

use std::time::Duration;

pub(crate) use pgbouncer::{DROPS_OPTIONS, pool_mode, refuses_settings, shown};
pub use pooler::Pooler;
pub(crate) use pooler::{POOLERS, detect};
pub(crate) use prisma::{OWN_SERVICE, SSLCERT, is_own_scheme};
pub(crate) use rds::{NO_CREDENTIALS, PASSWORD_REFUSED, PASSWORD_UNANSWERED, reserved_setting};
pub(crate) use rds_proxy::NOT_FOR_MIGRATIONS;
pub(crate) use refusal::{Refusal, SHORTER, refusal};
pub(crate) use supabase::pool_size;

/// What is known of one provider or pooler.
struct Provider {
    /// What its host is, by the [labels](labels) of the name.
    host: fn(&[&str]) -> Option<Host>,
    /// The path that one of its addresses tells.
    pooler: fn(&[&str], u16) -> Option<Told>,
    /// What it says by words of its own.
    refusals: &'static [Refusal],
}

/// A path, and what of the address tells it.
type Told = (Pooler, &'static str);

/// The first that knows has the word: what a name tells before what a port does.
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
    refusals: &[],
};

/// What the name of a host tells.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Host {
    /// The name tells the path, so that nothing else has to be guessed from: a provider's
    /// proxy may number its sessions as a pooler does, and yet pass each on to one server.
    pub(crate) certain: bool,
    /// The host of the server itself, past the pooler.
    pub(crate) direct: Option<String>,
    /// What port 5432 is, on a host that has a transaction pooler on another.
    pub(crate) session: Option<Pooler>,
    /// The authority that signs its certificate.
    pub(crate) authority: Authority,
    /// Where its server is not as PostgreSQL is.
    pub(crate) limits: Limits,
    /// Where it is, by the provider's name for that.
    pub(crate) region: Option<String>,
    /// What helps where it has no address that can be reached.
    pub(crate) unreachable: Option<&'static str>,
}

/// The authority that signs the certificate of a host.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Authority {
    /// The name does not tell.
    #[default]
    Unknown,
    /// An authority that browsers trust.
    Public,
    /// The provider's own.
    Own {
        /// Those that are shipped, PEM.
        shipped: Option<&'static str>,
        /// What to do about a certificate that is of another.
        otherwise: &'static str,
    },
}

/// What a server takes and bears.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Limits {
    /// The server ends connections that are older by itself.
    pub(crate) max_age: Duration,
    /// It takes settings at start-up that PostgreSQL takes.
    pub(crate) settings: bool,
    /// A connection takes one of the slots that `pg_stat_activity` shows.
    pub(crate) slots: bool,
    /// Why it cannot be migrated, and what to do instead.
    pub(crate) migrations: Option<(&'static str, &'static str)>,
}

/// PostgreSQL's own.
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
    /// Reads a name from its end, since only that is the provider's.
    pub(crate) fn of(name: &str) -> Self {
        let name = lower(name);
        let labels = labels(&name);
        let mut known = ALL.iter().filter_map(|provider| (provider.host)(&labels));
        known.next().unwrap_or_default()
    }
}

fn lower(name: &str) -> String {
    name.trim_end_matches('.').to_ascii_lowercase()
}

/// The parts of a name from its end: `com`, `example`, `db`.
fn labels(name: &str) -> Vec<&str> {
    name.rsplit('.').collect()
}

#[cfg(test)]
mod tests;
