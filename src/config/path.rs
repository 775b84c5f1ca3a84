//! What lies between us and the server, and how it is told from an address.

use serde::{Deserialize, Serialize};

use super::{ConnectionLifetime, Rds};

/// PgBouncer's `listen_port` unless somebody changes it (its manual, "Generic
/// settings"); Azure's built-in one is there too.
const PGBOUNCER: u16 = 6432;

/// Supavisor's port for transaction mode; 5432 is for session mode (Supabase's
/// documents, "Connect to your database").
const SUPAVISOR_TRANSACTIONS: u16 = 6543;

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
pub(super) const PATHS: [(&str, Path); 4] = [
    ("direct", Path::Direct),
    ("transaction-pooler", Path::TransactionPooler),
    ("session-pooler", Path::SessionPooler),
    ("rds-proxy", Path::RdsProxy),
];

impl Path {
    /// What an address tells. `pgbouncer` is Prisma's parameter: somebody says that it
    /// is one.
    pub(super) fn detect(host: &str, port: u16, pgbouncer: bool) -> Self {
        let host = host.trim_end_matches('.').to_ascii_lowercase();
        let supabase = if port == SUPAVISOR_TRANSACTIONS {
            Path::TransactionPooler
        } else {
            Path::SessionPooler
        };
        // What a host is by itself, nobody else can say better.
        if Rds::of(&host).is_some_and(|rds| rds.proxy) {
            Path::RdsProxy
        } else if host.ends_with(".pooler.supabase.com") {
            supabase
        } else if is_pooled_neon(&host)
            || (host.ends_with(".supabase.co") && port == SUPAVISOR_TRANSACTIONS)
            || port == PGBOUNCER
            || pgbouncer
        {
            Path::TransactionPooler
        } else {
            Path::Direct
        }
    }

    /// Why [`detect`](Path::detect) says what it says.
    pub(super) fn why(self, host: &str, port: u16) -> &'static str {
        let host = host.trim_end_matches('.').to_ascii_lowercase();
        match self {
            Path::RdsProxy if Rds::of(&host).is_some_and(|rds| rds.proxy) => {
                "by the name of the host"
            }
            Path::SessionPooler | Path::TransactionPooler
                if host.ends_with(".pooler.supabase.com") =>
            {
                "by the name of the host and the port"
            }
            Path::TransactionPooler if is_pooled_neon(&host) => "by the name of the host",
            Path::TransactionPooler if port == PGBOUNCER || port == SUPAVISOR_TRANSACTIONS => {
                "by the port"
            }
            Path::TransactionPooler => "pgbouncer=true in the URL, or the code, says so",
            Path::Direct => "nothing in the host or the port speaks of a pooler",
            _ => "the configuration says so",
        }
    }

    pub(super) fn lifetime(self) -> ConnectionLifetime {
        match self {
            // Its clients are as dear as the server's own slots.
            Path::SessionPooler => ConnectionLifetime::PerInvocation,
            _ => ConnectionLifetime::PerEventLoop,
        }
    }

    /// Whether the name of a host tells what is there, so that nothing else has to be
    /// guessed from: a provider's proxy may number its sessions as a pooler does, and
    /// yet pass each on to one server.
    pub(crate) fn is_known_by(host: &str) -> bool {
        let host = host.trim_end_matches('.').to_ascii_lowercase();
        let known = [".neon.tech", ".supabase.co", ".supabase.com"];
        known.iter().any(|suffix| host.ends_with(suffix)) || is_dsql(&host)
    }

    pub(crate) fn takes_cancel(self) -> bool {
        !matches!(self, Path::RdsProxy)
    }

    /// Whether settings may be sent in the start-up packet. PgBouncer refuses them,
    /// RDS Proxy too, and Supavisor forgets them in silence.
    pub(super) fn takes_options(self) -> bool {
        matches!(self, Path::Direct)
    }

    /// As the settings name it.
    pub fn name(self) -> &'static str {
        let named = PATHS.iter().find(|(_, path)| *path == self);
        named.map_or("direct", |(name, _)| name)
    }
}

/// `endpoint-pooler.region.aws.neon.tech` (Neon's documents, "Connection pooling").
fn is_pooled_neon(host: &str) -> bool {
    host.ends_with(".neon.tech") && host.split('.').next().is_some_and(is_pooler)
}

fn is_pooler(label: &str) -> bool {
    label.ends_with("-pooler")
}

/// The host behind Neon's pooler, which is named as the pooled one without `-pooler`.
pub(super) fn behind_neon_pooler(host: &str) -> Option<String> {
    let lower = host.to_ascii_lowercase();
    let pooled = is_pooled_neon(lower.trim_end_matches('.'));
    let (label, domain) = lower.split_once('.')?;
    let label = label.strip_suffix("-pooler")?;
    pooled.then(|| format!("{label}.{domain}"))
}

/// What port 5432 is on a host of Supabase's that has a pooler on 6543.
pub(super) fn behind_supabase_pooler(host: &str) -> Option<Path> {
    let host = host.trim_end_matches('.').to_ascii_lowercase();
    if host.ends_with(".pooler.supabase.com") {
        return Some(Path::SessionPooler);
    }
    host.ends_with(".supabase.co").then_some(Path::Direct)
}

/// Aurora DSQL takes few settings and fails at others (its documents, "Supported
/// session parameters").
pub(crate) fn is_dsql(host: &str) -> bool {
    let host = host.trim_end_matches('.').to_ascii_lowercase();
    host.ends_with(".on.aws") && host.split('.').any(|label| label.starts_with("dsql"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn told_from_host_port_and_url() {
        use Path::*;
        for (host, port, pgbouncer, expected) in [
            ("db.example.com", 5432, false, Direct),
            ("db.example.com", 6432, false, TransactionPooler),
            ("db.example.com", 5432, true, TransactionPooler),
            ("db.example.com", 6543, false, Direct),
            ("db-pooler.example.com", 5432, false, Direct),
            ("/run/postgresql", 6432, false, TransactionPooler),
            (
                "ep-cool-pooler.eu-central-1.aws.neon.tech",
                5432,
                false,
                TransactionPooler,
            ),
            (
                "EP-COOL-POOLER.eu-central-1.aws.NEON.tech.",
                5432,
                false,
                TransactionPooler,
            ),
            ("ep-cool.eu-central-1.aws.neon.tech", 5432, false, Direct),
            ("ep.x-pooler.neon.tech", 5432, false, Direct),
            (
                "aws-0-eu-central-1.pooler.supabase.com",
                5432,
                false,
                SessionPooler,
            ),
            (
                "aws-0-eu-central-1.pooler.supabase.com",
                5432,
                true,
                SessionPooler,
            ),
            (
                "aws-0-eu-central-1.pooler.supabase.com",
                6543,
                false,
                TransactionPooler,
            ),
            ("db.abc.supabase.co", 5432, false, Direct),
            ("db.abc.supabase.co", 6543, false, TransactionPooler),
            (
                "p.proxy-abc.eu-central-1.rds.amazonaws.com",
                5432,
                true,
                RdsProxy,
            ),
            (
                "ro.endpoint.proxy-abc.eu-central-1.rds.amazonaws.com",
                5432,
                false,
                RdsProxy,
            ),
            (
                "p.proxy-abc.cn-north-1.rds.amazonaws.com.cn",
                5432,
                false,
                RdsProxy,
            ),
            ("db.abc.eu-central-1.rds.amazonaws.com", 5432, false, Direct),
            ("p.proxy-abc.example.com", 5432, false, Direct),
            ("xpooler.supabase.com.evil.example", 5432, false, Direct),
        ] {
            let path = Path::detect(host, port, pgbouncer);
            assert_eq!(path, expected, "{host}:{port} {pgbouncer}");
        }
    }

    #[test]
    fn hosts_of_providers() {
        assert_eq!(
            behind_neon_pooler("ep-a-pooler.x.aws.neon.tech").as_deref(),
            Some("ep-a.x.aws.neon.tech")
        );
        assert_eq!(behind_neon_pooler("ep-a.x.aws.neon.tech"), None);
        assert_eq!(behind_neon_pooler("a-pooler.example.com"), None);
        assert!(is_dsql("abc.dsql.us-east-1.on.aws"));
        assert!(!is_dsql("abc.lambda-url.us-east-1.on.aws"));
        assert!(!is_dsql("dsql.example.com"));
    }
}
