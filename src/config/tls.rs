//! How a connection is encrypted and whom it trusts.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;

use tokio_postgres::config::Host;

use crate::error::{Error, Result};

/// What was said of TLS and authentication, by libpq's names and as it was written
/// (manual, "Parameter Key Words").
#[derive(Clone, Default)]
#[allow(dead_code)]
pub(crate) struct TlsParameters {
    pub(crate) sslmode: Option<String>,
    pub(crate) sslrootcert: Option<String>,
    pub(crate) sslcert: Option<String>,
    pub(crate) sslkey: Option<String>,
    pub(crate) sslnegotiation: Option<String>,
    pub(crate) sslsni: Option<String>,
    pub(crate) channel_binding: Option<String>,
    pub(crate) require_auth: Option<String>,
}

impl Tls {
    /// Reads `parameters`; what they leave open depends on where `server` is.
    pub(crate) fn from_parameters(
        parameters: &TlsParameters,
        server: &tokio_postgres::Config,
    ) -> Result<Self> {
        let roots = match parameters.sslrootcert.as_deref() {
            None | Some("system") => None,
            Some(pem) if pem.starts_with("-----BEGIN") => Some(Roots::Pem(pem.to_owned())),
            Some(file) => Some(Roots::File(file.into())),
        };
        let mode = match parameters.sslmode.as_deref() {
            None if is_local(server) => TlsMode::Prefer,
            None | Some("verify-full") => TlsMode::VerifyFull,
            Some("verify-ca") => TlsMode::VerifyCa,
            // libpq: a root certificate turns `require` into `verify-ca`.
            Some("require") if roots.is_some() => TlsMode::VerifyCa,
            Some("require") => TlsMode::Encrypt,
            Some("prefer" | "allow") => TlsMode::Prefer,
            Some("disable") => TlsMode::Disable,
            Some(other) => {
                return Err(Error::configuration(format!(
                    "sslmode={other} is none of disable, prefer, require, verify-ca, verify-full"
                )));
            }
        };
        let direct = match parameters.sslnegotiation.as_deref() {
            None | Some("postgres") => false,
            Some("direct") => true,
            Some(other) => {
                return Err(Error::configuration(format!(
                    "sslnegotiation={other} is neither postgres nor direct"
                )));
            }
        };
        Ok(Tls {
            mode,
            roots,
            direct,
        })
    }
}

/// Nobody else is on the way: loopback, or a socket of this machine.
fn is_local(server: &tokio_postgres::Config) -> bool {
    let hosts = server.get_hosts().iter().all(|host| match host {
        Host::Tcp(name) => {
            name == "localhost" || name.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
        }
        #[cfg(unix)]
        Host::Unix(_) => true,
    });
    hosts && server.get_hostaddrs().iter().all(IpAddr::is_loopback)
}

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
