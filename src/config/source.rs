//! Finds the database in the environment.
//!
//! The first source that is set is taken whole: what it does not set is not read from the
//! next, since an integration's `PGPASSWORD` would otherwise be sent to the server that
//! `DATABASE_URL` names.

use super::options::escaped;
use super::parameters::Parameters;
use super::read::read;
use super::{DirectEndpoint, Environment, Origin};
use crate::error::{Error, Result};

/// Variables that hold a URL, in this order.
const URLS: [&str; 2] = ["DATABASE_URL", "POSTGRES_URL"];

/// Variables that hold a URL past the pooler: Neon's, those of older integrations with
/// Vercel, Prisma's.
const DIRECT_URLS: [&str; 3] = [
    "DATABASE_URL_UNPOOLED",
    "POSTGRES_URL_NON_POOLING",
    "DIRECT_URL",
];

/// The variables that compose files and charts share with PostgreSQL's own image, and the
/// parameters that they hold.
pub(super) const COMPOSE: &str = "\
    DB_HOST=host DB_PORT=port POSTGRES_USER=user POSTGRES_PASSWORD=password POSTGRES_DB=dbname \
    DB_SSLMODE=sslmode";

/// libpq's variables (manual, "Environment Variables").
pub(super) const LIBPQ: &str = "\
    PGHOST=host PGHOSTADDR=hostaddr PGPORT=port PGDATABASE=dbname PGUSER=user PGPASSWORD=password \
    PGPASSFILE=passfile PGSERVICE=service PGSERVICEFILE=servicefile PGOPTIONS=options \
    PGAPPNAME=application_name PGSSLMODE=sslmode PGSSLNEGOTIATION=sslnegotiation \
    PGSSLROOTCERT=sslrootcert PGSSLCERT=sslcert PGSSLKEY=sslkey PGSSLCERTMODE=sslcertmode \
    PGSSLSNI=sslsni PGSSLCOMPRESSION=sslcompression PGSSLCRL=sslcrl PGSSLCRLDIR=sslcrldir \
    PGSSLMINPROTOCOLVERSION=ssl_min_protocol_version \
    PGSSLMAXPROTOCOLVERSION=ssl_max_protocol_version PGMINPROTOCOLVERSION=min_protocol_version \
    PGMAXPROTOCOLVERSION=max_protocol_version PGREQUIREAUTH=require_auth \
    PGREQUIREPEER=requirepeer PGREQUIRESSL=requiressl PGCHANNELBINDING=channel_binding \
    PGGSSENCMODE=gssencmode PGGSSDELEGATION=gssdelegation PGGSSLIB=gsslib PGKRBSRVNAME=krbsrvname \
    PGCONNECT_TIMEOUT=connect_timeout PGCLIENTENCODING=client_encoding \
    PGTARGETSESSIONATTRS=target_session_attrs PGLOADBALANCEHOSTS=load_balance_hosts";

/// libpq's variables that set a parameter of the server for the session, over `PGOPTIONS`.
pub(super) const SERVER_PARAMETERS: &str = "\
    PGTZ=TimeZone PGDATESTYLE=DateStyle PGGEQO=geqo";

/// Lists the variables of a table, each with its parameter.
pub(super) fn variables(table: &'static str) -> impl Iterator<Item = (&'static str, &'static str)> {
    table
        .split_whitespace()
        .filter_map(|row| row.split_once('='))
}

/// Reads the first source that is set.
pub(super) fn parameters(environment: &Environment) -> Result<Parameters> {
    if let Some((name, url)) = first(environment, &URLS) {
        return Parameters::of_variable(name, &url);
    }
    let is_set = |name: &str| environment.get(name).is_some();
    let is_libpq = !is_set("DB_HOST");
    let table = if !is_libpq {
        COMPOSE
    } else if is_set("PGHOST") || is_set("PGHOSTADDR") {
        LIBPQ
    } else {
        return Err(unnamed(environment));
    };
    let mut parameters = Parameters::default();
    for (name, parameter) in variables(table) {
        if let Some(value) = environment.get(name) {
            parameters.set(parameter, value, Origin::Variable(name));
        }
    }
    if is_libpq {
        add_settings(environment, &mut parameters);
    }
    Ok(parameters)
}

/// Returns the error if no source is set: it names similar variables that are set.
fn unnamed(environment: &Environment) -> Error {
    let is_set = |name: &str| environment.get(name).is_some();
    let blank = URLS.iter().find(|name| environment.raw(name).is_some());
    let half = variables(COMPOSE).find(|(name, _)| is_set(name));
    let urls = prefixed(environment, |name| holds_url(environment, name));
    let hosts = prefixed(environment, |name| {
        name.ends_with("_PGHOST") && is_set(name)
    });
    let why = match (blank, half) {
        _ if !urls.is_empty() => {
            format!("{urls} is set, but DATABASE_URL is not: give it that value; ")
        }
        _ if !hosts.is_empty() => {
            format!("{hosts} is set, but PGHOST is not: it is read without a prefix; ")
        }
        (Some(name), _) => format!("{name} is set, but blank; "),
        (None, Some((name, _))) => format!("{name} is set, but DB_HOST is not; "),
        (None, None) => String::new(),
    };
    Error::configuration(format!(
        "no database is configured: {why}set DATABASE_URL=postgres://user:password@host/database"
    ))
}

/// Lists the variables that fit, since integrations may add a prefix to their names: at most
/// three, the shortest first, which is the least specific.
fn prefixed(environment: &Environment, fits: impl Fn(&str) -> bool) -> String {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    let others = ["MIGRATION_DATABASE_URL", "ADMIN_DATABASE_URL"];
    let mut found: Vec<_> = environment
        .names()
        .filter(|name| name.bytes().all(is_plain) && !others.contains(name))
        .filter(|name| fits(name))
        .collect();
    found.sort_by_key(|name| (name.len(), *name));
    found.truncate(3);
    found.join(", ")
}

fn holds_url(environment: &Environment, name: &str) -> bool {
    let value = environment.get(name).unwrap_or_default();
    let value = value
        .trim_start_matches(['"', '\'', ' '])
        .to_ascii_lowercase();
    value.starts_with("postgres://") || value.starts_with("postgresql://")
}

/// Adds libpq's settings to `options`: there is no other way to send them.
fn add_settings(environment: &Environment, parameters: &mut Parameters) {
    let mut options = parameters.get("options").unwrap_or_default().to_owned();
    for (variable, setting) in variables(SERVER_PARAMETERS) {
        let value = environment.get(variable).unwrap_or_default();
        // libpq does not send these.
        if value.is_empty() || value.eq_ignore_ascii_case("default") {
            continue;
        }
        let space = if options.is_empty() { "" } else { " " };
        options += &format!("{space}-c {setting}={}", escaped(&value));
    }
    parameters.set("options", options, Origin::Variable("PGOPTIONS"));
}

/// Reads the direct endpoint.
pub(super) fn direct(environment: &Environment) -> Result<Option<DirectEndpoint>> {
    let Some((name, url)) = first(environment, &DIRECT_URLS) else {
        return Ok(None);
    };
    read(&Parameters::of_variable(name, &url)?).map(Some)
}

fn first(environment: &Environment, names: &[&'static str]) -> Option<(&'static str, String)> {
    let found = names.iter().map(|&name| (name, environment.get(name)));
    let mut found = found.filter_map(|(name, value)| Some((name, value?)));
    found.next()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(variables: &[(&str, &str)]) -> Result<(Vec<String>, Vec<u16>)> {
        let environment = Environment::of(variables);
        let server = read(&parameters(&environment)?)?.server;
        let names = [
            super::super::endpoint::host_names(&server)
                .collect::<Vec<_>>()
                .join(","),
            server.get_user().unwrap_or_default().to_owned(),
            String::from_utf8_lossy(server.get_password().unwrap_or_default()).into_owned(),
            server.get_dbname().unwrap_or_default().to_owned(),
        ];
        Ok((names.to_vec(), server.get_ports().to_vec()))
    }

    #[test]
    fn first_source_that_is_set_is_taken_whole() {
        let pg = [
            ("PGHOST", "pg"),
            ("PGUSER", "u3"),
            ("PGPASSWORD", "p3"),
            ("PGDATABASE", "d3"),
            ("PGPORT", "3"),
        ];
        let db = [
            ("DB_HOST", "db"),
            ("DB_PORT", "2"),
            ("POSTGRES_USER", "u2"),
            ("POSTGRES_PASSWORD", "p2"),
            ("POSTGRES_DB", "d2"),
            ("DB_SSLMODE", "disable"),
        ];
        let second = [("POSTGRES_URL", "postgres://u1:p1@url2:1/d1")];
        let first = [("DATABASE_URL", "postgres://url1")];
        let empty = [("DATABASE_URL", "")];
        for (variables, expected, port) in [
            (
                [&pg[..], &db, &second, &first].concat(),
                ["url1", "", "", ""],
                5432,
            ),
            (
                [&pg[..], &db, &second, &empty].concat(),
                ["url2", "u1", "p1", "d1"],
                1,
            ),
            ([&pg[..], &db].concat(), ["db", "u2", "p2", "d2"], 2),
            ([&pg[..], &db[..1]].concat(), ["db", "", "", ""], 5432),
            (pg.to_vec(), ["pg", "u3", "p3", "d3"], 3),
            (vec![("PGHOSTADDR", "10.0.0.1")], ["", "", "", ""], 5432),
        ] {
            let (names, ports) = found(&variables).expect("a database");
            assert_eq!(
                (names, ports),
                (expected.map(String::from).to_vec(), vec![port])
            );
        }
    }

    #[test]
    fn line_ends_of_variables_are_cut() {
        let (names, ports) = found(&[
            ("DATABASE_URL", " \r\n"),
            ("POSTGRES_URL", "\n"),
            ("PGHOST", "pg\n"),
            ("PGPORT", "3\r\n"),
            ("PGUSER", "u\n"),
            ("PGPASSWORD", "p \r\n"),
            ("PGSSLMODE", "disable\n"),
        ])
        .expect("a database");
        assert_eq!(names, ["pg", "u", "p ", ""]);
        assert_eq!(ports, [3]);
    }

    #[test]
    fn invalid_variable_is_named() {
        for (variables, words) in [
            (&[][..], &["no database", "DATABASE_URL="][..]),
            (&[("PGUSER", "u")], &["no database"]),
            (
                &[("DATABASE_URL", " \n")],
                &["DATABASE_URL is set, but blank"],
            ),
            (
                &[
                    ("STORAGE_DATABASE_URL", "postgres://u:hunter2@h/d"),
                    ("HOME", "/root"),
                ],
                &["STORAGE_DATABASE_URL is set, but DATABASE_URL is not"],
            ),
            (
                &[
                    ("POSTGRES_PRISMA_URL", "postgresql://u:hunter2@h/d"),
                    ("DATABASE_URL", ""),
                ],
                &["POSTGRES_PRISMA_URL is set, but DATABASE_URL is not"],
            ),
            (
                &[("STORAGE_PGHOST", "h")],
                &["STORAGE_PGHOST is set, but PGHOST is not"],
            ),
            (&[("PGHOST", "${PGHOST}")], &["PGHOST: host is still"]),
            (
                &[("PGHOST", "h"), ("PGUSER", "u:hunter2")],
                &["PGUSER: user"],
            ),
            (
                &[("POSTGRES_DB", "d")],
                &["POSTGRES_DB is set", "DB_HOST is not"],
            ),
            (&[("DATABASE_URL", "hunter2")], &["DATABASE_URL: "]),
            (
                &[("POSTGRES_URL", "postgres://h/d?sslmode=maybe")],
                &["POSTGRES_URL: sslmode=maybe"],
            ),
            (
                &[("DB_HOST", "h"), ("DB_PORT", "hunter2")],
                &["DB_PORT: port", "from 1 to 65535"],
            ),
            (
                &[("DB_HOST", "h"), ("DB_SSLMODE", "maybe")],
                &["DB_SSLMODE: sslmode=maybe"],
            ),
            (
                &[("DB_HOST", "h"), ("POSTGRES_PASSWORD", "[YOUR-PASSWORD]")],
                &["POSTGRES_PASSWORD: password is still"],
            ),
            (
                &[("PGHOST", "h"), ("PGSERVICE", "x")],
                &["PGSERVICE: service is not supported"],
            ),
            (
                &[("PGHOST", "a,b"), ("PGPORT", "1,2,3")],
                &["PGPORT: port lists 3"],
            ),
            (
                &[("PGHOST", "h"), ("PGCONNECT_TIMEOUT", "soon")],
                &["PGCONNECT_TIMEOUT: connect_timeout"],
            ),
            (
                &[("PGHOST", "h"), ("PGHOSTADDR", "h")],
                &["PGHOSTADDR: hostaddr"],
            ),
        ] {
            let error = found(variables)
                .expect_err("something is wrong")
                .to_string();
            for word in words {
                assert!(error.contains(word), "{error}");
            }
            assert!(!error.contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn direct_endpoint_is_found_by_its_variables() {
        let all = [
            ("DATABASE_URL_UNPOOLED", "postgres://a"),
            ("POSTGRES_URL_NON_POOLING", "postgres://b"),
            ("DIRECT_URL", "postgres://c"),
        ];
        for (from, expected) in ["a", "b", "c"].into_iter().enumerate() {
            let environment = Environment::of(&all[from..]);
            let endpoint = direct(&environment).expect("fine").expect("one");
            let mut hosts = super::super::endpoint::host_names(&endpoint.server);
            assert_eq!(hosts.next(), Some(expected));
        }
        assert!(direct(&Environment::of(&[])).expect("fine").is_none());
        let wrong = Environment::of(&[("DIRECT_URL", "mysql://u:hunter2@h")]);
        let error = direct(&wrong).expect_err("no PostgreSQL").to_string();
        assert!(error.starts_with("DIRECT_URL: "), "{error}");
        assert!(!error.contains("hunter2"), "{error}");
    }
}
