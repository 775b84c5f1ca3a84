//! Reads certificates and keys from files and text.

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use crate::config::{Pem, could_be_file};
use crate::error::{Error, Result};

/// Every certificate in `pem`, of which there is at least one.
pub(super) fn certificates(parameter: &str, pem: &Pem) -> Result<Vec<CertificateDer<'static>>> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&read(parameter, pem)?).collect();
    match found {
        Ok(certificates) if !certificates.is_empty() => Ok(certificates),
        Ok(_) => Err(Error::configuration(format!(
            "{parameter} holds no certificate in PEM (-----BEGIN CERTIFICATE-----)"
        ))),
        Err(error) => {
            let message = format!("{parameter} is not PEM throughout");
            Err(Error::configuration(message).with_source(error))
        }
    }
}

pub(super) fn key(pem: &Pem) -> Result<PrivateKeyDer<'static>> {
    // The cause could quote the key: it is not passed on.
    PrivateKeyDer::from_pem_slice(&read("sslkey", pem)?).map_err(|_| {
        Error::configuration(
            "sslkey holds no private key that can be read: it is to be in PEM (-----BEGIN PRIVATE \
             KEY-----) and not encrypted",
        )
    })
}

fn read(parameter: &str, pem: &Pem) -> Result<Vec<u8>> {
    let text = match pem {
        Pem::Text(text) => text.clone().into_bytes(),
        Pem::File(file) => std::fs::read(file).map_err(|error| {
            // What was taken for the name of a key's file may be the key.
            let shown = if parameter != "sslkey" && could_be_file(file) {
                file.display().to_string()
            } else {
                "its file".to_owned()
            };
            Error::configuration(format!("{parameter}: cannot read {shown}")).with_source(error)
        })?,
    };
    Ok(match std::str::from_utf8(&text) {
        Ok(folded) if !has_lines(folded) => unfold(folded).into_bytes(),
        _ => text,
    })
}

/// What begins a block is a line of its own.
fn has_lines(text: &str) -> bool {
    let mut begins = text.lines().filter(|line| line.contains("-----BEGIN "));
    begins.all(|line| line.matches("-----").count() == 2 && line.trim().ends_with("-----"))
}

/// PEM that has lost its line ends, as consoles and variables of one line leave it: written
/// as `\n`, replaced by blanks, or gone. What has all of them stays as it is.
fn unfold(text: &str) -> String {
    let text = text.replace("\\r", "").replace("\\n", "\n");
    let mut unfolded = String::new();
    let mut rest = text.as_str();
    while let Some((before, label, body, after)) = block(rest) {
        unfolded += before;
        // An encrypted key has headers, which are lines.
        let body = if body.contains(':') {
            body.to_owned()
        } else {
            body.split_whitespace().collect::<Vec<_>>().join("\n")
        };
        unfolded += &format!("\n-----BEGIN {label}-----\n{body}\n-----END {label}-----\n");
        rest = after;
    }
    unfolded + rest
}

/// The first block of `text`: what is before it, its label, its body, and what follows.
fn block(text: &str) -> Option<(&str, &str, &str, &str)> {
    let (before, block) = text.split_once("-----BEGIN ")?;
    let (label, body) = block.split_once("-----")?;
    let (body, after) = body.split_once("-----END ")?;
    let after = after.strip_prefix(label)?.strip_prefix("-----")?;
    Some((before, label, body, after))
}
