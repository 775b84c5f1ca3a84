//! Every variable and every parameter: what it sets, or why it cannot be had. A new one
//! that is missing here fails.

use std::time::Duration;

use tokio_postgres::config::Host;

use crate::config::names::known;
use crate::config::source::{COMPOSE, LIBPQ, SERVER_PARAMETERS, variables};
use crate::config::*;

enum Outcome {
    /// It is accepted, and the configuration shows this.
    Sets(fn(&Settings) -> bool),
    /// It is accepted, and asks for what is done anyway or does not matter here.
    Nothing,
    /// The error names it and says this.
    Refused(&'static str),
}

use Outcome::{Nothing, Refused, Sets};

const PEM: &str = "-----BEGIN CERTIFICATE-----";

/// Parameter, value, outcome. Where there are two, the value decides.
const PARAMETERS: &[(&str, &str, Outcome)] = &[
    (
        "host",
        "db",
        Sets(|c| c.server.get_hosts() == [Host::Tcp("db".into())]),
    ),
    (
        "hostaddr",
        "10.0.0.1",
        Sets(|c| c.server.get_hostaddrs().len() == 1),
    ),
    ("hostaddr", "db", Refused("hostaddr")),
    ("port", "5433", Sets(|c| c.server.get_ports() == [5433])),
    ("port", "many", Refused("port")),
    (
        "dbname",
        "shop",
        Sets(|c| c.server.get_dbname() == Some("shop")),
    ),
    ("user", "App", Sets(|c| c.server.get_user() == Some("App"))),
    (
        "password",
        "p@ss",
        Sets(|c| c.server.get_password() == Some(b"p@ss")),
    ),
    (
        "options",
        "-c a.b=1",
        Sets(|c| c.server.get_options() == Some("-c a.b=1")),
    ),
    (
        "application_name",
        "app",
        Sets(|c| c.server.get_application_name() == Some("app")),
    ),
    (
        "fallback_application_name",
        "app",
        Sets(|c| c.server.get_application_name() == Some("app")),
    ),
    (
        "connect_timeout",
        "4",
        Sets(|c| c.connect_timeout == Duration::from_secs(4)),
    ),
    ("connect_timeout", "soon", Refused("connect_timeout")),
    ("keepalives", "0", Sets(|c| !c.server.get_keepalives())),
    (
        "keepalives_idle",
        "7",
        Sets(|c| c.server.get_keepalives_idle() == Duration::from_secs(7)),
    ),
    (
        "keepalives_interval",
        "7",
        Sets(|c| c.server.get_keepalives_interval() == Some(Duration::from_secs(7))),
    ),
    (
        "keepalives_count",
        "7",
        Sets(|c| c.server.get_keepalives_retries() == Some(7)),
    ),
    (
        "tcp_user_timeout",
        "7000",
        Sets(|c| c.server.get_tcp_user_timeout() == Some(&Duration::from_secs(7))),
    ),
    (
        "target_session_attrs",
        "read-write",
        Sets(|c| c.target_session_attrs == TargetSessionAttrs::ReadWrite),
    ),
    (
        "target_session_attrs",
        "best",
        Refused("target_session_attrs"),
    ),
    ("load_balance_hosts", "random", Nothing),
    ("load_balance_hosts", "best", Refused("load_balance_hosts")),
    (
        "sslmode",
        "verify-ca",
        Sets(|c| c.tls.mode == TlsMode::VerifyCa),
    ),
    ("sslmode", "on", Refused("sslmode=verify-full")),
    ("ssl", "true", Sets(|c| c.tls.mode == TlsMode::VerifyFull)),
    ("ssl", "no-verify", Refused("sslmode=require")),
    (
        "sslrootcert",
        "system",
        Sets(|c| matches!(c.tls.roots, Some(Roots::System))),
    ),
    (
        "sslrootcert",
        PEM,
        Sets(|c| matches!(c.tls.roots, Some(Roots::Pem(Pem::Text(_))))),
    ),
    ("sslcert", "a.pem", Refused("sslkey")),
    ("sslkey", "a.pem", Refused("sslcert")),
    ("sslnegotiation", "direct", Sets(|c| c.tls.direct)),
    ("sslsni", "0", Sets(|c| !c.tls.sni)),
    (
        "channel_binding",
        "require",
        Sets(|c| c.tls.channel_binding == ChannelBinding::Require),
    ),
    ("channel_binding", "on", Refused("channel_binding")),
    (
        "require_auth",
        "scram-sha-256",
        Sets(|c| c.tls.require_auth.is_some()),
    ),
    ("require_auth", "luck", Refused("require_auth")),
    ("client_encoding", "utf8", Nothing),
    ("client_encoding", "latin1", Refused("UTF8")),
    ("sslcompression", "1", Nothing),
    ("sslcertmode", "allow", Nothing),
    ("sslcertmode", "require", Refused("sslcert")),
    ("ssl_min_protocol_version", "TLSv1.2", Nothing),
    ("ssl_min_protocol_version", "TLSv1.3", Refused("TLS 1.2")),
    ("ssl_max_protocol_version", "TLSv1.3", Nothing),
    ("ssl_max_protocol_version", "TLSv1.2", Refused("TLS 1.2")),
    ("min_protocol_version", "3.0", Nothing),
    ("min_protocol_version", "3.2", Refused("3.0")),
    ("max_protocol_version", "latest", Nothing),
    ("max_protocol_version", "2.0", Refused("3.0")),
    ("gssencmode", "prefer", Nothing),
    ("gssencmode", "require", Refused("GSSAPI")),
    ("gssdelegation", "0", Nothing),
    ("gssdelegation", "1", Refused("GSSAPI")),
    ("gsslib", "gssapi", Nothing),
    ("krbsrvname", "postgres", Nothing),
    ("replication", "off", Nothing),
    ("replication", "database", Refused("replication")),
    ("passfile", "x", Refused("password")),
    ("service", "x", Refused("service file")),
    ("servicefile", "x", Refused("service file")),
    ("sslpassword", "x", Refused("decrypt")),
    ("sslcrl", "x", Refused("revocation")),
    ("sslcrldir", "x", Refused("revocation")),
    ("sslkeylogfile", "x", Refused("TLS keys")),
    ("requirepeer", "x", Refused("unix socket")),
    ("requiressl", "1", Refused("sslmode=require")),
    ("scram_client_key", "x", Refused("SCRAM")),
    ("scram_server_key", "x", Refused("SCRAM")),
    ("oauth_issuer", "x", Refused("OAuth")),
    ("oauth_client_id", "x", Refused("OAuth")),
    ("oauth_client_secret", "x", Refused("OAuth")),
    ("oauth_scope", "x", Refused("OAuth")),
    (
        "pgbouncer",
        "true",
        Sets(|c| c.pooler == Pooler::Transaction),
    ),
    ("connection_limit", "7", Sets(|c| c.max_connections == 7)),
    (
        "pool_timeout",
        "7",
        Sets(|c| c.acquire_timeout == Duration::from_secs(7)),
    ),
    (
        "schema",
        "Shop",
        Sets(|c| c.schema.as_deref() == Some("Shop")),
    ),
    (
        "statement_cache_size",
        "7",
        Sets(|c| c.statement_cache == 7),
    ),
    ("supa", "base-pooler.x", Nothing),
    ("workaround", "supabase-pooler.vercel", Nothing),
    ("uselibpqcompat", "true", Nothing),
];

/// libpq's variables that set a parameter of the server instead of the connection's.
const SERVERS: &[(&str, &str, &str)] = &[
    ("PGTZ", "Europe/Berlin", "-c TimeZone=Europe/Berlin"),
    ("PGDATESTYLE", "ISO, DMY", "-c DateStyle=ISO,\\ DMY"),
    ("PGGEQO", "off", "-c geqo=off"),
];

/// `subject` has to stand in the error.
fn check(what: &str, read: Result<Config, crate::Error>, subject: &str, outcome: &Outcome) {
    match (read.map(Config::in_force), outcome) {
        (Ok(config), Sets(shows)) => assert!(shows(&config), "{what}: {config:?}"),
        (Ok(_), Nothing) => {}
        (Err(error), Refused(words)) => {
            let text = error.to_string();
            assert!(
                text.contains(subject) && text.contains(words),
                "{what}: {text}"
            );
        }
        (Ok(config), Refused(_)) => panic!("{what} is accepted: {config:?}"),
        (Err(error), _) => panic!("{what}: {error}"),
    }
}

#[test]
fn every_parameter_is_tried_in_both_forms() {
    for (name, value, outcome) in PARAMETERS {
        let quoted = value.replace('\\', "\\\\").replace('\'', "\\'");
        let keywords = match *name {
            "host" => format!("host='{quoted}'"),
            _ => format!("host=db.example.com {name}='{quoted}'"),
        };
        check(&keywords, Config::from_url(&keywords), name, outcome);
        let encoded: String = value.bytes().map(|byte| format!("%{byte:02X}")).collect();
        let url = match *name {
            "host" => format!("postgres:///?host={encoded}"),
            _ => format!("postgres://db.example.com?{name}={encoded}"),
        };
        check(&url, Config::from_url(&url), name, outcome);
    }
    for name in known() {
        let tested = PARAMETERS.iter().any(|(tested, ..)| *tested == name);
        assert!(tested, "{name} is in no table");
    }
}

#[test]
fn every_variable_is_tried() {
    for (table, host) in [(LIBPQ, "PGHOST"), (COMPOSE, "DB_HOST")] {
        for (variable, parameter) in variables(table) {
            let of_it = PARAMETERS.iter().filter(|(name, ..)| *name == parameter);
            let mut tested = 0;
            for (_, value, outcome) in of_it {
                let environment = if variable == host {
                    Environment::of(&[(host, value)])
                } else {
                    Environment::of(&[(host, "db.example.com"), (variable, value)])
                };
                let read = Config::from_environment(&environment);
                check(&format!("{variable}={value}"), read, variable, outcome);
                tested += 1;
            }
            assert!(tested > 0, "{variable} is in no table");
        }
    }
}

#[test]
fn every_server_variable_is_tried() {
    let read = |variables: &[(&str, &str)]| {
        let config = Config::from_environment(&Environment::of(variables)).expect("fine");
        let settings = config.in_force();
        settings.server.get_options().unwrap_or_default().to_owned()
    };
    for (variable, value, expected) in SERVERS {
        assert_eq!(read(&[("PGHOST", "db"), (variable, value)]), *expected);
        // To libpq this means that it is not sent.
        assert_eq!(read(&[("PGHOST", "db"), (variable, "Default")]), "");
        // Somebody else's.
        assert_eq!(read(&[("DB_HOST", "db"), (variable, value)]), "");
    }
    let both = [("PGHOST", "db"), ("PGOPTIONS", "-c a.b=1"), ("PGTZ", "UTC")];
    assert_eq!(read(&both), "-c a.b=1 -c TimeZone=UTC");
    let tested: Vec<_> = SERVERS.iter().map(|(variable, ..)| *variable).collect();
    let known: Vec<_> = variables(SERVER_PARAMETERS)
        .map(|(variable, _)| variable)
        .collect();
    assert_eq!(tested, known);
}
