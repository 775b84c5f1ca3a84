//! Encrypts connections with rustls and a crypto provider of its own: the process default may be
//! missing or set twice, and both panic.
//!
//! - [`key`] verifies signatures with a certificate's key alone;
//! - [`pem`] reads certificates and keys;
//! - [`verify`] decides how far a certificate is verified, and verifies it;
//! - [`binding`] computes the channel binding of SCRAM;
//! - [`failure`] describes failed handshakes.

mod binding;
mod certificate;
mod failure;
mod handshake;
mod key;
mod pem;
mod verify;

use std::sync::{Arc, OnceLock};

use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::config::{Pem, Roots, Tls};
use crate::error::{Error, ErrorKind, Result};
use crate::lock::Mutex;
use crate::net::Socket;
pub use certificate::Summary;
pub(crate) use failure::explain_later;
pub use handshake::Handshake;
use pem::{certificates, key};
use verify::{Check, Policy, Verifier};

/// The protocol name of PostgreSQL in ALPN (manual, "Protocol").
const ALPN: &[u8] = b"postgresql";

/// The client side of TLS. Certificates are read at the first TLS connection, since a plaintext
/// connection does not need them.
#[derive(Debug, Default)]
pub(crate) struct Client {
    /// One configuration for each policy in use: usually one.
    ready: Mutex<Vec<(Policy, Ready)>>,
}

/// The configuration that handshakes share.
#[derive(Debug, Clone)]
struct Ready {
    config: Arc<ClientConfig>,
    verifier: Verifier,
}

/// An encrypted stream.
pub struct Encrypted {
    pub(crate) stream: TlsStream<Socket>,
    /// The channel binding of SCRAM.
    pub(crate) binding: Option<Vec<u8>>,
    /// How far the certificate was verified.
    check: Check,
}

impl Encrypted {
    /// Returns whether the server's certificate was signed by a trusted authority.
    pub(crate) fn is_verified(&self) -> bool {
        self.check != Check::Nothing
    }
}

impl Client {
    /// Reads certificates and keys for `host`, unless they have been read.
    pub(crate) fn prepare(&self, tls: &Tls, host: &str) -> Result<()> {
        self.ready(tls, Policy::of(tls, host)).map(drop)
    }

    /// Discards the configurations, so that certificates and keys are read again.
    #[cfg(feature = "lambda")]
    pub(crate) fn forget(&self) {
        self.ready.lock().clear();
    }

    fn ready(&self, tls: &Tls, policy: Policy) -> Result<Ready> {
        let mut all = self.ready.lock();
        if let Some((_, ready)) = all.iter().find(|(known, _)| *known == policy) {
            return Ok(ready.clone());
        }
        let ready = Ready::new(tls, policy)?;
        all.push((policy, ready.clone()));
        Ok(ready)
    }

    /// Performs the TLS handshake over `socket`.
    pub(crate) async fn connect(&self, tls: &Tls, host: &str, socket: Socket) -> Result<Encrypted> {
        let name = ServerName::try_from(host.to_owned()).map_err(|error| {
            Error::new(
                ErrorKind::Tls,
                format!("{host} is not a valid host name for TLS"),
            )
            .with_remedy("correct the host")
            .with_source(error)
        })?;
        let policy = Policy::of(tls, host);
        let ready = self.ready(tls, policy)?;
        // Cheap, since its parts are shared: each connection needs a verifier of its own, which
        // keeps the certificate for the error.
        let mut config = ClientConfig::clone(&ready.config);
        let verifier = Arc::new(ready.verifier);
        let shared = Arc::clone(&verifier);
        config.dangerous().set_certificate_verifier(shared);
        let stream = TlsConnector::from(Arc::new(config)).connect(name, socket);
        let stream = stream
            .await
            .map_err(|error| failure::explain(tls, host, error, verifier.rejected.get()))?;
        let (_, connection) = stream.get_ref();
        // Without ALPN the peer may be a server of another protocol (manual, "SSL Session
        // Encryption").
        if tls.direct && connection.alpn_protocol() != Some(ALPN) {
            let cause = format!("{host} supports TLS, but did not confirm PostgreSQL by ALPN");
            return Err(Error::new(ErrorKind::Tls, cause)
                .with_remedy("remove sslnegotiation=direct, or check the port"));
        }
        let certificate = connection.peer_certificates().and_then(<[_]>::first);
        let binding = certificate.and_then(binding::server_end_point);
        Ok(Encrypted {
            stream,
            binding,
            check: policy.check,
        })
    }
}

impl Ready {
    fn new(tls: &Tls, policy: Policy) -> Result<Self> {
        let provider = Arc::new(provider());
        let chain = match policy.check {
            Check::Nothing => None,
            Check::Chain | Check::Full => Some(chain(tls, policy, &provider)?),
        };
        let verifier = Verifier {
            check: policy.check,
            chain,
            algorithms: provider.signature_verification_algorithms,
            rejected: OnceLock::new(),
        };
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| {
                Error::new(ErrorKind::Tls, "no TLS version is supported").with_source(error)
            })?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier.clone()));
        let mut config = match &tls.client {
            None => builder.with_no_client_auth(),
            Some(client) => {
                let certificates = certificates("sslcert", &client.certificate)?;
                let key = key(&client.key)?;
                builder
                    .with_client_auth_cert(certificates, key)
                    .map_err(|error| {
                        Error::configuration(
                            "sslkey does not belong to sslcert: set both from the same pair",
                        )
                        .with_source(error)
                    })?
            }
        };
        config.enable_sni = tls.sni;
        // PostgreSQL issues no tickets, and each connection has a verifier of its own.
        config.resumption = Resumption::disabled();
        if tls.direct {
            // The server rejects direct TLS without ALPN (manual, "SSL Session Encryption").
            config.alpn_protocols = vec![ALPN.to_vec()];
        }
        let config = Arc::new(config);
        Ok(Ready { config, verifier })
    }
}

fn provider() -> CryptoProvider {
    CryptoProvider {
        // Before 18 PostgreSQL supports secp256r1 alone by default (ssl_ecdh_curve); offering
        // another group first costs a HelloRetryRequest, a round trip.
        kx_groups: vec![
            ring::kx_group::SECP256R1,
            ring::kx_group::X25519,
            ring::kx_group::SECP384R1,
        ],
        ..ring::default_provider()
    }
}

fn chain(
    tls: &Tls,
    policy: Policy,
    provider: &Arc<CryptoProvider>,
) -> Result<Arc<WebPkiServerVerifier>> {
    let mut store = RootCertStore::empty();
    let mut own = Vec::new();
    if let Some(Roots::Pem(pem)) = &tls.roots {
        own = certificates("sslrootcert", pem)?;
    } else {
        store.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
    }
    if let Some(shipped) = policy.shipped {
        own = certificates("the shipped authorities", &Pem::Text(shipped.to_owned()))?;
    }
    for certificate in own {
        store.add(certificate).map_err(|error| {
            let cause = "sslrootcert contains a certificate that is not an authority's";
            Error::configuration(cause)
                .with_remedy("remove it")
                .with_source(error)
        })?;
    }
    WebPkiServerVerifier::builder_with_provider(Arc::new(store), Arc::clone(provider))
        .build()
        .map_err(|error| {
            Error::configuration("the authorities in sslrootcert cannot be used").with_source(error)
        })
}

#[cfg(test)]
mod tests;
