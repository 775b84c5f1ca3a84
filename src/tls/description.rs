//! Describes a completed TLS handshake, for the doctor.

use super::Encrypted;
use super::certificate::Shown;
use super::verify::Check;

/// The result of a TLS handshake.
#[derive(Debug)]
pub struct Description {
    /// The protocol version: `TLS 1.3`.
    pub version: String,
    /// The certificate of the server; `None` if it cannot be parsed.
    pub shown: Option<Shown>,
    /// The certificate was verified to be signed by a trusted authority.
    pub chain_checked: bool,
    /// The certificate was verified to be for the host.
    pub name_checked: bool,
}

impl Encrypted {
    /// Returns what was negotiated.
    pub fn describe(&self) -> Description {
        let (_, connection) = self.stream.get_ref();
        let version = connection
            .protocol_version()
            .and_then(|version| version.as_str());
        let certificate = connection.peer_certificates().and_then(<[_]>::first);
        Description {
            version: version
                .unwrap_or("TLS")
                .replace("TLSv", "TLS ")
                .replace('_', "."),
            shown: certificate.and_then(|certificate| Shown::read(certificate)),
            chain_checked: self.check != Check::Nothing,
            name_checked: self.check == Check::Full,
        }
    }
}
