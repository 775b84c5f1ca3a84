//! Recognises Neon and its messages.

use super::known_error::{FEWER_CLIENTS, known_errors};
use super::{Authority, Host, Pooler, Provider};

pub(super) const PROVIDER: Provider = Provider {
    host,
    pooler: |labels, _| unpooled(labels).map(|_| (Pooler::Transaction, "by the name of the host")),
    known_errors: known_errors! {
        ["endpoint id is not specified"] => TenantNotFound,
            "Neon received no host name in the TLS handshake (SNI)",
            "use Neon's host name in the URL, not an IP address or a tunnel, with \
             sslmode=verify-full and without sslsni=0; or add ?options=endpoint%3D<endpoint id>";
        ["requested endpoint could not be found"] => TenantNotFound,
            "Neon does not know the endpoint",
            "check that the branch and its compute exist, and copy the URL from the console again";
        ["connection is insecure"] => Tls,
            "the server requires TLS",
            "set sslmode=verify-full";
        ["Too many database connection attempts are currently ongoing"] => TooManyConnections,
            "the pooler is processing too many connection attempts",
            FEWER_CLIENTS;
    },
};

/// Recognises `endpoint.region.aws.neon.tech`.
fn host(labels: &[&str]) -> Option<Host> {
    let ["tech", "neon", _, ..] = labels else {
        return None;
    };
    Some(Host {
        certain: true,
        direct: unpooled(labels),
        // "Connect to Neon securely": Let's Encrypt.
        // https://neon.com/docs/connect/connect-securely
        authority: Authority::Public,
        ..Host::default()
    })
}

/// Returns the direct host of a pooled one, `endpoint-pooler.region.aws.neon.tech` (Neon's
/// documentation, "Connection pooling").
fn unpooled(labels: &[&str]) -> Option<String> {
    let ["tech", "neon", .., endpoint] = labels else {
        return None;
    };
    let direct = endpoint.strip_suffix("-pooler")?;
    let parents = labels.iter().rev().skip(1);
    Some(parents.fold(direct.to_owned(), |name, label| name + "." + label))
}
