//! A private certificate authority: certificates that are right, and some that are not.
//!
//! ```
//! use lab::certificates::Authority;
//!
//! # fn main() -> lab::Result<()> {
//! let authority = Authority::new()?;
//! let good = authority.server(&["localhost", "127.0.0.1"])?;
//! let elsewhere = authority.server(&["db.example.com"])?;
//! let expired = authority.expired(&["localhost"])?;
//! let alice = authority.client("alice")?;
//! assert!(good.certificate().starts_with("-----BEGIN CERTIFICATE-----"));
//! # let _ = (elsewhere, expired, alice);
//! # Ok(())
//! # }
//! ```

use std::{
    fmt,
    time::{Duration, SystemTime},
};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, KeyUsagePurpose, date_time_ymd,
};

use crate::{Result, error::OrSay};

/// Signs certificates that only its own [`pem`](Authority::pem) vouches for.
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    pem: String,
}

impl Authority {
    /// Makes a new one, with a key of its own.
    ///
    /// # Errors
    /// When the system has no randomness to make a key from.
    pub fn new() -> Result<Self> {
        let mut parameters = parameters(&[], "antifreeze lab authority")?;
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        parameters.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let issuer = KeyPair::generate()
            .and_then(|key| CertifiedIssuer::self_signed(parameters, key))
            .or_say(|| "could not make a certificate authority")?;
        let pem = issuer.pem();
        Ok(Self { issuer, pem })
    }

    /// The authority's own certificate: what a client trusts (libpq's `sslrootcert`).
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// A server certificate for these host names and IP addresses.
    ///
    /// # Errors
    /// When one of the names is neither.
    pub fn server(&self, names: &[&str]) -> Result<Identity> {
        let mut parameters = parameters(names, names.first().copied().unwrap_or("server"))?;
        parameters.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        self.sign(parameters)
    }

    /// A server certificate like [`server`](Authority::server)'s whose time was up in 2021.
    ///
    /// # Errors
    /// When one of the names is neither a host name nor an IP address.
    pub fn expired(&self, names: &[&str]) -> Result<Identity> {
        let mut parameters = parameters(names, names.first().copied().unwrap_or("server"))?;
        parameters.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        parameters.not_after = date_time_ymd(2021, 1, 1);
        self.sign(parameters)
    }

    /// A server certificate like [`server`](Authority::server)'s that is good for so long
    /// from now on.
    ///
    /// # Errors
    /// When one of the names is neither a host name nor an IP address.
    pub fn ending(&self, names: &[&str], left: Duration) -> Result<Identity> {
        let mut parameters = parameters(names, names.first().copied().unwrap_or("server"))?;
        parameters.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        parameters.not_after = (SystemTime::now() + left).into();
        self.sign(parameters)
    }

    /// A client certificate whose common name is `user`, as PostgreSQL's `cert`
    /// authentication wants it.
    ///
    /// # Errors
    /// When the certificate could not be made.
    pub fn client(&self, user: &str) -> Result<Identity> {
        let mut parameters = parameters(&[], user)?;
        parameters.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self.sign(parameters)
    }

    fn sign(&self, mut parameters: CertificateParams) -> Result<Identity> {
        parameters.use_authority_key_identifier_extension = true;
        parameters.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        let key = KeyPair::generate().or_say(|| "could not make a key")?;
        let certificate = parameters
            .signed_by(&key, &self.issuer)
            .or_say(|| "could not sign a certificate")?;
        Ok(Identity {
            certificate: certificate.pem(),
            key: key.serialize_pem(),
        })
    }
}

fn parameters(names: &[&str], common_name: &str) -> Result<CertificateParams> {
    let names: Vec<String> = names.iter().map(ToString::to_string).collect();
    let mut parameters = CertificateParams::new(names.clone())
        .or_say(|| format!("a certificate cannot be made for {names:?}"))?;
    parameters
        .distinguished_name
        .push(DnType::CommonName, common_name);
    parameters.not_before = date_time_ymd(2020, 1, 1);
    parameters.not_after = date_time_ymd(2120, 1, 1);
    Ok(parameters)
}

/// The authority's certificate; the key stays out of it.
impl fmt::Debug for Authority {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Authority")
            .field("pem", &self.pem)
            .finish_non_exhaustive()
    }
}

/// A certificate and the key that belongs to it, as PEM.
#[derive(Clone)]
pub struct Identity {
    certificate: String,
    key: String,
}

impl Identity {
    /// What somebody else has made: PEM both.
    pub fn of(certificate: impl Into<String>, key: impl Into<String>) -> Self {
        Self {
            certificate: certificate.into(),
            key: key.into(),
        }
    }

    /// The certificate, PEM.
    pub fn certificate(&self) -> &str {
        &self.certificate
    }

    /// The private key, PEM (PKCS #8).
    pub fn key(&self) -> &str {
        &self.key
    }
}

/// The certificate; the key stays out of it.
impl fmt::Debug for Identity {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Identity")
            .field("certificate", &self.certificate)
            .finish_non_exhaustive()
    }
}
