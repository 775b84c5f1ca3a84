//! Binds SCRAM to the TLS connection.

use ring::digest;
use rustls::pki_types::CertificateDer;
use x509_cert::der::Decode;
use x509_cert::der::asn1::ObjectIdentifier;

/// The channel binding `tls-server-end-point` (RFC 5929, section 4.1): the
/// certificate, hashed with the hash of its own signature; SHA-256 in place of MD5
/// and SHA-1. `None` where the signature names no hash.
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
    let is = |oids: &[&str]| {
        let mut oids = oids.iter().copied();
        oids.any(|oid| ObjectIdentifier::new_unwrap(oid) == parsed.signature_algorithm.oid)
    };
    let hash = match () {
        () if is(SHA256) => &digest::SHA256,
        () if is(SHA384) => &digest::SHA384,
        () if is(SHA512) => &digest::SHA512,
        () => return None,
    };
    Some(digest::digest(hash, certificate).as_ref().to_vec())
}
