//! How a connection is encrypted and whom it trusts.

use std::fmt;
use std::path::PathBuf;

/// How a connection is encrypted and whom it trusts.
#[derive(Clone, Default)]
#[non_exhaustive]
pub struct Tls {
    /// Whether to, and what is verified.
    pub mode: TlsMode,
    /// Certificate authorities to trust instead of Mozilla's.
    pub roots: Option<Roots>,
    /// TLS from the first byte on, without asking first (PostgreSQL 17 and newer).
    pub direct: bool,
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
    /// Encrypt and verify the certificate, for whatever name (`verify-ca`).
    VerifyCa,
    /// Encrypt, and trust anybody (libpq's `require` without a root certificate).
    Encrypt,
    /// Encrypt if the server can, and trust anybody (libpq's `prefer`).
    Prefer,
}

/// Where certificate authorities are read from, as PEM.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Roots {
    /// A file.
    File(PathBuf),
    /// The text itself, as from an environment variable.
    Pem(String),
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls")
            .field("mode", &self.mode)
            .field("roots", &self.roots)
            .field("direct", &self.direct)
            .finish()
    }
}

impl fmt::Debug for Roots {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Roots::File(path) => f.debug_tuple("File").field(path).finish(),
            Roots::Pem(_) => f.write_str("Pem(..)"),
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
