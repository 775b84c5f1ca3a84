//! A URL or keyword string, taken apart.
//!
//! tokio-postgres reads most of it; what concerns TLS is ours, because the
//! handshake is.

use super::Tls;
use super::tls::TlsParameters;
use crate::error::{Error, Result};

const OURS: [&str; 8] = [
    "sslmode",
    "sslrootcert",
    "sslcert",
    "sslkey",
    "sslnegotiation",
    "sslsni",
    "channel_binding",
    "require_auth",
];

/// Where we are going, and how it is encrypted.
pub(super) fn parse(text: &str) -> Result<(tokio_postgres::Config, Tls)> {
    let text = text.trim();
    let mut settings = Vec::new();
    let rest = match text.split_once("://") {
        Some(_) => take_from_url(text, &mut settings),
        None => take_from_keywords(text, &mut settings),
    };
    // The error may quote what it did not understand, and that may be a piece of
    // the password: it is not passed on.
    let mut server: tokio_postgres::Config = rest.parse().map_err(|_| {
        Error::configuration(
            "cannot be understood: expected postgres://user:password@host:port/database, with \
             reserved characters of the password percent-encoded",
        )
    })?;
    if server.get_hosts().is_empty() && server.get_hostaddrs().is_empty() {
        server.host("localhost");
    }
    let tls = Tls::from_parameters(&tls(&settings), &server)?;
    Ok((server, tls))
}

fn take_from_url(url: &str, settings: &mut Vec<(&'static str, String)>) -> String {
    let Some((head, query)) = url.split_once('?') else {
        return url.to_owned();
    };
    let mut kept = Vec::new();
    for pair in query.split('&') {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        match OURS.iter().find(|&&ours| ours == key) {
            Some(key) => settings.push((key, percent_decoded(value))),
            None => kept.push(pair),
        }
    }
    match kept.is_empty() {
        true => head.to_owned(),
        false => format!("{head}?{}", kept.join("&")),
    }
}

fn take_from_keywords(text: &str, settings: &mut Vec<(&'static str, String)>) -> String {
    let mut rest = format!(" {text}");
    for key in OURS {
        let needle = format!(" {key}=");
        if let Some(at) = rest.find(&needle) {
            let from = at + needle.len();
            let end = rest[from..].find(' ').map_or(rest.len(), |end| from + end);
            settings.push((key, rest[from..end].trim_matches('\'').to_owned()));
            rest.replace_range(at..end, "");
        }
    }
    rest
}

fn percent_decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        let hex = after.get(..2).and_then(|hex| std::str::from_utf8(hex).ok());
        let decoded = hex.and_then(|hex| u8::from_str_radix(hex, 16).ok());
        match (first, decoded) {
            (b'%', Some(byte)) => {
                bytes.push(byte);
                rest = &after[2..];
            }
            _ => {
                bytes.push(first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn tls(settings: &[(&'static str, String)]) -> TlsParameters {
    let value = |key| {
        let setting = settings.iter().rev().find(|(name, _)| *name == key);
        setting.map(|(_, value)| value.clone())
    };
    TlsParameters {
        sslmode: value("sslmode"),
        sslrootcert: value("sslrootcert"),
        sslcert: value("sslcert"),
        sslkey: value("sslkey"),
        sslnegotiation: value("sslnegotiation"),
        sslsni: value("sslsni"),
        channel_binding: value("channel_binding"),
        require_auth: value("require_auth"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Roots, TlsMode};

    fn mode(text: &str) -> TlsMode {
        parse(text).expect(text).1.mode
    }

    #[test]
    fn what_is_not_local_is_verified_in_full() {
        for (text, expected) in [
            ("postgres://db.example.com/x", TlsMode::VerifyFull),
            ("host=db.example.com", TlsMode::VerifyFull),
            ("postgres://localhost/x", TlsMode::Prefer),
            ("postgres://127.0.0.1:5433/x", TlsMode::Prefer),
            ("postgres://[::1]/x", TlsMode::Prefer),
            ("host=/run/postgresql", TlsMode::Prefer),
            (
                "postgres://u@db.example.com/x?sslmode=require",
                TlsMode::Encrypt,
            ),
            (
                "postgres://u@db.example.com/x?sslmode=require&sslrootcert=ca.pem",
                TlsMode::VerifyCa,
            ),
            (
                "host=db.example.com sslmode=disable user=u",
                TlsMode::Disable,
            ),
        ] {
            assert_eq!(mode(text), expected, "{text}");
        }
    }

    #[test]
    fn other_settings_stay_with_tokio_postgres() {
        let (server, tls) = parse(
            "postgres://u:p%40ss@h:1/d?application_name=a&sslrootcert=%2Ftmp%2Fca.pem\
             &sslnegotiation=direct&options=-c%20x%3D1",
        )
        .expect("fine");
        assert_eq!(server.get_application_name(), Some("a"));
        assert_eq!(server.get_options(), Some("-c x=1"));
        assert_eq!(server.get_password(), Some(&b"p@ss"[..]));
        assert!(tls.direct && tls.roots == Some(Roots::File("/tmp/ca.pem".into())));
    }

    #[test]
    fn what_is_wrong_is_named_and_the_password_is_not() {
        for (text, word) in [
            ("postgres://u:hunter2@h/d?sslmode=maybe", "sslmode=maybe"),
            ("postgres://u:hunter2@h:port/d", "cannot be understood"),
            ("host=h password=hunter2 hunter2", "cannot be understood"),
        ] {
            let error = parse(text).expect_err(text);
            let shown = format!("{error} {error:?}");
            assert!(shown.contains(word), "{shown}");
            assert!(!shown.contains("hunter2"), "{shown}");
        }
    }
}
