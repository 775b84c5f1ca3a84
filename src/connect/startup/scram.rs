//! Authenticates by SCRAM-SHA-256, with or without channel binding (RFC 5802, RFC 7677; manual,
//! "SASL Authentication").
//!
//! The implementation in `postgres-protocol` derives the keys anew each time, and cannot be given
//! [keys](Keys) that were derived before.

use std::num::NonZeroU32;
use std::str;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ring::{digest, hmac, rand};

use super::keys::{Derived, Keys};

/// The most iterations of the key derivation that a server may ask for, as in `postgres-protocol`
/// and pgjdbc: 24 times the default of PostgreSQL, 25 ms of computing.
const MOST_ITERATIONS: u32 = 100_000;

/// The random bytes of a nonce, as many as libpq's (`SCRAM_RAW_NONCE_LEN`).
const NONCE: usize = 18;

/// A SASL mechanism.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mechanism {
    /// SCRAM-SHA-256.
    Scram,
    /// SCRAM-SHA-256-PLUS: bound to the TLS connection.
    ScramPlus,
}

impl Mechanism {
    pub(super) fn name(self) -> &'static str {
        match self {
            Mechanism::Scram => "SCRAM-SHA-256",
            Mechanism::ScramPlus => "SCRAM-SHA-256-PLUS",
        }
    }
}

/// Why an exchange failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ScramError {
    /// There is no source of random numbers.
    Random,
    /// A message of the server is malformed.
    Malformed,
    /// The server's nonce does not extend the client's.
    Nonce,
    /// The server asks for too many iterations.
    Iterations,
    /// The server's signature is wrong: it does not know the password.
    Signature,
}

/// An exchange whose first message was sent.
pub(super) struct Exchange<'a> {
    pub(super) mechanism: Mechanism,
    header: &'static str,
    /// The channel binding, if the mechanism has one.
    binding: &'a [u8],
    /// The first message without the header.
    bare: String,
    nonce: String,
}

/// An exchange whose last message was sent.
pub(super) struct Proven {
    keys: Arc<Derived>,
    auth_message: String,
}

impl<'a> Exchange<'a> {
    /// Begins an exchange over a connection with this channel binding, if it has one. `None`:
    /// there is no source of random numbers, or nothing to bind to.
    pub(super) fn new(mechanism: Mechanism, binding: Option<&'a [u8]>) -> Option<Self> {
        let nonce: [u8; NONCE] = rand::generate(&rand::SystemRandom::new()).ok()?.expose();
        let nonce = STANDARD.encode(nonce);
        Exchange::with_nonce(mechanism, binding, "", nonce)
    }

    fn with_nonce(
        mechanism: Mechanism,
        binding: Option<&'a [u8]>,
        user: &str,
        nonce: String,
    ) -> Option<Self> {
        let (header, binding) = match (mechanism, binding) {
            (Mechanism::ScramPlus, binding) => ("p=tls-server-end-point,,", binding?),
            // "The client supports it, but thinks the server does not": a server that does
            // refuses this, so that a man in the middle cannot hide that it does.
            (Mechanism::Scram, Some(_)) => ("y,,", &[][..]),
            (Mechanism::Scram, None) => ("n,,", &[][..]),
        };
        Some(Exchange {
            mechanism,
            header,
            binding,
            // PostgreSQL takes the user from the startup packet.
            bare: format!("n={user},r={nonce}"),
            nonce,
        })
    }

    /// Returns the first message.
    pub(super) fn first(&self) -> String {
        format!("{}{}", self.header, self.bare)
    }

    /// Answers the server's first message: returns the last one.
    pub(super) fn prove(
        &self,
        server_first: &[u8],
        password: &[u8],
        keys: &Keys,
    ) -> Result<(String, Proven), ScramError> {
        let server_first = str::from_utf8(server_first).map_err(|_| ScramError::Malformed)?;
        let (nonce, salt, iterations) = parse(server_first).ok_or(ScramError::Malformed)?;
        if !nonce.starts_with(&self.nonce) || nonce.len() == self.nonce.len() {
            return Err(ScramError::Nonce);
        }
        if iterations.get() > MOST_ITERATIONS {
            return Err(ScramError::Iterations);
        }
        let keys = keys.derive(password, &salt, iterations);
        let bound = STANDARD.encode([self.header.as_bytes(), self.binding].concat());
        let without_proof = format!("c={bound},r={nonce}");
        let auth_message = format!("{},{server_first},{without_proof}", self.bare);

        // ClientProof := ClientKey XOR HMAC(H(ClientKey), AuthMessage)
        let stored_key = digest::digest(&digest::SHA256, &keys.client[..]);
        let signature = sign(stored_key.as_ref(), &auth_message);
        let pairs = keys.client.iter().zip(signature.as_ref());
        let proof: Vec<u8> = pairs.map(|(key, signature)| key ^ signature).collect();
        let message = format!("{without_proof},p={}", STANDARD.encode(proof));
        Ok((message, Proven { keys, auth_message }))
    }
}

impl Proven {
    /// Verifies, by the server's last message, that it knows the password.
    pub(super) fn verify(&self, server_final: &[u8]) -> Result<(), ScramError> {
        let server_final = str::from_utf8(server_final).map_err(|_| ScramError::Malformed)?;
        let signature = server_final.strip_prefix("v=");
        let signature = signature.and_then(|signature| STANDARD.decode(signature).ok());
        let signature = signature.ok_or(ScramError::Malformed)?;
        let key = hmac::Key::new(hmac::HMAC_SHA256, &self.keys.server[..]);
        hmac::verify(&key, self.auth_message.as_bytes(), &signature)
            .map_err(|_| ScramError::Signature)
    }
}

fn sign(key: &[u8], message: &str) -> hmac::Tag {
    hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), message.as_bytes())
}

/// Parses the server's first message: nonce, salt and iterations.
fn parse(message: &str) -> Option<(&str, Vec<u8>, NonZeroU32)> {
    let mut fields = message.split(',');
    let nonce = fields.next()?.strip_prefix("r=")?;
    let salt = STANDARD.decode(fields.next()?.strip_prefix("s=")?).ok()?;
    let iterations = fields.next()?.strip_prefix("i=")?.parse().ok()?;
    fields.next().is_none().then_some((nonce, salt, iterations))
}

#[cfg(test)]
mod tests;
