//! Recognises Amazon Aurora DSQL.

use std::time::Duration;

use super::{Authority, Host, Limits, Provider, UNKNOWN};

pub(super) const PROVIDER: Provider = Provider { host, ..UNKNOWN };

/// DSQL closes connections after an hour ("Cluster quotas and database limits").
const MAX_AGE: Duration = Duration::from_secs(50 * 60);

/// Recognises `id.dsql.REGION.on.aws` and, through PrivateLink, `id.dsql-suffix.REGION.on.aws`.
fn host(labels: &[&str]) -> Option<Host> {
    let ["aws", "on", region, service, ..] = labels else {
        return None;
    };
    service.starts_with("dsql").then(|| Host {
        certain: true,
        // "Configuring SSL/TLS certificates": Amazon Root CA 1.
        // https://docs.aws.amazon.com/aurora-dsql/latest/userguide/configure-root-certificates.html
        authority: match *service {
            "dsql" if labels.len() > 4 => Authority::Public,
            _ => Authority::Unknown,
        },
        // DSQL accepts few settings and rejects the others ("Supported session parameters").
        limits: Limits {
            max_age: MAX_AGE,
            settings: false,
            slots: false,
            migrations: Some((
                "migrations need advisory locks and lock_timeout, and Aurora DSQL has neither",
                "run your migration tool directly, from one place at a time",
            )),
        },
        region: Some((*region).to_owned()),
        ..Host::default()
    })
}
