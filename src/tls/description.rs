//! What a handshake has come to, for who wants to look at it.

use std::time::SystemTime;

use x509_cert::Certificate;
use x509_cert::der::Decode;

use super::Encrypted;
use super::failure::{harmless, names};
use super::verify::Check;

/// TLS, as it was agreed on.
#[derive(Debug)]
pub struct Description {
    /// `TLS 1.3`.
    pub version: String,
    /// Nothing if the certificate cannot be read.
    pub shown: Option<Shown>,
    /// An authority that is trusted vouches for it.
    pub chain_checked: bool,
    /// It is for the host.
    pub name_checked: bool,
}

/// A certificate.
#[derive(Debug)]
pub struct Shown {
    /// Who signed it.
    pub issuer: String,
    /// Whom it is for.
    pub names: Vec<String>,
    /// Until when it holds.
    pub until: SystemTime,
    /// `2027-01-31`.
    pub until_day: String,
}

impl Encrypted {
    /// What was agreed on.
    pub fn describe(&self) -> Description {
        let (_, connection) = self.stream.get_ref();
        let version = connection.protocol_version();
        let version =
            version.and_then(|version| version.as_str().map(|v| v.replace("TLSv", "TLS ")));
        let certificate = connection.peer_certificates().and_then(<[_]>::first);
        Description {
            version: version
                .unwrap_or_else(|| "TLS".to_owned())
                .replace('_', "."),
            shown: certificate.and_then(|certificate| Shown::read(certificate)),
            chain_checked: self.check != Check::Nothing,
            name_checked: self.check == Check::Full,
        }
    }
}

impl Shown {
    fn read(certificate: &[u8]) -> Option<Self> {
        let certificate = Certificate::from_der(certificate).ok()?;
        let fields = &certificate.tbs_certificate;
        let last = fields.validity.not_after;
        let day = last.to_date_time();
        Some(Shown {
            issuer: harmless(&fields.issuer.to_string()),
            names: names(&certificate),
            until: last.to_system_time(),
            until_day: format!("{:04}-{:02}-{:02}", day.year(), day.month(), day.day()),
        })
    }
}
