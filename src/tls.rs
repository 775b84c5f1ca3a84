//! TLS by rustls, with a provider of our own choice: the process default may be
//! missing or set twice, and both panic.

use std::sync::Arc;

use once_cell::sync::OnceCell;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use x509_cert::der::Decode;
use x509_cert::der::asn1::ObjectIdentifier;

use crate::config::{Roots, Tls, TlsMode};
use crate::error::{Error, ErrorKind, Result};
use crate::net::Socket;

/// A client's side of TLS, made when it is first needed: reading roots takes
/// milliseconds that a plaintext connection does not need to spend.
#[derive(Debug, Clone, Default)]
pub(crate) struct Client {
    config: Arc<OnceCell<Arc<ClientConfig>>>,
}

impl Client {
    /// Reads roots and keys, if that has not been done.
    pub(crate) fn config(&self, tls: &Tls) -> Result<Arc<ClientConfig>> {
        self.config
            .get_or_try_init(|| client_config(tls).map(Arc::new))
            .cloned()
    }

    /// Shakes hands over `socket`. Answers the encrypted stream and the hash that
    /// binds SCRAM to it.
    pub(crate) async fn connect(
        &self,
        tls: &Tls,
        host: &str,
        socket: Socket,
    ) -> Result<(TlsStream<Socket>, Option<Vec<u8>>)> {
        let name = ServerName::try_from(host.to_owned()).map_err(|error| {
            Error::new(
                ErrorKind::Tls,
                format!("{host} is no name that a certificate could be for"),
            )
            .with_source(error)
        })?;
        let connector = TlsConnector::from(self.config(tls)?);
        let stream = connector.connect(name, socket).await.map_err(|error| {
            Error::new(
                ErrorKind::Tls,
                format!(
                    "the TLS handshake with {host} failed: if its certificate is of a private \
                     authority, name that in sslrootcert"
                ),
            )
            .with_source(error)
        })?;
        let certificates = stream.get_ref().1.peer_certificates();
        let binding = certificates
            .and_then(|certificates| certificates.first())
            .and_then(|certificate| server_end_point(certificate));
        Ok((stream, binding))
    }
}

fn provider() -> CryptoProvider {
    CryptoProvider {
        // Before 18 PostgreSQL knows secp256r1 alone unless told otherwise;
        // offering another first costs a HelloRetryRequest, a round trip.
        kx_groups: vec![
            ring::kx_group::SECP256R1,
            ring::kx_group::X25519,
            ring::kx_group::SECP384R1,
        ],
        ..ring::default_provider()
    }
}

fn client_config(tls: &Tls) -> Result<ClientConfig> {
    let provider = Arc::new(provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| Error::new(ErrorKind::Tls, "no TLS version to use").with_source(error))?;
    let verification = match tls.mode {
        TlsMode::VerifyFull => None,
        TlsMode::VerifyCa => Some(Verification::AnyName(verifier(tls, &provider)?)),
        TlsMode::Encrypt | TlsMode::Prefer | TlsMode::Disable => {
            Some(Verification::Anybody(Arc::clone(&provider)))
        }
    };
    let builder = match verification {
        None => builder.with_webpki_verifier(verifier(tls, &provider)?),
        Some(verification) => builder
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verification)),
    };
    let mut config = builder.with_no_client_auth();
    if tls.direct {
        // Direct TLS is refused without it (manual, "SSL Session Encryption").
        config.alpn_protocols = vec![b"postgresql".to_vec()];
    }
    Ok(config)
}

fn verifier(tls: &Tls, provider: &Arc<CryptoProvider>) -> Result<Arc<WebPkiServerVerifier>> {
    let mut store = RootCertStore::empty();
    match &tls.roots {
        None => store.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned()),
        Some(Roots::File(file)) => {
            let pem = std::fs::read(file).map_err(|error| {
                Error::configuration(format!("sslrootcert: cannot read {}", file.display()))
                    .with_source(error)
            })?;
            add(&mut store, &pem)?;
        }
        Some(Roots::Pem(pem)) => add(&mut store, pem.as_bytes())?,
    }
    WebPkiServerVerifier::builder_with_provider(Arc::new(store), Arc::clone(provider))
        .build()
        .map_err(|error| Error::configuration("sslrootcert: unusable").with_source(error))
}

fn add(store: &mut RootCertStore, pem: &[u8]) -> Result<()> {
    let unusable = || Error::configuration("sslrootcert: not a certificate in PEM");
    for certificate in CertificateDer::pem_slice_iter(pem) {
        let certificate = certificate.map_err(|error| unusable().with_source(error))?;
        store
            .add(certificate)
            .map_err(|error| unusable().with_source(error))?;
    }
    match store.is_empty() {
        true => Err(unusable()),
        false => Ok(()),
    }
}

/// What libpq calls `verify-ca` and `require`.
#[derive(Debug)]
enum Verification {
    AnyName(Arc<WebPkiServerVerifier>),
    Anybody(Arc<CryptoProvider>),
}

impl ServerCertVerifier for Verification {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let Verification::AnyName(verifier) = self else {
            return Ok(ServerCertVerified::assertion());
        };
        let verified =
            verifier.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now);
        match verified {
            // The name is the last thing that is looked at.
            Err(rustls::Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) => Ok(ServerCertVerified::assertion()),
            verified => verified,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        match self {
            Verification::AnyName(verifier) => verifier.verify_tls12_signature(message, cert, dss),
            Verification::Anybody(provider) => rustls::crypto::verify_tls12_signature(
                message,
                cert,
                dss,
                &provider.signature_verification_algorithms,
            ),
        }
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        match self {
            Verification::AnyName(verifier) => verifier.verify_tls13_signature(message, cert, dss),
            Verification::Anybody(provider) => rustls::crypto::verify_tls13_signature(
                message,
                cert,
                dss,
                &provider.signature_verification_algorithms,
            ),
        }
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        match self {
            Verification::AnyName(verifier) => verifier.supported_verify_schemes(),
            Verification::Anybody(provider) => provider
                .signature_verification_algorithms
                .supported_schemes(),
        }
    }
}

/// The channel binding `tls-server-end-point` (RFC 5929, section 4.1): the
/// certificate, hashed with the hash of its own signature; SHA-256 in place of MD5
/// and SHA-1. `None` where the signature names no hash.
fn server_end_point(certificate: &CertificateDer<'_>) -> Option<Vec<u8>> {
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
        () if is(SHA256) => &::ring::digest::SHA256,
        () if is(SHA384) => &::ring::digest::SHA384,
        () if is(SHA512) => &::ring::digest::SHA512,
        () => return None,
    };
    Some(::ring::digest::digest(hash, certificate).as_ref().to_vec())
}
