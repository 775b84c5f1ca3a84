//! Explains a failed handshake: which certificate it was, and what to set.

use std::borrow::Cow;
use std::io;

use rustls::pki_types::CertificateDer;
use rustls::{AlertDescription, CertificateError};
use x509_cert::Certificate;
use x509_cert::certificate::Version;
use x509_cert::der::Decode;

use super::certificate::Shown;
use super::key;
use crate::config::{Roots, Tls};
use crate::error::{Error, ErrorKind};
use crate::provider::{Authority, Host};

/// The error for a handshake with `host` that ended in `error`; `rejected` is the
/// certificate that was not good enough, if it was that.
pub(super) fn explain(
    tls: &Tls,
    host: &str,
    error: io::Error,
    rejected: Option<&CertificateDer<'_>>,
) -> Error {
    let cause = error.get_ref();
    let message = match cause.and_then(|cause| cause.downcast_ref::<rustls::Error>()) {
        Some(rustls::Error::InvalidCertificate(why)) => {
            let shown = rejected.and_then(|certificate| Shown::read(certificate));
            let shown = shown.map(|shown| format!(" ({shown})")).unwrap_or_default();
            let flaw = rejected.and_then(|certificate| flaw(certificate));
            let (why, remedy) = match flaw.filter(|_| is_about_its_form(why)) {
                Some((flaw, remedy)) => (Cow::Owned(flaw), remedy),
                None => verdict(tls, host, why),
            };
            format!("the certificate of {host} {why}{shown}: {remedy}")
        }
        Some(rustls::Error::AlertReceived(alert)) => refused(tls, host, *alert),
        _ if tls.direct => format!(
            "{host} does not take TLS from the first byte on: sslnegotiation=direct needs \
             PostgreSQL 17 or newer, and no pooler in between that does not know it"
        ),
        // SSH begins with the letter that says yes to TLS.
        Some(rustls::Error::InvalidMessage(_)) => format!(
            "{host} agreed to TLS, and what followed is none: does PostgreSQL listen there, and \
             check the port"
        ),
        _ => format!("the TLS handshake with {host} failed"),
    };
    Error::new(ErrorKind::Tls, message).with_source(error)
}

/// What is wrong with a certificate, and what to do.
fn verdict(tls: &Tls, host: &str, why: &CertificateError) -> (Cow<'static, str>, &'static str) {
    use CertificateError as Why;
    let (why, remedy) = match why {
        Why::UnknownIssuer => (
            "was signed by an authority that is not trusted",
            issuer(tls, host),
        ),
        Why::NotValidForName | Why::NotValidForNameContext { .. } => (
            "is for another host name",
            "connect by a name that it is for, or set sslmode=verify-ca together with sslrootcert to accept any host of that authority",
        ),
        Why::Expired | Why::ExpiredContext { .. } => (
            "has expired",
            "renew it on the server, or correct the clock of this machine",
        ),
        Why::NotValidYet | Why::NotValidYetContext { .. } => {
            ("is not in force yet", "set this machine's clock right")
        }
        Why::Other(_) | Why::BadEncoding => (
            "cannot be used",
            "give the server one that is signed by an authority and is for servers (not the \
             authority's own), and set sslrootcert to the authority's",
        ),
        _ => (
            "is not good enough",
            "the cause says why; give the server another",
        ),
    };
    (why.into(), remedy)
}

/// The certificate itself is at fault, not its issuer, its names or its dates.
fn is_about_its_form(why: &CertificateError) -> bool {
    matches!(
        why,
        CertificateError::BadEncoding
            | CertificateError::BadSignature
            | CertificateError::UnhandledCriticalExtension
            | CertificateError::Other(_)
    )
}

/// What of a certificate no check of it takes, and what to do.
fn flaw(certificate: &[u8]) -> Option<(String, &'static str)> {
    let certificate = Certificate::from_der(certificate).ok()?;
    if let Some(bits) = key::short_rsa(&certificate) {
        return Some((
            format!("has an RSA key of {bits} bits, which is too short"),
            "give the server a key of 2048 bits or more, and a certificate for it",
        ));
    }
    let fields = &certificate.tbs_certificate;
    if fields.version == Version::V1 {
        return Some((
            "is of X.509 version 1, which names no host".to_owned(),
            "give the server one of version 3 with its host under subjectAltName, or set \
             sslmode=require if the network is yours",
        ));
    }
    let extensions = fields.extensions.iter().flatten();
    let unknown = extensions
        .filter(|extension| extension.critical)
        .map(|extension| extension.extn_id.to_string())
        .find(|oid| !KNOWN_EXTENSIONS.contains(&oid.as_str()))?;
    Some((
        format!("has the critical extension {unknown}, which is not known here"),
        "give the server a certificate without it, or set sslmode=require if the network is \
         yours",
    ))
}

/// Those that webpki reads, and which may be critical therefore: keyUsage, subjectAltName,
/// basicConstraints, nameConstraints, extKeyUsage.
const KNOWN_EXTENSIONS: [&str; 5] = [
    "2.5.29.15",
    "2.5.29.17",
    "2.5.29.19",
    "2.5.29.30",
    "2.5.29.37",
];

fn issuer(tls: &Tls, host: &str) -> &'static str {
    match (&tls.roots, Host::of(host).authority) {
        (Some(Roots::File(_) | Roots::Pem(_)), _) => {
            "set sslrootcert to the authority that issued it, which it does not contain"
        }
        (_, Authority::Own { otherwise, .. }) => otherwise,
        _ => "set sslrootcert to the certificate of that authority, a file or the text itself",
    }
}

/// The server ended the handshake.
fn refused(tls: &Tls, host: &str, alert: AlertDescription) -> String {
    match alert {
        _ if is_about_us(alert) => client_certificate(tls, host),
        AlertDescription::NoApplicationProtocol => format!(
            "{host} does not take sslnegotiation=direct: it needs PostgreSQL 17 or newer; leave it \
             away"
        ),
        AlertDescription::UnrecognisedName if !tls.sni => {
            format!("{host} wants to be told its name: leave sslsni=0 away")
        }
        AlertDescription::ProtocolVersion => format!(
            "{host} does not speak TLS 1.2 or newer: set ssl_min_protocol_version and \
             ssl_max_protocol_version of the server to TLSv1.2 or above"
        ),
        AlertDescription::HandshakeFailure => format!(
            "{host} ended the TLS handshake, having no cipher or kind of key in common with us: \
             give the server a certificate with a key of RSA (2048 bits or more, not RSA-PSS), \
             ECDSA P-256 or P-384 (not P-521), or Ed25519, and TLS 1.2 or newer"
        ),
        _ => format!("{host} ended the TLS handshake: the log of the server says why"),
    }
}

/// The server did not like our certificate, or that there is none.
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

fn client_certificate(tls: &Tls, host: &str) -> String {
    match &tls.client {
        Some(_) => format!(
            "{host} does not take our certificate: set sslcert and sslkey to one that is in force \
             and of an authority that it trusts"
        ),
        None => format!("{host} wants a certificate of ours: set sslcert and sslkey"),
    }
}

/// What a session that has broken down at its start has to say, if TLS is behind it:
/// with TLS 1.3 the server looks at our certificate only after the handshake.
pub(crate) fn explain_later(
    tls: &Tls,
    host: &str,
    error: &(dyn std::error::Error + 'static),
) -> Option<String> {
    let mut cause = Some(error);
    while let Some(error) = cause {
        let inner = error
            .downcast_ref::<io::Error>()
            .and_then(io::Error::get_ref);
        let inner = inner.and_then(|inner| inner.downcast_ref::<rustls::Error>());
        if let Some(rustls::Error::AlertReceived(alert)) = inner {
            return is_about_us(*alert).then(|| client_certificate(tls, host));
        }
        cause = error.source();
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tls_remedy_fits_the_host() {
        let none = Tls::default();
        let own = Tls {
            roots: Some(Roots::File("ca.pem".into())),
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
            (&own, "db.abc.supabase.co", "does not contain"),
        ] {
            let remedy = issuer(tls, host);
            assert!(remedy.contains(word), "{host}: {remedy}");
        }
    }
}
