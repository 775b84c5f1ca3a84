//! Verifies a server's certificate as far as `sslmode` requires.

use std::sync::{Arc, OnceLock};

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::WebPkiSupportedAlgorithms;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, DigitallySignedStruct, SignatureScheme};

use super::key;
use crate::config::{Roots, Tls, TlsMode};
use crate::provider::{Authority, Host};

/// How far a certificate is verified.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Check {
    /// A trusted authority signed it, it has not expired, and it is for this host.
    Full,
    /// A trusted authority signed it, and it has not expired.
    Chain,
    /// The server has its key, to which SCRAM may be bound; nothing else.
    Nothing,
}

/// The rules by which the certificate of a host is verified.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Policy {
    pub(super) check: Check,
    /// Authorities to trust besides those of the configuration, PEM.
    pub(super) shipped: Option<&'static str>,
}

impl Policy {
    /// Derives the policy from the configuration and the host name.
    pub(super) fn of(tls: &Tls, host: &str) -> Self {
        let own = matches!(tls.roots, Some(Roots::Pem(_)));
        let authority = Host::of(host).authority;
        let check = match tls.mode {
            TlsMode::Disable | TlsMode::Prefer => Check::Nothing,
            TlsMode::VerifyFull => Check::Full,
            TlsMode::VerifyCa | TlsMode::Encrypt if own => Check::Chain,
            // Anyone can get a certificate of a public authority: it proves the name alone.
            TlsMode::VerifyCa => Check::Full,
            TlsMode::Encrypt if authority == Authority::Public => Check::Full,
            TlsMode::Encrypt => Check::Nothing,
        };
        let shipped = match (&tls.roots, check, authority) {
            (None, Check::Full | Check::Chain, Authority::Provider { shipped, .. }) => shipped,
            _ => None,
        };
        Policy { check, shipped }
    }
}

/// Verifies the certificate of one connection, and keeps a rejected one for the error.
#[derive(Debug, Clone)]
pub(super) struct Verifier {
    pub(super) check: Check,
    pub(super) chain: Option<Arc<WebPkiServerVerifier>>,
    pub(super) algorithms: WebPkiSupportedAlgorithms,
    pub(super) rejected: OnceLock<CertificateDer<'static>>,
}

impl Verifier {
    /// Keeps a rejected certificate.
    fn note<T>(
        &self,
        certificate: &CertificateDer<'_>,
        verified: Result<T, rustls::Error>,
    ) -> Result<T, rustls::Error> {
        verified.inspect_err(|_| {
            let _ = self.rejected.set(certificate.clone().into_owned());
        })
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let Some(chain) = &self.chain else {
            return Ok(ServerCertVerified::assertion());
        };
        let verified =
            chain.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now);
        match verified {
            // The name is verified last.
            Err(rustls::Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) if self.check == Check::Chain => Ok(ServerCertVerified::assertion()),
            verified => self.note(end_entity, verified),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let verify = match self.check {
            Check::Nothing => key::verify_tls12,
            Check::Full | Check::Chain => rustls::crypto::verify_tls12_signature,
        };
        let verified = verify(message, certificate, signature, &self.algorithms);
        self.note(certificate, verified)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let verify = match self.check {
            Check::Nothing => key::verify_tls13,
            Check::Full | Check::Chain => rustls::crypto::verify_tls13_signature,
        };
        let verified = verify(message, certificate, signature, &self.algorithms);
        self.note(certificate, verified)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Pem;

    #[test]
    fn checks_follow_from_mode_roots_and_host() {
        use TlsMode::{Encrypt, Prefer, VerifyCa, VerifyFull};
        let own = || Some(Roots::Pem(Pem::File("ca.pem".into())));
        let system = || Some(Roots::System);
        let (neon, rds, other) = (
            "a.aws.neon.tech",
            "d.abc.eu-west-1.rds.amazonaws.com",
            "db.example.com",
        );
        for (mode, roots, host, check, shipped) in [
            (VerifyFull, None, other, Check::Full, false),
            (VerifyFull, None, rds, Check::Full, true),
            (VerifyFull, own(), rds, Check::Full, false),
            (VerifyFull, system(), rds, Check::Full, false),
            (VerifyCa, own(), other, Check::Chain, false),
            (VerifyCa, None, other, Check::Full, false),
            (VerifyCa, None, rds, Check::Full, true),
            (Encrypt, None, neon, Check::Full, false),
            (Encrypt, None, rds, Check::Nothing, false),
            (Encrypt, None, other, Check::Nothing, false),
            (Encrypt, own(), neon, Check::Chain, false),
            (Prefer, None, neon, Check::Nothing, false),
        ] {
            let shown = format!("{mode} {roots:?} {host}");
            let tls = Tls {
                mode,
                roots,
                ..Tls::default()
            };
            let policy = Policy::of(&tls, host);
            assert_eq!(policy.check, check, "{shown}");
            assert_eq!(policy.shipped.is_some(), shipped, "{shown}");
        }
    }
}
