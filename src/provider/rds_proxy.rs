//! Recognises Amazon RDS Proxy.

use super::known_error::{CHECK_POOL, POOL_IN_USE, known_errors};
use super::{Authority, Host, Pooler, Provider, rds};

/// The messages are in AWS's manual ("Troubleshooting for RDS Proxy").
pub(super) const PROVIDER: Provider = Provider {
    host,
    pooler: |labels, _| host(labels).map(|_| (Pooler::RdsProxy, "by the name of the host")),
    known_errors: known_errors! {
        ["Timed-out waiting to acquire database connection"] => TooManyConnections,
            POOL_IN_USE, CHECK_POOL;
        ["RDS Proxy", "doesn't support"] => ParameterRefused,
            "RDS Proxy rejects `options` at startup",
            "set ANTIFREEZE_POOLER=rds-proxy, or `pooler` in code, remove `options` from the URL, \
             and set parameters with ALTER ROLE .. SET";
        ["RDS Proxy", "requires TLS"] => Tls,
            "RDS Proxy requires TLS",
            "set sslmode=verify-full";
        ["RDS Proxy", "no credentials for the role"] => Authentication,
            "RDS Proxy has no credentials for this role",
            "add a secret with this user name to the proxy's authentication settings, let its IAM \
             role read it, or correct the user in the URL";
    },
};

/// Recognises `name.proxy-id.REGION.rds.amazonaws.com`, and further endpoints with another
/// label in front ("Connecting to a database through RDS Proxy").
fn host(labels: &[&str]) -> Option<Host> {
    let (region, [id, _, ..]) = rds::place(labels)? else {
        return None;
    };
    id.starts_with("proxy-").then(|| Host {
        region: Some(region.to_owned()),
        authority: match labels {
            // In China another authority signs.
            ["cn", ..] => rds::ELSEWHERE,
            // Aurora, "Rotating your SSL/TLS certificate": AWS Certificate Manager signs.
            // https://docs.aws.amazon.com/AmazonRDS/latest/AuroraUserGuide/UsingWithRDS.SSL-certificate-rotation.html
            _ => Authority::Public,
        },
        ..Host::default()
    })
}
