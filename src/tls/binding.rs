//! Computes the channel binding of SCRAM.

use ring::digest;
use rustls::pki_types::CertificateDer;
use x509_cert::der::Decode;

/// Computes the channel binding `tls-server-end-point` (RFC 5929, section 4.1): the hash of the
/// certificate with the hash function of its signature, SHA-256 in place of MD5 and SHA-1.
/// `None` if the signature algorithm names no hash function.
pub(super) fn server_end_point(certificate: &CertificateDer<'_>) -> Option<Vec<u8>> {
    let parsed = x509_cert::Certificate::from_der(certificate).ok()?;
    let hash = match parsed.signature_algorithm.oid.to_string().as_str() {
        "1.2.840.113549.1.1.4"
        | "1.2.840.113549.1.1.5"
        | "1.2.840.113549.1.1.11"
        | "1.2.840.10045.4.1"
        | "1.2.840.10045.4.3.2" => &digest::SHA256,
        "1.2.840.113549.1.1.12" | "1.2.840.10045.4.3.3" => &digest::SHA384,
        "1.2.840.113549.1.1.13" | "1.2.840.10045.4.3.4" => &digest::SHA512,
        _ => return None,
    };
    Some(digest::digest(hash, certificate).as_ref().to_vec())
}
