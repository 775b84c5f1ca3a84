//! Neon.

use super::refusal::{FEWER_CLIENTS, refusals};
use super::{Authority, Host, Pooler, Provider};

pub(super) const PROVIDER: Provider = Provider {
    host,
    pooler: |labels, _| unpooled(labels).map(|_| (Pooler::Transaction, "by the name of the host")),
    refusals: refusals! {
        ["endpoint id is not specified"] => TenantNotFound,
            "Neon goes by the host name that TLS tells it (SNI), and was told none",
            "name Neon's own host in the URL, no address and no tunnel, with sslmode=verify-full \
             and without sslsni=0; else add ?options=endpoint%3D<endpoint id>";
        ["requested endpoint could not be found"] => TenantNotFound,
            "Neon knows no such endpoint",
            "was the branch or its compute deleted? copy the URL from the console once more";
        ["connection is insecure"] => Tls,
            "the server takes no connection without TLS",
            "set sslmode=verify-full";
        ["Too many database connection attempts are currently ongoing"] => TooManyConnections,
            "the pooler has too many connection attempts under way",
            FEWER_CLIENTS;
    },
};

/// `endpoint.region.aws.neon.tech`
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

/// The direct host of a pooled one, which is named `endpoint-pooler.region.aws.neon.tech`
/// (Neon's documents, "Connection pooling").
fn unpooled(labels: &[&str]) -> Option<String> {
    let ["tech", "neon", .., endpoint] = labels else {
        return None;
    };
    let mut direct = endpoint.strip_suffix("-pooler")?.to_owned();
    for label in labels.iter().rev().skip(1) {
        direct = direct + "." + label;
    }
    Some(direct)
}
