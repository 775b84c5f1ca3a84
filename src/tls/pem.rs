//! Reads certificates and keys from files and text.

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use crate::config::{Pem, could_be_file};
use crate::error::{Error, Result};

/// Reads the certificates in `pem`, at least one.
pub(super) fn certificates(parameter: &str, pem: &Pem) -> Result<Vec<CertificateDer<'static>>> {
    let certificates: Vec<_> = CertificateDer::pem_slice_iter(&read(parameter, pem)?)
        .collect::<Result<_, _>>()
        .map_err(|error| {
            Error::configuration(format!("{parameter} contains invalid PEM"))
                .with_remedy("check that it is complete")
                .with_source(error)
        })?;
    if certificates.is_empty() {
        let cause = format!("{parameter} contains no PEM certificate");
        let remedy = "set it to a file or text with -----BEGIN CERTIFICATE-----";
        return Err(Error::configuration(cause).with_remedy(remedy));
    }
    Ok(certificates)
}

/// Reads a private key.
pub(super) fn key(pem: &Pem) -> Result<PrivateKeyDer<'static>> {
    // The cause may quote the key, and is dropped.
    PrivateKeyDer::from_pem_slice(&read("sslkey", pem)?).map_err(|_| {
        Error::configuration("sslkey contains no readable private key").with_remedy(
            "set it to an unencrypted key in PEM (-----BEGIN PRIVATE KEY-----), a file or text",
        )
    })
}

fn read(parameter: &str, pem: &Pem) -> Result<Vec<u8>> {
    let text = match pem {
        Pem::Text(text) => text.clone().into_bytes(),
        Pem::File(file) => std::fs::read(file).map_err(|error| {
            // The path may be the text of a key.
            let is_path = parameter != "sslkey" && could_be_file(file);
            let path = is_path.then(|| format!(" {}", file.display()));
            let path = path.unwrap_or_default();
            Error::configuration(format!("cannot read the file{path} of {parameter}"))
                .with_remedy("check that it exists and is readable")
                .with_source(error)
        })?,
    };
    Ok(match std::str::from_utf8(&text) {
        Ok(folded) if !has_lines(folded) => unfold(folded).into_bytes(),
        _ => text,
    })
}

/// Returns whether every block begins on a line of its own.
fn has_lines(text: &str) -> bool {
    let mut begins = text.lines().filter(|line| line.contains("-----BEGIN "));
    begins.all(|line| line.matches("-----").count() == 2 && line.trim().ends_with("-----"))
}

/// Restores the line ends of PEM that went through a console or a variable of one line: written
/// as `\n`, replaced by blanks, or removed.
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

/// Splits off the first block of `text`: the text before, the label, the body, the text after.
fn block(text: &str) -> Option<(&str, &str, &str, &str)> {
    let (before, block) = text.split_once("-----BEGIN ")?;
    let (label, body) = block.split_once("-----")?;
    let (body, after) = body.split_once("-----END ")?;
    let after = after.strip_prefix(label)?.strip_prefix("-----")?;
    Some((before, label, body, after))
}
