//! Amazon RDS and Aurora.

use super::{Authority, Host, Provider, UNKNOWN};

pub(super) const PROVIDER: Provider = Provider { host, ..UNKNOWN };

/// The authorities, each region's behind a line with its name; see `roots/README.md`.
pub(super) const ROOTS: &str = include_str!("roots/rds.pem");

/// Those of a region that we have no certificate for.
pub(super) const ELSEWHERE: Authority = own(None);

/// The remedy for a generated password that is refused.
pub(crate) const PASSWORD_REFUSED: &str = "the credentials provider was asked again, without success: check that its answer is for this user and host, and that the user can log in with it (an IAM token needs GRANT rds_iam)";

/// What to do where no password comes in time.
pub(crate) const PASSWORD_UNANSWERED: &str = "inside a VPC, Secrets Manager needs a NAT gateway or an interface endpoint; if the provider is only slow, raise `connect_timeout`";

/// The same where its provider fails.
pub(crate) const NO_CREDENTIALS: &str = "see the source; check that the function can read the secret and reach its store: inside a VPC, Secrets Manager needs a NAT gateway or an interface endpoint";

/// The setting that says how many slots are kept for `rds_superuser`. A macro, for `concat!`.
macro_rules! reserved_setting {
    () => {
        "rds.rds_superuser_reserved_connections"
    };
}

pub(crate) use reserved_setting;

/// Region, and what is left of the [labels](super::labels), the id first:
/// `name.id.REGION.rds.amazonaws.com`; in China `name.id.rds.REGION.amazonaws.com.cn`
/// ("Endpoints and ARNs for AWS in China"), and so that nothing hangs on the order, the
/// other way round as well.
pub(super) fn place<'a>(labels: &'a [&'a str]) -> Option<(&'a str, &'a [&'a str])> {
    match labels {
        ["com", "amazonaws", "rds", region, rest @ ..]
        | ["cn", "com", "amazonaws", "rds", region, rest @ ..]
        | ["cn", "com", "amazonaws", region, "rds", rest @ ..] => {
            (!rest.is_empty()).then_some((region, rest))
        }
        _ => None,
    }
}

fn host(labels: &[&str]) -> Option<Host> {
    let (region, _) = place(labels)?;
    Some(Host {
        region: Some(region.to_owned()),
        authority: own(shipped(region)),
        ..Host::default()
    })
}

/// "Using SSL/TLS to encrypt a connection": authorities for each region.
/// <https://docs.aws.amazon.com/AmazonRDS/latest/UserGuide/UsingWithRDS.SSL.html>
const fn own(shipped: Option<&'static str>) -> Authority {
    Authority::Own {
        shipped,
        otherwise: "download the authorities of its region (RDS manual, \"Using SSL/TLS to \
                    encrypt a connection\") and set sslrootcert to that file",
    }
}

fn shipped(region: &str) -> Option<&'static str> {
    let mut regions = ROOTS.split("# ").filter_map(|part| part.split_once('\n'));
    regions.find_map(|(name, pem)| (name == region).then_some(pem))
}
