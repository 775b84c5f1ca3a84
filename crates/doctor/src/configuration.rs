//! Reports where the settings come from, before anything is dialled.

use std::collections::BTreeMap;
use std::env;

use antifreeze::config::{Endpoint, Origin, Pooler, Settings};
use antifreeze::internal;
use tokio_postgres::config::Host;

use super::examine::Options;
use super::report::{Check, Step};
use super::text::printable;

/// Reports the sources of the settings, unknown variables and the pooler.
pub(super) fn check(settings: &Settings, options: &Options) -> Vec<Check> {
    let files = &options.files;
    let mut checks = vec![Check::note(Step::Configuration, sources(settings, files))];
    let variables = env::vars_os().filter_map(|(name, value)| {
        let value = value.into_string().unwrap_or_default();
        name.into_string().ok().zip(internal::given(value))
    });
    let names = variables.map(|(name, _)| name).chain(files.keys().cloned());
    for name in unknown(settings, names) {
        checks.push(Check::finding(
            Step::Configuration,
            format!("unknown variable {}: it has no effect", printable(&name)),
            "remove it, unless a newer version of antifreeze that you are about to deploy knows \
             it; docs/configuration.md lists all variables",
        ));
    }
    checks.push(Check::note(Step::Path, path(settings)));
    checks
}

/// The variables that the address and the overrides were read from.
fn sources(settings: &Settings, files: &BTreeMap<String, String>) -> String {
    let overrides = settings.report().variables;
    let mut address = Vec::new();
    for (setting, origin) in settings.origins() {
        match origin {
            Origin::Variable(name) if is_address(setting) && !address.contains(&name) => {
                address.push(name);
            }
            _ => {}
        }
    }
    let mut sources = match address.as_slice() {
        [] => "from code or the command line".to_owned(),
        variables => {
            let file = variables.iter().find_map(|name| files.get(*name));
            let source = file.map_or("the environment", String::as_str);
            format!("{source} has {}", variables.join(", "))
        }
    };
    let overrides = overrides
        .iter()
        .map(|(name, value)| format!("{name}={value}"));
    let overrides = overrides.collect::<Vec<_>>().join(" ");
    if !overrides.is_empty() {
        sources += &format!("; in force: {overrides}");
    }
    sources
}

/// Whether the setting is one of the connection parameters, which a variable can hold as well.
fn is_address(setting: &str) -> bool {
    ["host", "hostaddr", "port", "user", "password", "dbname"].contains(&setting)
}

/// The variables that begin like an override and are not one. Those that are not blank and known
/// are all in force.
fn unknown(settings: &Settings, variables: impl Iterator<Item = String>) -> Vec<String> {
    let known = settings.report().variables;
    let overrides = variables.filter(|name| name.starts_with("ANTIFREEZE_"));
    let mut unknown: Vec<_> = overrides
        .filter(|name| !known.contains_key(name.as_str()))
        .collect();
    unknown.sort();
    unknown
}

/// The pooler, how it was determined, and the other of two endpoints.
fn path(settings: &Settings) -> String {
    let why = match settings.origin("pooler") {
        Some(Origin::Variable(name)) => format!("{name} says so"),
        _ => why_pooler(settings).to_owned(),
    };
    let has_direct = settings.direct.is_some() || settings.implied_direct().is_some();
    let other = match settings.endpoint {
        Endpoint::Direct => "; a pooled endpoint is also known",
        _ if has_direct => "; a direct endpoint is also known",
        _ => "",
    };
    format!("{} ({why}){other}", name(settings.pooler))
}

fn why_pooler(settings: &Settings) -> &'static str {
    let host = match settings.server.get_hosts().first() {
        Some(Host::Tcp(name)) => name,
        _ => "",
    };
    let port = settings.server.get_ports().first().copied();
    why(settings.pooler, host, port.unwrap_or(5432))
}

/// Explains why a pooler is in force for an address.
fn why(pooler: Pooler, host: &str, port: u16) -> &'static str {
    match (pooler, internal::detect_pooler(host, port)) {
        (pooler, Some((detected, why))) if detected == pooler => why,
        (Pooler::Transaction, _) => "set by pgbouncer=true in the URL, or in code",
        (Pooler::None, _) => "host and port indicate no pooler",
        _ => "set in the configuration",
    }
}

/// What the pooler was recognised by, if that is the address: `by the port`.
pub(super) fn pooler_by_address(settings: &Settings) -> Option<&'static str> {
    Some(why_pooler(settings)).filter(|why| why.starts_with("by "))
}

fn name(pooler: Pooler) -> &'static str {
    match pooler {
        Pooler::None => "direct",
        Pooler::Transaction => "transaction pooler",
        Pooler::Session => "session pooler",
        _ => "RDS Proxy",
    }
}

#[cfg(test)]
mod tests {
    use antifreeze::{Config, Database};

    use super::*;

    fn settings(url: &str) -> Settings {
        let database = Database::new(Config::from_url(url).expect(url));
        database.expect("settings").settings().clone()
    }

    #[test]
    fn path_names_pooler_reason_and_other_endpoint() {
        for (url, expected) in [
            (
                "postgres://db.example.com/x",
                "direct (host and port indicate no pooler)",
            ),
            (
                "postgres://db.example.com:6432/x",
                "transaction pooler (by the port)",
            ),
            (
                "postgres://u@ep-a-pooler.eu-central-1.aws.neon.tech/x",
                "transaction pooler (by the name of the host); a direct endpoint is also known",
            ),
        ] {
            assert_eq!(path(&settings(url)), expected);
        }
    }

    #[test]
    fn pooler_has_a_reason() {
        use Pooler::{Session, Transaction};
        let neon = "ep-a-pooler.x.aws.neon.tech";
        for (pooler, host, port, word) in [
            (Pooler::None, "db", 5432, "host and port indicate no pooler"),
            (Transaction, "db", 6432, "by the port"),
            (Transaction, "db", 5432, "pgbouncer=true"),
            (Transaction, neon, 6432, "by the name of the host"),
            (Session, "a.pooler.supabase.com", 5432, "and the port"),
            (Session, "db", 6432, "the configuration"),
        ] {
            let reason = why(pooler, host, port);
            assert!(reason.contains(word), "{host}:{port} {reason}");
        }
    }

    #[test]
    fn url_in_code_has_no_variable() {
        let settings = settings("postgres://db.example.com/x");
        assert_eq!(
            sources(&settings, &BTreeMap::new()),
            "from code or the command line"
        );
        let names = ["ANTIFREEZE_COLOUR", "PATH"].map(str::to_owned);
        let unknown = unknown(&settings, names.into_iter());
        assert_eq!(unknown, ["ANTIFREEZE_COLOUR"]);
    }
}
