//! Reads the TLS settings from connection parameters.

use std::net::IpAddr;
use std::path::Path;

use tokio_postgres::config::Host;

use super::{ChannelBinding, ClientCertificate, Pem, Roots, Tls, TlsMode};
use crate::config::parameters::Parameters;
use crate::config::spelling::{nearest, shown};
use crate::error::{Error, Result};
use crate::provider;

impl Tls {
    /// Reads the TLS parameters (libpq's manual, "Parameter Key Words"; `ssl` is JDBC's,
    /// which libpq accepts in URLs); the defaults depend on the address of `server`.
    ///
    /// # Errors
    ///
    /// Names the parameter that is wrong, or the two that contradict each other.
    pub(in crate::config) fn from_parameters(
        parameters: &Parameters,
        server: &tokio_postgres::Config,
    ) -> Result<Self> {
        let roots = match parameters.get("sslrootcert") {
            None => None,
            Some("system") => Some(Roots::System),
            Some(value) => Some(Roots::Pem(pem("sslrootcert", value)?)),
        };
        let choices = [("postgres", false), ("direct", true)];
        let direct = choice(parameters, "sslnegotiation", &choices)?.unwrap_or(false);
        let ssl = match parameters.get("ssl") {
            None => false,
            Some(value) if value.eq_ignore_ascii_case("true") => true,
            Some(other) => return Err(wrong_ssl(other)),
        };
        let mode = match parameters.get("sslmode") {
            // As libpq: public authorities prove nothing but a name.
            None if roots == Some(Roots::System) => TlsMode::VerifyFull,
            None if !is_local(server) => TlsMode::VerifyFull,
            None if direct || ssl => TlsMode::Encrypt,
            None => TlsMode::Prefer,
            Some("verify-full") => TlsMode::VerifyFull,
            Some("verify-ca") => TlsMode::VerifyCa,
            // libpq: a root certificate turns `require` into `verify-ca`.
            Some("require") if roots.is_some() => TlsMode::VerifyCa,
            Some("require") => TlsMode::Encrypt,
            Some("prefer" | "allow") => TlsMode::Prefer,
            Some("disable") => TlsMode::Disable,
            Some(other) => return Err(wrong_mode(other)),
        };
        let asked = parameters.get("sslmode").unwrap_or("its default");
        if roots == Some(Roots::System) && mode != TlsMode::VerifyFull {
            return Err(Error::configuration(format!(
                "sslrootcert=system needs sslmode=verify-full, not {asked}: certificates of public \
                 authorities prove nothing but a host name"
            )));
        }
        if direct && matches!(mode, TlsMode::Disable | TlsMode::Prefer) {
            return Err(Error::configuration(format!(
                "sslnegotiation=direct cannot be used with sslmode={asked}, which allows \
                 connections without TLS: set require, verify-ca or verify-full"
            )));
        }
        let client = match (parameters.get("sslcert"), parameters.get("sslkey")) {
            (Some(certificate), Some(key)) => Some(ClientCertificate::new(
                pem("sslcert", certificate)?,
                pem("sslkey", key)?,
            )),
            (None, None) => None,
            (Some(_), None) => {
                return Err(Error::configuration(provider::SSLCERT));
            }
            (None, Some(_)) => return Err(Error::configuration("sslkey is set, sslcert is not")),
        };
        let sni = choice(parameters, "sslsni", &[("0", false), ("1", true)])?;
        let choices = [
            ("disable", ChannelBinding::Disable),
            ("prefer", ChannelBinding::Prefer),
            ("require", ChannelBinding::Require),
        ];
        let channel_binding = choice(parameters, "channel_binding", &choices)?.unwrap_or_default();
        if channel_binding == ChannelBinding::Require && mode == TlsMode::Disable {
            return Err(Error::configuration(
                "channel_binding=require needs TLS, which sslmode=disable turns off",
            ));
        }
        let require_auth = parameters.get("require_auth");
        Ok(Tls {
            mode,
            roots,
            direct,
            client,
            sni: sni.unwrap_or(true),
            channel_binding,
            require_auth: require_auth.map(str::parse).transpose()?,
            implied: (parameters.get("sslmode").is_none() && is_local(server)).then_some(mode),
        })
    }

    /// Verifies in full if the mode was implied by a local server, and `server` is not local.
    pub(crate) fn keep_to(&mut self, server: &tokio_postgres::Config) {
        if self.implied == Some(self.mode) && !is_local(server) {
            self.mode = TlsMode::VerifyFull;
        }
    }
}

/// Reads a parameter that is one of a list of words.
fn choice<T: Copy>(
    parameters: &Parameters,
    name: &str,
    choices: &[(&str, T)],
) -> Result<Option<T>> {
    let Some(value) = parameters.get(name) else {
        return Ok(None);
    };
    match choices.iter().find(|(word, _)| *word == value) {
        Some((_, choice)) => Ok(Some(*choice)),
        None => {
            let words: Vec<_> = choices.iter().map(|(word, _)| *word).collect();
            Err(none_of(name, value, &words.join(", ")))
        }
    }
}

fn none_of(name: &str, value: &str, values: &str) -> Error {
    Error::configuration(format!(
        "{} is not valid: expected one of {values}",
        shown(name, value)
    ))
}

/// The values of `sslmode`.
const MODES: [&str; 6] = [
    "disable",
    "allow",
    "prefer",
    "require",
    "verify-ca",
    "verify-full",
];

/// Translates values of other drivers.
fn mode_of_others(value: &str) -> Option<&'static str> {
    Some(
        match value.to_ascii_lowercase().replace('_', "-").as_str() {
            "false" | "0" | "off" | "no" | "none" => "write sslmode=disable",
            "no-verify" | "noverify" | "skip-verify" | "accept-invalid-certs" => {
                "write sslmode=require, which encrypts and verifies nothing, or better verify-full"
            }
            "true" | "1" | "on" | "yes" | "enable" | "enabled" => {
                "write sslmode=verify-full, or sslmode=require to verify nothing"
            }
            "strict" | "verify" | "verify-identity" => "write sslmode=verify-full",
            _ => return None,
        },
    )
}

fn wrong_mode(value: &str) -> Error {
    let shown = shown("sslmode", value);
    if let Some(remedy) = mode_of_others(value) {
        return Error::configuration(format!("{shown} is a value of another driver: {remedy}"));
    }
    let meant = nearest(value, MODES).map(|mode| format!(" (did you mean {mode}?)"));
    let modes = "disable, prefer, require, verify-ca, verify-full";
    none_of(
        "sslmode",
        value,
        &(modes.to_owned() + &meant.unwrap_or_default()),
    )
}

/// The error for a value of `ssl` other than `true`: it names the `sslmode` to write.
fn wrong_ssl(value: &str) -> Error {
    let exact = MODES.into_iter().find(|&mode| mode == value);
    let remedy = match (mode_of_others(value), exact.or(nearest(value, MODES))) {
        (Some(remedy), _) => remedy.to_owned(),
        (None, Some(mode)) => format!("write sslmode={mode}"),
        (None, None) => "write sslmode, with verify-full, or require to verify nothing".to_owned(),
    };
    Error::configuration(format!("{} is not ssl=true: {remedy}", shown("ssl", value)))
}

/// Reads the name of a file, or the PEM text itself.
fn pem(name: &str, value: &str) -> Result<Pem> {
    // OpenSSL writes attributes in front of it.
    if value.contains("-----BEGIN") {
        return Ok(Pem::Text(value.to_owned()));
    }
    if !could_be_file(Path::new(value)) {
        // Not repeated: it may be a key in some other form.
        let what = match name {
            "sslkey" => "a key",
            _ => "certificates",
        };
        return Err(Error::configuration(format!(
            "{name}: neither the name of a file nor {what} in PEM (-----BEGIN ..)"
        )));
    }
    Ok(Pem::File(value.into()))
}

/// Returns whether `path` looks like the name of a file, and not like PEM that was encoded once
/// more or lost its first line.
pub(crate) fn could_be_file(path: &Path) -> bool {
    let text = path.to_string_lossy();
    // What `-----BEGIN` is in base64.
    let encoded = text.trim_start().starts_with("LS0tLS1CRUdJTi");
    let fits = text.split(['/', '\\']).all(|part| part.len() <= 255);
    fits && !encoded && !text.contains(['\n', '\r']) && !text.contains("-----BEGIN")
}

/// Returns whether the server is on this machine: loopback, or a unix socket.
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::origin::Origin::Url;

    fn read(host: &str, change: impl FnOnce(&mut Parameters)) -> Result<Tls> {
        let mut parameters = Parameters::default();
        change(&mut parameters);
        let mut server = tokio_postgres::Config::new();
        server.host(host);
        Tls::from_parameters(&parameters, &server)
    }

    #[test]
    fn tls_mode_follows_host_and_parameters() {
        use TlsMode::{Disable, Encrypt, Prefer, VerifyCa, VerifyFull};
        for (host, mode, roots, negotiation, expected) in [
            ("db.example.com", None, None, None, VerifyFull),
            ("db", None, None, None, VerifyFull),
            ("10.0.0.1", None, None, None, VerifyFull),
            ("localhost", None, None, None, Prefer),
            ("127.0.0.1", None, None, None, Prefer),
            ("::1", None, None, None, Prefer),
            ("/run/postgresql", None, None, None, Prefer),
            ("localhost", None, Some("system"), None, VerifyFull),
            ("localhost", None, None, Some("direct"), Encrypt),
            ("db", None, None, Some("direct"), VerifyFull),
            ("db", Some("disable"), None, None, Disable),
            ("db", Some("allow"), None, None, Prefer),
            ("db", Some("prefer"), None, Some("postgres"), Prefer),
            ("db", Some("require"), None, None, Encrypt),
            ("db", Some("require"), Some("ca.pem"), None, VerifyCa),
            ("db", Some("verify-ca"), None, None, VerifyCa),
            ("db", Some("verify-full"), Some("system"), None, VerifyFull),
        ] {
            let tls = read(host, |parameters| {
                parameters.set("sslmode", mode.unwrap_or_default(), Url);
                parameters.set("sslrootcert", roots.unwrap_or_default(), Url);
                parameters.set("sslnegotiation", negotiation.unwrap_or_default(), Url);
            });
            let shown = format!("{host} {mode:?} {roots:?} {negotiation:?}");
            assert_eq!(tls.expect(&shown).mode, expected, "{shown}");
        }
    }

    #[test]
    fn ssl_parameter_weakens_nothing() {
        use TlsMode::{Encrypt, VerifyCa, VerifyFull};
        for (host, ssl, mode, expected) in [
            ("db", "true", None, VerifyFull),
            ("db", "TRUE", None, VerifyFull),
            ("localhost", "true", None, Encrypt),
            ("db", "true", Some("require"), Encrypt),
            ("db", "true", Some("verify-ca"), VerifyCa),
            ("localhost", "true", Some("verify-full"), VerifyFull),
        ] {
            let tls = read(host, |parameters| {
                parameters.set("ssl", ssl, Url);
                parameters.set("sslmode", mode.unwrap_or_default(), Url);
            });
            assert_eq!(tls.expect(ssl).mode, expected, "{host} {ssl} {mode:?}");
        }
    }

    #[test]
    fn foreign_tls_values_are_translated() {
        for (ssl, word) in [
            ("require", "write sslmode=require"),
            ("verify-full", "write sslmode=verify-full"),
            ("1", "write sslmode=verify-full, or sslmode=require"),
            ("false", "write sslmode=disable"),
            ("no-verify", "write sslmode=require"),
            ("{\"rejectUnauthorized\":false}", "write sslmode, with"),
        ] {
            let error = read("db", |parameters| parameters.set("ssl", ssl, Url));
            let error = error.expect_err(ssl).to_string();
            assert!(error.starts_with("ssl") && error.contains(word), "{error}");
        }
        for (mode, word) in [
            ("no-verify", "write sslmode=require, which"),
            ("true", "write sslmode=verify-full, or"),
            ("false", "write sslmode=disable"),
            ("VERIFY_IDENTITY", "write sslmode=verify-full"),
            ("verify_full", "did you mean verify-full?"),
            ("REQUIRED", "did you mean require?"),
            ("Require", "did you mean require?"),
        ] {
            let error = read("db", |parameters| parameters.set("sslmode", mode, Url));
            let error = error.expect_err(mode).to_string();
            assert!(error.contains(word), "{error}");
        }
    }

    #[test]
    fn loopback_name_with_remote_address_is_remote() {
        let mut server = tokio_postgres::Config::new();
        server.host("localhost");
        server.hostaddr([10, 0, 0, 1].into());
        let tls = Tls::from_parameters(&Parameters::default(), &server).expect("fine");
        assert_eq!(tls.mode, TlsMode::VerifyFull);
    }

    #[test]
    fn implied_tls_mode_follows_the_server() {
        let (mut here, mut there) = (tokio_postgres::Config::new(), tokio_postgres::Config::new());
        here.host("127.0.0.1");
        there.host("db.example.com");
        for (mode, server, expected) in [
            (None, &here, TlsMode::Prefer),
            (None, &there, TlsMode::VerifyFull),
            (Some("prefer"), &there, TlsMode::Prefer),
        ] {
            let mut tls = read("localhost", |parameters| {
                parameters.set("sslmode", mode.unwrap_or_default(), Url);
            })
            .expect("fine");
            tls.keep_to(server);
            assert_eq!(tls.mode, expected, "{mode:?}");
        }
    }

    #[test]
    fn certificates_are_files_or_pem() {
        let text = "-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----\n";
        let one_line = text.replace('\n', "\\n");
        let tls = read("db", |parameters| {
            parameters.set("sslrootcert", one_line.clone(), Url);
            parameters.set("sslcert", "/etc/client.crt", Url);
            parameters.set("sslkey", format!("\n{text}"), Url);
        })
        .expect("fine");
        assert_eq!(tls.roots, Some(Roots::Pem(Pem::Text(one_line))));
        let client = tls.client.as_ref().expect("a certificate");
        assert_eq!(client.certificate, Pem::File("/etc/client.crt".into()));
        assert_eq!(client.key, Pem::Text(text.trim().to_owned()));
        assert!(!format!("{tls:?}").contains("AA=="), "{tls:?}");
    }

    #[test]
    fn value_that_is_not_a_file_is_hidden() {
        let text = "-----BEGIN PRIVATE KEY-----\nhunter2\n-----END PRIVATE KEY-----\n";
        let with_attributes = format!("Bag Attributes\n    friendlyName: x\n{text}");
        let long = format!("/etc/{}hunter2", "x".repeat(255));
        for (key, fine) in [
            (text, true),
            (&with_attributes, true),
            ("/run/secrets/hunter2", true),
            ("MC4CAQAwBQYDK2VwBCIEIhunter2", true),
            ("hunter2\nhunter2", false),
            ("LS0tLS1CRUdJTiBQUklWQVRFIEtFWS0tLS0thunter2", false),
            (&long, false),
        ] {
            let tls = read("db", |parameters| {
                parameters.set("sslcert", "client.crt", Url);
                parameters.set("sslkey", key, Url);
            });
            assert_eq!(tls.is_ok(), fine, "{key}");
            let shown = match tls {
                Ok(tls) => format!("{tls:?}"),
                Err(error) => format!("{error} {error:?}"),
            };
            assert!(!shown.contains("hunter2"), "{shown}");
        }
    }

    #[test]
    fn other_tls_parameters_are_read() {
        let tls = read("db", |_| {}).expect("fine");
        assert!(tls.sni && !tls.direct && tls.require_auth.is_none());
        assert_eq!(tls.channel_binding, ChannelBinding::Prefer);
        let tls = read("db", |parameters| {
            parameters.set("sslsni", "0", Url);
            parameters.set("channel_binding", "require", Url);
            parameters.set("require_auth", "!md5", Url);
            parameters.set("sslrootcert", "", Url);
        })
        .expect("fine");
        assert!(!tls.sni && tls.roots.is_none());
        assert_eq!(tls.channel_binding, ChannelBinding::Require);
        assert_eq!(tls.require_auth, Some("!md5".parse().expect("a list")));
    }

    #[test]
    fn invalid_or_contradicting_tls_is_named() {
        for (said, word) in [
            (&[("sslmode", "maybe")][..], "sslmode=maybe"),
            (&[("sslnegotiation", "x")], "sslnegotiation=x"),
            (&[("sslsni", "yes")], "sslsni=yes"),
            (&[("channel_binding", "on")], "channel_binding=on"),
            (&[("require_auth", "x")], "require_auth=x"),
            (&[("sslcert", "a")], "sslkey is not"),
            (&[("sslkey", "a")], "sslcert is not"),
            (
                &[("sslmode", "require"), ("sslrootcert", "system")],
                "not require",
            ),
            (
                &[("sslmode", "prefer"), ("sslnegotiation", "direct")],
                "sslmode=prefer",
            ),
            (
                &[("sslmode", "disable"), ("channel_binding", "require")],
                "sslmode=disable turns off",
            ),
        ] {
            let tls = read("db", |parameters| {
                for (name, value) in said {
                    parameters.set(name, *value, Url);
                }
            });
            let error = tls.expect_err(word).to_string();
            assert!(error.contains(word), "{error}");
        }
    }
}
