//! Summarises a certificate, for one line of a log.

use std::fmt;
use std::net::IpAddr;
use std::time::SystemTime;

use x509_cert::Certificate;
use x509_cert::der::Decode;
use x509_cert::ext::pkix::SubjectAltName;
use x509_cert::ext::pkix::name::GeneralName;

/// Limits of what is shown of an untrusted certificate.
const LONGEST: usize = 120;
const MOST_NAMES: usize = 5;

/// The fields of a certificate that concern its user.
#[derive(Debug)]
pub struct Summary {
    /// The name of the subject.
    pub subject: String,
    /// The authority that signed it.
    pub issuer: String,
    /// The host names and addresses that it is valid for.
    pub names: Vec<String>,
    /// The time at which it expires.
    pub until: SystemTime,
    /// The day on which it expires, as `2027-01-31`.
    pub until_day: String,
}

impl Summary {
    pub(super) fn read(certificate: &[u8]) -> Option<Self> {
        let certificate = Certificate::from_der(certificate).ok()?;
        let fields = &certificate.tbs_certificate;
        let last = fields.validity.not_after;
        let day = last.to_date_time();
        Some(Summary {
            subject: harmless(&fields.subject.to_string()),
            issuer: harmless(&fields.issuer.to_string()),
            names: names(&certificate),
            until: last.to_system_time(),
            until_day: format!("{:04}-{:02}-{:02}", day.year(), day.month(), day.day()),
        })
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "subject {}, issuer {}", self.subject, self.issuer)?;
        if !self.names.is_empty() {
            write!(f, ", for {}", self.names.join(", "))?;
        }
        write!(f, ", until {}", self.until_day)
    }
}

fn names(certificate: &Certificate) -> Vec<String> {
    let extensions = certificate.tbs_certificate.extensions.iter().flatten();
    let names = extensions
        .filter(|extension| extension.extn_id.to_string() == "2.5.29.17")
        .find_map(|extension| SubjectAltName::from_der(extension.extn_value.as_bytes()).ok())
        .map(|names| names.0)
        .unwrap_or_default();
    let first = names.iter().take(MOST_NAMES).filter_map(name);
    let others = names.len().saturating_sub(MOST_NAMES);
    let others = (others > 0).then(|| format!("{others} more"));
    first.chain(others).collect()
}

fn name(name: &GeneralName) -> Option<String> {
    match name {
        GeneralName::DnsName(name) => Some(harmless(name.as_str())),
        GeneralName::IpAddress(address) => {
            let bytes = address.as_bytes();
            let v4 = <[u8; 4]>::try_from(bytes).map(IpAddr::from);
            let address = v4.or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from));
            Some(address.ok()?.to_string())
        }
        _ => None,
    }
}

/// Replaces control characters, and cuts off what is too long.
fn harmless(text: &str) -> String {
    let printable = |c: char| if c.is_control() { '?' } else { c };
    let mut shown: String = text.chars().take(LONGEST).map(printable).collect();
    if text.chars().nth(LONGEST).is_some() {
        shown.push_str("..");
    }
    shown
}

#[cfg(test)]
mod tests {
    use rustls::pki_types::CertificateDer;

    use super::*;
    use crate::provider::{Authority, Host};

    #[test]
    fn certificate_is_described() {
        use rustls::pki_types::pem::PemObject;
        let rds = Host::of("d.a.eu-west-1.rds.amazonaws.com");
        let Authority::Provider {
            shipped: Some(pem), ..
        } = rds.authority
        else {
            panic!("a region that we have");
        };
        let certificate = CertificateDer::from_pem_slice(pem.as_bytes()).expect("PEM");
        let shown = Summary::read(&certificate).expect("X.509").to_string();
        assert!(
            shown.contains("Amazon RDS eu-west-1 Root CA ECC384 G1"),
            "{shown}"
        );
        assert!(shown.ends_with(", until 2121-05-20"), "{shown}");
        assert!(Summary::read(b"no certificate").is_none());
    }

    #[test]
    fn certificate_text_stays_on_one_line() {
        assert_eq!(harmless("a\nb\u{1b}[31m"), "a?b?[31m");
        assert_eq!(harmless(&"x".repeat(500)).len(), LONGEST + 2);
    }
}
