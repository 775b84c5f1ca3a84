//! Verifies signatures with the public key of a certificate.

use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls13_signature_with_raw_key};
use rustls::pki_types::{CertificateDer, SubjectPublicKeyInfoDer};
use rustls::{CertificateError, DigitallySignedStruct, Error};
use x509_cert::Certificate;
use x509_cert::der::asn1::{AnyRef, ObjectIdentifier, UintRef};
use x509_cert::der::{Decode, Encode, Reader, SliceReader};
use x509_cert::spki::SubjectPublicKeyInfoOwned;

/// `rsaEncryption` (RFC 8017, appendix A.1).
const RSA: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.1");

/// The shortest RSA key with which ring verifies a signature.
const LEAST_RSA_BITS: usize = 2048;

/// Verifies a signature of the handshake (RFC 8446, section 4.4.3) with the key of a
/// certificate of which nothing else is verified: webpki would reject a certificate of version 1,
/// or one with an unknown critical extension.
pub(super) fn verify_tls13(
    message: &[u8],
    certificate: &CertificateDer<'_>,
    signature: &DigitallySignedStruct,
    algorithms: &WebPkiSupportedAlgorithms,
) -> Result<HandshakeSignatureValid, Error> {
    let key = key(certificate)?.to_der().map_err(|_| BAD)?;
    let key = SubjectPublicKeyInfoDer::from(key);
    verify_tls13_signature_with_raw_key(message, &key, signature, algorithms)
}

/// Verifies a signature of TLS 1.2 (RFC 5246, section 7.4.3), for which rustls has no such
/// function.
pub(super) fn verify_tls12(
    message: &[u8],
    certificate: &CertificateDer<'_>,
    signature: &DigitallySignedStruct,
    algorithms: &WebPkiSupportedAlgorithms,
) -> Result<HandshakeSignatureValid, Error> {
    let key = key(certificate)?;
    let kind = key.algorithm.to_der().map_err(|_| BAD)?;
    let kind = AnyRef::from_der(&kind).map_err(|_| BAD)?;
    let bytes = key.subject_public_key.raw_bytes();
    let scheme = algorithms
        .mapping
        .iter()
        .find(|(scheme, _)| *scheme == signature.scheme);
    let fits = scheme.is_some_and(|(_, all)| {
        all.iter().any(|algorithm| {
            let known = algorithm.public_key_alg_id();
            let verified = algorithm.verify_signature(bytes, message, signature.signature());
            known.as_ref() == kind.value() && verified.is_ok()
        })
    });
    if fits {
        Ok(HandshakeSignatureValid::assertion())
    } else {
        Err(Error::InvalidCertificate(CertificateError::BadSignature))
    }
}

const BAD: Error = Error::InvalidCertificate(CertificateError::BadEncoding);

fn key(certificate: &[u8]) -> Result<SubjectPublicKeyInfoOwned, Error> {
    let certificate = Certificate::from_der(certificate).map_err(|_| BAD)?;
    Ok(certificate.tbs_certificate.subject_public_key_info)
}

/// Returns the length in bits of an RSA key that is too short.
pub(super) fn short_rsa(certificate: &Certificate) -> Option<usize> {
    let key = &certificate.tbs_certificate.subject_public_key_info;
    if key.algorithm.oid != RSA {
        return None;
    }
    let mut reader = SliceReader::new(key.subject_public_key.raw_bytes()).ok()?;
    // RSAPublicKey: the modulus, then the exponent.
    let modulus = reader.sequence(|numbers| {
        let modulus = UintRef::decode(numbers)?;
        UintRef::decode(numbers)?;
        Ok(modulus.as_bytes().len() * 8)
    });
    modulus.ok().filter(|bits| *bits < LEAST_RSA_BITS)
}
