//! TLS by rustls, with its own crypto provider: the process default may be missing or set
//! twice, and both panic.
//!
//! - [`key`] verifies with a certificate's key alone;
//! - [`pem`] reads authorities and keys;
//! - [`verify`] decides what of a certificate is verified, and verifies it;
//! - [`binding`] ties the password's proof to the connection;
//! - [`failure`] says which certificate it was, and what to set.

mod binding;
mod certificate;
mod description;
mod failure;
mod key;
mod pem;
mod verify;

use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::config::{Pem, Roots, Tls};
use crate::error::{Error, ErrorKind, Result};
use crate::net::Socket;
pub use certificate::Shown;
pub use description::Description;
pub(crate) use failure::explain_later;
use pem::{certificates, key};
use verify::{Check, Policy, Verifier};

/// The name of the protocol in ALPN (manual, "Protocol").
const ALPN: &[u8] = b"postgresql";

/// A client's side of TLS, made when it is first needed: reading authorities takes
/// time that a plaintext connection does not need to spend.
#[derive(Debug, Clone, Default)]
pub(crate) struct Client {
    /// One for each policy that was needed: most have one host.
    ready: Arc<Mutex<Vec<(Policy, Ready)>>>,
}

/// All that stays the same from one handshake to the next.
#[derive(Debug, Clone)]
struct Ready {
    config: Arc<ClientConfig>,
    chain: Option<Arc<WebPkiServerVerifier>>,
    provider: Arc<CryptoProvider>,
}

/// An encrypted stream.
pub struct Encrypted {
    pub(crate) stream: TlsStream<Socket>,
    /// The hash that binds SCRAM to it.
    pub(crate) binding: Option<Vec<u8>>,
    /// The server's certificate was signed by a trusted authority.
    pub(crate) verified: bool,
    /// What of the certificate was looked at.
    check: Check,
}

impl Client {
    /// Reads authorities and keys for `host`, if that has not been done.
    pub(crate) fn prepare(&self, tls: &Tls, host: &str) -> Result<()> {
        self.ready(tls, Policy::of(tls, host)).map(drop)
    }

    /// Forgets what was read, and the sessions that could be resumed.
    #[cfg(feature = "lambda")]
    pub(crate) fn forget(&self) {
        let mut all = self.ready.lock().unwrap_or_else(PoisonError::into_inner);
        all.clear();
    }

    fn ready(&self, tls: &Tls, policy: Policy) -> Result<Ready> {
        let mut all = self.ready.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, ready)) = all.iter().find(|(known, _)| *known == policy) {
            return Ok(ready.clone());
        }
        let ready = Ready::new(tls, policy)?;
        all.push((policy, ready.clone()));
        Ok(ready)
    }

    /// Shakes hands over `socket`.
    pub(crate) async fn connect(&self, tls: &Tls, host: &str, socket: Socket) -> Result<Encrypted> {
        let name = ServerName::try_from(host.to_owned()).map_err(|error| {
            Error::new(
                ErrorKind::Tls,
                format!("{host} is no name that a certificate could be for"),
            )
            .with_source(error)
        })?;
        let policy = Policy::of(tls, host);
        let ready = self.ready(tls, policy)?;
        let rejected = Arc::new(OnceLock::new());
        // A clone of some pointers: so that each connection has its own verifier, and
        // each error its own certificate.
        let mut config = ClientConfig::clone(&ready.config);
        config
            .dangerous()
            .set_certificate_verifier(Arc::new(Verifier {
                check: policy.check,
                chain: ready.chain,
                provider: ready.provider,
                rejected: Arc::clone(&rejected),
            }));
        let connector = TlsConnector::from(Arc::new(config));
        let stream = connector
            .connect(name, socket)
            .await
            .map_err(|error| failure::explain(tls, host, error, rejected.get()))?;
        let (_, connection) = stream.get_ref();
        // Else the peer may be a server of something else that was led to believe us
        // (manual, "SSL Session Encryption").
        if tls.direct && connection.alpn_protocol() != Some(ALPN) {
            return Err(Error::new(
                ErrorKind::Tls,
                format!(
                    "{host} speaks TLS, but does not say that it is PostgreSQL: leave \
                     sslnegotiation=direct away, or see what listens there"
                ),
            ));
        }
        let certificates = connection.peer_certificates();
        let binding = certificates
            .and_then(|certificates| certificates.first())
            .and_then(|certificate| binding::server_end_point(certificate));
        Ok(Encrypted {
            stream,
            binding,
            verified: policy.check != Check::Nothing,
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
            chain: chain.clone(),
            provider: Arc::clone(&provider),
            rejected: Arc::default(),
        };
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(|error| {
                Error::new(ErrorKind::Tls, "no TLS version to use").with_source(error)
            })?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier));
        let mut config = match &tls.client {
            None => builder.with_no_client_auth(),
            Some(client) => {
                let certificates = certificates("sslcert", &client.certificate)?;
                let key = key(&client.key)?;
                builder
                    .with_client_auth_cert(certificates, key)
                    .map_err(|error| {
                        Error::configuration("sslkey does not belong to sslcert").with_source(error)
                    })?
            }
        };
        config.enable_sni = tls.sni;
        // PostgreSQL gives out no tickets; to keep some would keep them per verifier.
        config.resumption = Resumption::disabled();
        if tls.direct {
            // Direct TLS is refused without it (manual, "SSL Session Encryption").
            config.alpn_protocols = vec![ALPN.to_vec()];
        }
        Ok(Ready {
            config: Arc::new(config),
            chain,
            provider,
        })
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

fn chain(
    tls: &Tls,
    policy: Policy,
    provider: &Arc<CryptoProvider>,
) -> Result<Arc<WebPkiServerVerifier>> {
    let mut store = RootCertStore::empty();
    let own = match &tls.roots {
        None | Some(Roots::System) => None,
        Some(Roots::File(file)) => Some(Pem::File(file.clone())),
        Some(Roots::Pem(text)) => Some(Pem::Text(text.clone())),
    };
    match own {
        Some(own) => add(&mut store, certificates("sslrootcert", &own)?)?,
        None => store.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned()),
    }
    if let Some(shipped) = policy.shipped {
        let shipped = Pem::Text(shipped.to_owned());
        add(
            &mut store,
            certificates("the shipped authorities", &shipped)?,
        )?;
    }
    WebPkiServerVerifier::builder_with_provider(Arc::new(store), Arc::clone(provider))
        .build()
        .map_err(|error| Error::configuration("sslrootcert: unusable").with_source(error))
}

fn add(store: &mut RootCertStore, certificates: Vec<CertificateDer<'static>>) -> Result<()> {
    for certificate in certificates {
        store.add(certificate).map_err(|error| {
            Error::configuration("sslrootcert holds a certificate that no authority can have")
                .with_source(error)
        })?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
