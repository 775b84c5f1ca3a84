//! Computes the channel binding of SCRAM.

use ring::digest;
use rustls::pki_types::CertificateDer;
use x509_cert::der::Decode;

/// Computes the channel binding `tls-server-end-point` (RFC 5929, section 4.1): the hash of the
/// certificate with the hash function of its signature, SHA-256 in place of MD5 and SHA-1.
/// `None` if the signature algorithm names no hash function.
pub(super) fn server_end_point(certificate: &CertificateDer<'_>) -> Option<Vec<u8>> {
    const SHA256: &[&str] = &[
        "1.2.840.113549.1.1.4",
        "1.2.840.113549.1.1.5",
        "1.2.840.113549.1.1.11",
        "1.2.840.10045.4.1",
        "1.2.840.10045.4.3.2",
    ];
    const SHA384: &[&str] = &["1.2.840.113549.1.1.12", "1.2.840.10045.4.3.3"];
    const SHA512: &[&str] = &["1.2.840.113549.1.1.13", "1.2.840.10045.4.3.4"];

    let parsed = x509_cert::Certificate::from_der(certificate).ok()?;
    let oid = parsed.signature_algorithm.oid.to_string();
    let hashes = [
        (SHA256, &digest::SHA256),
        (SHA384, &digest::SHA384),
        (SHA512, &digest::SHA512),
    ];
    let (_, hash) = hashes
        .iter()
        .find(|(oids, _)| oids.contains(&oid.as_str()))?;
    Some(digest::digest(hash, certificate).as_ref().to_vec())
}
