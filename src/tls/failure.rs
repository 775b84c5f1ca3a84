//! Describes failed TLS handshakes: the certificate, and what to set.

use std::borrow::Cow;
use std::error::Error as StdError;
use std::io;

use rustls::pki_types::CertificateDer;
use rustls::{AlertDescription, CertificateError};
use x509_cert::Certificate;
use x509_cert::certificate::Version;
use x509_cert::der::Decode;

use super::certificate::Summary;
use super::key;
use crate::config::{Roots, Tls};
use crate::error::{Error, ErrorKind};
use crate::provider::{Authority, Host};

/// Describes a handshake with `host` that failed with `error`; `rejected` is the certificate, if
/// it was the cause.
pub(super) fn explain(
    tls: &Tls,
    host: &str,
    error: io::Error,
    rejected: Option<&CertificateDer<'_>>,
) -> Error {
    let cause = error.get_ref();
    let (cause, remedy) = match cause.and_then(|cause| cause.downcast_ref::<rustls::Error>()) {
        Some(rustls::Error::InvalidCertificate(why)) => {
            let summary = rejected.and_then(|certificate| Summary::read(certificate));
            let summary = summary.map(|summary| format!(" ({summary})"));
            let malformed = rejected.filter(|_| is_about_its_form(why));
            let flaw = malformed.and_then(|certificate| flaw(certificate));
            let (why, remedy) = flaw.unwrap_or_else(|| verdict(tls, host, why));
            let summary = summary.unwrap_or_default();
            (format!("the certificate of {host} {why}{summary}"), remedy)
        }
        Some(rustls::Error::AlertReceived(alert)) => alerted(tls, host, *alert),
        _ if tls.direct => (
            format!("{host} did not answer the direct TLS handshake"),
            "sslnegotiation=direct needs PostgreSQL 17 or newer, and poolers that support it: remove \
             it, or check the port",
        ),
        // SSH begins with `S`, the letter that accepts TLS.
        Some(rustls::Error::InvalidMessage(_)) => (
            format!("{host} accepted TLS, and what followed is not TLS"),
            "check the port, and that PostgreSQL listens there",
        ),
        _ => (
            format!("the TLS handshake with {host} failed"),
            "check the log of the server, or of the pooler in between",
        ),
    };
    Error::new(ErrorKind::Tls, cause)
        .with_remedy(remedy)
        .with_source(error)
}

/// Returns what is wrong with a certificate, and the remedy.
fn verdict(tls: &Tls, host: &str, why: &CertificateError) -> (Cow<'static, str>, &'static str) {
    use CertificateError as Why;
    let (why, remedy) = match why {
        Why::UnknownIssuer => (
            "was signed by an authority that is not trusted",
            issuer(tls, host),
        ),
        Why::NotValidForName | Why::NotValidForNameContext { .. } => (
            "is for another host name",
            "connect with a host name that it is for, or set sslmode=verify-ca together with \
             sslrootcert to accept any host of that authority",
        ),
        Why::Expired | Why::ExpiredContext { .. } => (
            "has expired",
            "renew it on the server, or correct the clock of this machine",
        ),
        Why::NotValidYet | Why::NotValidYetContext { .. } => {
            ("is not valid yet", "correct the clock of this machine")
        }
        Why::Other(_) | Why::BadEncoding => (
            "cannot be used",
            "use a server certificate that is signed by an authority (not the authority's own), \
             and set sslrootcert to the authority's",
        ),
        _ => (
            "is not valid",
            "use another certificate on the server; `source()` has the cause",
        ),
    };
    (why.into(), remedy)
}

/// Returns whether the certificate itself is invalid, not its issuer, names or dates.
fn is_about_its_form(why: &CertificateError) -> bool {
    matches!(
        why,
        CertificateError::BadEncoding
            | CertificateError::BadSignature
            | CertificateError::UnhandledCriticalExtension
            | CertificateError::Other(_)
    )
}

/// Returns what makes a certificate unusable whatever the policy, and the remedy.
fn flaw(certificate: &[u8]) -> Option<(Cow<'static, str>, &'static str)> {
    let certificate = Certificate::from_der(certificate).ok()?;
    if let Some(bits) = key::short_rsa(&certificate) {
        return Some((
            format!("has an RSA key of {bits} bits, which is too short").into(),
            "use a key of 2048 bits or more on the server, and a certificate for it",
        ));
    }
    let fields = &certificate.tbs_certificate;
    if fields.version == Version::V1 {
        return Some((
            "is of X.509 version 1, which has no host names".into(),
            "use a certificate of version 3 with the host in subjectAltName, or set \
             sslmode=require on a private network",
        ));
    }
    let extensions = fields.extensions.iter().flatten();
    let unknown = extensions
        .filter(|extension| extension.critical)
        .map(|extension| extension.extn_id.to_string())
        .find(|oid| !KNOWN_EXTENSIONS.contains(&oid.as_str()))?;
    Some((
        format!("has the critical extension {unknown}, which is not supported").into(),
        "use a certificate without it on the server, or set sslmode=require on a private network",
    ))
}

/// The extensions that webpki supports, which may be critical therefore: keyUsage,
/// subjectAltName, basicConstraints, nameConstraints, extKeyUsage.
const KNOWN_EXTENSIONS: [&str; 5] = [
    "2.5.29.15",
    "2.5.29.17",
    "2.5.29.19",
    "2.5.29.30",
    "2.5.29.37",
];

/// Returns the remedy for an authority that is not trusted.
fn issuer(tls: &Tls, host: &str) -> &'static str {
    match (&tls.roots, Host::of(host).authority) {
        (Some(Roots::Pem(_)), _) => "add the certificate of that authority to sslrootcert",
        (_, Authority::Provider { otherwise, .. }) => otherwise,
        _ => "set sslrootcert to the certificate of that authority, a file or the PEM text",
    }
}

/// Describes a handshake that the server ended with an alert.
fn alerted(tls: &Tls, host: &str, alert: AlertDescription) -> (String, &'static str) {
    match alert {
        _ if is_about_us(alert) => client_certificate(tls, host),
        AlertDescription::NoApplicationProtocol => (
            format!("{host} does not support sslnegotiation=direct"),
            "remove it: it needs PostgreSQL 17 or newer",
        ),
        AlertDescription::UnrecognisedName if !tls.sni => (
            format!("{host} requires the host name in the TLS handshake (SNI)"),
            "remove sslsni=0",
        ),
        AlertDescription::ProtocolVersion => (
            format!("{host} does not support TLS 1.2 or newer"),
            "set ssl_min_protocol_version and ssl_max_protocol_version of the server to TLSv1.2 or \
             above",
        ),
        AlertDescription::HandshakeFailure => (
            format!(
                "{host} ended the TLS handshake: client and server share no cipher or key type"
            ),
            "use a server certificate with an RSA (2048 bits or more, not RSA-PSS), ECDSA P-256 or \
             P-384 (not P-521) or Ed25519 key, and TLS 1.2 or newer",
        ),
        _ => (
            format!("{host} ended the TLS handshake"),
            "check the log of the server",
        ),
    }
}

/// Returns whether the server rejected the client certificate, or the lack of one.
fn is_about_us(alert: AlertDescription) -> bool {
    matches!(
        alert,
        AlertDescription::CertificateRequired
            | AlertDescription::NoCertificate
            | AlertDescription::BadCertificate
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::CertificateRevoked
            | AlertDescription::CertificateExpired
            | AlertDescription::CertificateUnknown
            | AlertDescription::UnknownCA
    )
}

fn client_certificate(tls: &Tls, host: &str) -> (String, &'static str) {
    if tls.client.is_some() {
        (
            format!("{host} rejected the client certificate"),
            "set sslcert and sslkey to one that has not expired, signed by an authority that the \
             server trusts (ssl_ca_file)",
        )
    } else {
        (
            format!("{host} requires a client certificate"),
            "set sslcert and sslkey",
        )
    }
}

/// Describes a session that failed at startup because of the client certificate: in TLS 1.3 the
/// server verifies it only after the handshake.
pub(crate) fn explain_later(
    tls: &Tls,
    host: &str,
    error: &(dyn StdError + 'static),
) -> Option<(String, &'static str)> {
    let mut causes = std::iter::successors(Some(error), |&error| error.source());
    let alert = causes.find_map(|cause| {
        let inner = cause.downcast_ref::<io::Error>()?.get_ref()?;
        match inner.downcast_ref()? {
            rustls::Error::AlertReceived(alert) => Some(*alert),
            _ => None,
        }
    })?;
    is_about_us(alert).then(|| client_certificate(tls, host))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Pem;

    #[test]
    fn tls_remedy_fits_the_host() {
        let none = Tls::default();
        let own = Tls {
            roots: Some(Roots::Pem(Pem::File("ca.pem".into()))),
            ..Tls::default()
        };
        for (tls, host, word) in [
            (&none, "db.abc.supabase.co", "dashboard"),
            (&none, "d.a.il-central-1.rds.amazonaws.com", "RDS manual"),
            (
                &none,
                "db.example.com",
                "set sslrootcert to the certificate",
            ),
            (&own, "db.abc.supabase.co", "to sslrootcert"),
        ] {
            let remedy = issuer(tls, host);
            assert!(remedy.contains(word), "{host}: {remedy}");
        }
    }
}
