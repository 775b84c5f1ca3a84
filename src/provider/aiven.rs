//! Recognises Aiven for PostgreSQL.

use super::{Authority, Host, Provider, UNKNOWN};

pub(super) const PROVIDER: Provider = Provider { host, ..UNKNOWN };

/// Recognises `service-project.a.aivencloud.com`. Aiven's PgBouncer listens on another port of
/// the same host, which differs from service to service, so the address tells no pooler.
fn host(labels: &[&str]) -> Option<Host> {
    let ["com", "aivencloud", _, ..] = labels else {
        return None;
    };
    Some(Host {
        // Aiven, "TLS/SSL certificates": each project has an authority of its own.
        // https://aiven.io/docs/platform/concepts/tls-ssl-certificates
        authority: Authority::Provider {
            shipped: None,
            otherwise: "download the project's CA certificate in the Aiven console and set \
                        sslrootcert to it",
        },
        ..Host::default()
    })
}
