//! Describes a completed TLS handshake, for the doctor.

use super::Encrypted;
use super::certificate::Summary;
use super::verify::Check;

/// The result of a TLS handshake.
#[derive(Debug)]
pub struct Handshake {
    /// The protocol version: `TLS 1.3`.
    pub version: String,
    /// The certificate of the server; `None` if it cannot be parsed.
    pub certificate: Option<Summary>,
    /// The certificate was verified to be signed by a trusted authority.
    pub chain_verified: bool,
    /// The certificate was verified to be for the host.
    pub name_verified: bool,
}

impl Encrypted {
    /// Returns what was negotiated.
    pub fn describe(&self) -> Handshake {
        let (_, connection) = self.stream.get_ref();
        let version = connection
            .protocol_version()
            .and_then(|version| version.as_str());
        let certificate = connection.peer_certificates().and_then(<[_]>::first);
        Handshake {
            version: version
                .unwrap_or("TLS")
                .replace("TLSv", "TLS ")
                .replace('_', "."),
            certificate: certificate.and_then(|certificate| Summary::read(certificate)),
            chain_verified: self.is_verified(),
            name_verified: self.check == Check::Full,
        }
    }
}
