//! Aiven for PostgreSQL.

use super::{Authority, Host, Provider, UNKNOWN};

pub(super) const PROVIDER: Provider = Provider { host, ..UNKNOWN };

/// `service-project.a.aivencloud.com`. Its PgBouncer is on another port of the same host,
/// with a port of its own in every service: the name tells no path.
fn host(labels: &[&str]) -> Option<Host> {
    let ["com", "aivencloud", _, ..] = labels else {
        return None;
    };
    Some(Host {
        // Aiven, "TLS/SSL certificates": each project has an authority of its own.
        // https://aiven.io/docs/platform/concepts/tls-ssl-certificates
        authority: Authority::Own {
            shipped: None,
            otherwise: "Aiven has an authority for each project: download its CA certificate in \
                        the console and set sslrootcert to it",
        },
        ..Host::default()
    })
}
