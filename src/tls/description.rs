//! Describes a TLS handshake, for the doctor.

use super::Encrypted;
use super::certificate::Shown;
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
