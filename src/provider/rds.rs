//! Recognises Amazon RDS and Aurora.

use super::{Authority, Host, Provider, UNKNOWN};

pub(super) const PROVIDER: Provider = Provider { host, ..UNKNOWN };

/// The authorities, those of each region behind a line with its name; see `roots/README.md`.
pub(super) const ROOTS: &str = include_str!("roots/rds.pem");

/// The authority of a region of which no certificate is shipped.
pub(super) const ELSEWHERE: Authority = own(None);

/// The remedy if a password of a credentials provider is rejected.
pub(crate) const PASSWORD_REFUSED: &str = "check that the credentials provider, which was asked twice, answers for this user and host, \
     and that the user can log in with it (an IAM token needs GRANT rds_iam)";

/// The remedy if the credentials provider does not answer in time.
pub(crate) const PASSWORD_UNANSWERED: &str = "inside a VPC, Secrets Manager needs a NAT gateway or an interface endpoint; if the provider \
     is slow, raise `connect_timeout`";

/// The remedy if the credentials provider fails.
pub(crate) const NO_CREDENTIALS: &str = "check that the function can read the secret and reach its store (inside a VPC, Secrets Manager \
     needs a NAT gateway or an interface endpoint); `source()` has the cause";

/// Splits the [labels](super::labels) into the region and the rest, the id first:
/// `name.id.REGION.rds.amazonaws.com`; in China `name.id.rds.REGION.amazonaws.com.cn`
/// ("Endpoints and ARNs for AWS in China"), with `rds` and the region in either order.
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
    Authority::Provider {
        shipped,
        otherwise: "download the certificate bundle of its region (RDS manual, \"Using SSL/TLS \
                    to encrypt a connection\") and set sslrootcert to it",
    }
}

fn shipped(region: &str) -> Option<&'static str> {
    let mut regions = ROOTS.split("# ").filter_map(|part| part.split_once('\n'));
    regions.find_map(|(name, pem)| (name == region).then_some(pem))
}
