//! Configures encryption, certificate verification and authentication methods.

mod authentication;
mod parameters;

use std::fmt;
use std::path::PathBuf;

pub(crate) use authentication::Method;
pub use authentication::RequireAuth;
pub(crate) use parameters::could_be_file;

/// Configures encryption, certificate verification and authentication methods.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Tls {
    /// Whether to encrypt, and what to verify. Default: [`TlsMode::VerifyFull`].
    ///
    /// If a URL names this machine and has no `sslmode`, the mode that this implies is
    /// [`TlsMode::VerifyFull`] again once [`Config::host`](crate::Config::host) is another
    /// machine.
    pub mode: TlsMode,
    /// The certificate authorities to trust (`sslrootcert`). Default: Mozilla's, and
    /// for hosts of Amazon RDS those of its region.
    pub roots: Option<Roots>,
    /// TLS from the first byte on, without asking first (`sslnegotiation=direct`,
    /// PostgreSQL 17 and newer). Default: no.
    pub direct: bool,
    /// The client certificate (`sslcert`, `sslkey`). Default: none.
    pub client: Option<ClientCertificate>,
    /// Sends the host name in the clear during the handshake (`sslsni`), which hosts
    /// that serve several names require. Default: yes.
    pub sni: bool,
    /// Whether the proof of the password is bound to the TLS connection
    /// (`channel_binding`). Default: [`ChannelBinding::Prefer`].
    pub channel_binding: ChannelBinding,
    /// The authentication methods that the server may ask for (`require_auth`).
    /// Default: any, but a password in the clear or hashed with MD5 only over TLS
    /// whose certificate was verified, or to this machine.
    pub require_auth: Option<RequireAuth>,
    /// The mode that a server on this machine implied, if none was set.
    pub(crate) implied: Option<TlsMode>,
}

impl Default for Tls {
    fn default() -> Self {
        Tls {
            mode: TlsMode::default(),
            roots: None,
            direct: false,
            client: None,
            sni: true,
            channel_binding: ChannelBinding::default(),
            require_auth: None,
            implied: None,
        }
    }
}

impl Tls {
    /// Returns whether the server may ask for `method`. `safe`: only the server can read the
    /// answer.
    pub(crate) fn permits(&self, method: Method, safe: bool) -> bool {
        // MD5 is guessed at billions of times a second, and its hash alone is enough to log in.
        let harmless = safe || !matches!(method, Method::Password | Method::Md5);
        match &self.require_auth {
            None => harmless,
            Some(required) => required
                .permits(method)
                .unwrap_or(harmless && required.negated),
        }
    }
}

/// `sslmode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum TlsMode {
    /// Never encrypt.
    Disable,
    /// Encrypt and verify the certificate and the host name (`verify-full`).
    #[default]
    VerifyFull,
    /// Encrypt and verify the certificate, for any name (`verify-ca`). Without
    /// authorities of one's own that would prove nothing: anyone can get a
    /// certificate of a public one. Then the name is verified as well.
    VerifyCa,
    /// Encrypt, and accept any certificate (libpq's `require` without a root certificate).
    ///
    /// Hosts that are known to have a certificate of a public authority are verified
    /// in full all the same: Neon, Aurora DSQL, RDS Proxy. For others a warning is
    /// logged once. With authorities of one's own it is [`TlsMode::VerifyCa`].
    Encrypt,
    /// Encrypt if the server can, and accept any certificate (libpq's `prefer`).
    Prefer,
}

/// `channel_binding`: SCRAM-SHA-256-PLUS proves that the TLS connection ends at the
/// server, even where the certificate alone would not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum ChannelBinding {
    /// Never.
    Disable,
    /// If the server offers it.
    #[default]
    Prefer,
    /// Connecting fails without it.
    Require,
}

/// Where certificate authorities come from.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Roots {
    /// These authorities.
    Pem(Pem),
    /// `system`: Mozilla's, which are compiled in, and no others. A function's image
    /// often has none of its own; where it has, [`Pem::File`] can name them.
    System,
}

/// The client certificate, for servers that ask for one.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ClientCertificate {
    /// The certificate, and those between it and the authority, if there are any
    /// (`sslcert`).
    pub certificate: Pem,
    /// Its private key, not encrypted (`sslkey`).
    pub key: Pem,
}

impl ClientCertificate {
    /// Creates a client certificate with its key.
    pub fn new(certificate: Pem, key: Pem) -> Self {
        ClientCertificate { certificate, key }
    }
}

/// Certificates or a key, in PEM. Its `Debug` shows neither the text nor the file name, which may
/// be a key by mistake.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Pem {
    /// A file.
    File(PathBuf),
    /// The text itself, as from an environment variable.
    Text(String),
}

impl fmt::Debug for Pem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Pem::File(_) => f.write_str("File(..)"),
            Pem::Text(_) => f.write_str("Text(..)"),
        }
    }
}

impl fmt::Display for TlsMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            TlsMode::Disable => "disable",
            TlsMode::VerifyFull => "verify-full",
            TlsMode::VerifyCa => "verify-ca",
            TlsMode::Encrypt => "require",
            TlsMode::Prefer => "prefer",
        })
    }
}
