//! Formats a certificate for one line of a log.

use std::fmt;
use std::time::SystemTime;

use x509_cert::Certificate;
use x509_cert::der::Decode;
use x509_cert::ext::pkix::SubjectAltName;
use x509_cert::ext::pkix::name::GeneralName;

/// Limits of what is shown of an untrusted certificate.
const LONGEST: usize = 120;
const MOST_NAMES: usize = 5;

/// The fields of a certificate that are shown.
#[derive(Debug)]
pub struct Shown {
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

impl Shown {
    pub(super) fn read(certificate: &[u8]) -> Option<Self> {
        let certificate = Certificate::from_der(certificate).ok()?;
        let fields = &certificate.tbs_certificate;
        let last = fields.validity.not_after;
        let day = last.to_date_time();
        Some(Shown {
            subject: harmless(&fields.subject.to_string()),
            issuer: harmless(&fields.issuer.to_string()),
            names: names(&certificate),
            until: last.to_system_time(),
            until_day: format!("{:04}-{:02}-{:02}", day.year(), day.month(), day.day()),
        })
    }
}

impl fmt::Display for Shown {
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
    let alternative = extensions
        .filter(|extension| extension.extn_id.to_string() == "2.5.29.17")
        .find_map(|extension| SubjectAltName::from_der(extension.extn_value.as_bytes()).ok());
    let names = alternative.map(|names| names.0).unwrap_or_default();
    let mut shown: Vec<String> = names
        .iter()
        .take(MOST_NAMES)
        .filter_map(shown_name)
        .collect();
    if names.len() > MOST_NAMES {
        shown.push(format!("{} more", names.len() - MOST_NAMES));
    }
    shown
}

fn shown_name(name: &GeneralName) -> Option<String> {
    match name {
        GeneralName::DnsName(name) => Some(harmless(name.as_str())),
        GeneralName::IpAddress(address) => match address.as_bytes() {
            &[a, b, c, d] => Some(std::net::Ipv4Addr::new(a, b, c, d).to_string()),
            bytes => {
                let bytes: [u8; 16] = bytes.try_into().ok()?;
                Some(std::net::Ipv6Addr::from(bytes).to_string())
            }
        },
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
        let Authority::Own {
            shipped: Some(pem), ..
        } = rds.authority
        else {
            panic!("a region that we have");
        };
        let certificate = CertificateDer::from_pem_slice(pem.as_bytes()).expect("PEM");
        let shown = Shown::read(&certificate).expect("X.509").to_string();
        assert!(
            shown.contains("Amazon RDS eu-west-1 Root CA ECC384 G1"),
            "{shown}"
        );
        assert!(shown.ends_with(", until 2121-05-20"), "{shown}");
        assert!(Shown::read(b"no certificate").is_none());
    }

    #[test]
    fn certificate_text_stays_on_one_line() {
        assert_eq!(harmless("a\nb\u{1b}[31m"), "a?b?[31m");
        assert_eq!(harmless(&"x".repeat(500)).len(), LONGEST + 2);
    }
}
