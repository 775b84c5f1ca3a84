//! Reads an endpoint from connection parameters.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::net::IpAddr;
use std::time::Duration;

use super::endpoint::host_names;
use super::parameters::Parameters;
use super::readers::{number, wrong};
use super::table::PartialSettings;
use super::{DirectEndpoint, Environment, Pooler, TargetSessionAttrs, Tls};
use crate::error::{Error, Result};
use crate::provider;

/// The port of PostgreSQL (IANA).
pub(super) const PORT: u16 = 5432;

impl DirectEndpoint {
    /// Reads a URL or a keyword string, as [`Config::from_url`](crate::Config::from_url) does.
    ///
    /// # Errors
    ///
    /// Those of [`Config::from_url`](crate::Config::from_url).
    pub fn from_url(url: &str) -> Result<Self> {
        read(&Parameters::parse_code(url)?)
    }
}

/// Reads the endpoint that a URL, a keyword string or variables describe.
///
/// # Errors
///
/// Names the parameter that is wrong, and the variable that holds it.
pub(super) fn read(given: &Parameters) -> Result<DirectEndpoint> {
    given.check()?;
    endpoint(given).map_err(|error| given.explain(error))
}

fn endpoint(given: &Parameters) -> Result<DirectEndpoint> {
    let mut server = tokio_postgres::Config::new();
    add_addresses(&mut server, given)?;
    given.get("user").map(|user| server.user(user));
    given
        .get("password")
        .map(|password| server.password(password));
    if let Some(dbname) = given.get("dbname") {
        // libpq would take it for another URL, with another password.
        if dbname.contains("://") {
            return Err(Error::configuration(
                "dbname contains a URL: give the URL alone, or the database's name",
            ));
        }
        server.dbname(dbname);
    }
    if let Some(options) = given.get("options") {
        let plus = |word: &str| word.starts_with("-c+") || word.contains("+-c");
        if options.split_whitespace().any(plus) {
            return Err(Error::configuration(
                "options contains a `+` where a space belongs: in a URL a space is written %20",
            ));
        }
        server.options(options);
    }
    let application = given.get("application_name");
    if let Some(name) = application.or(given.get("fallback_application_name")) {
        server.application_name(name);
    }
    add_liveness(&mut server, given)?;

    let tls = Tls::from_parameters(given, &server)?;
    let pgbouncer = match given.get("pgbouncer") {
        None | Some("false") => false,
        Some("true") => true,
        Some(_) => return Err(wrong("pgbouncer", "true or false")),
    };
    let set = PartialSettings::merged(PartialSettings::default(), given, &Environment::default())?;
    Ok(DirectEndpoint {
        pooler: detect(&server, pgbouncer),
        server,
        tls,
        schema: set.schema.map(|schema| schema.value),
        target_session_attrs: set
            .target_session_attrs
            .map_or(TargetSessionAttrs::Any, |wish| wish.value),
    })
}

/// Adds `host`, `hostaddr` and `port`: lists of one length, or one port for all hosts.
fn add_addresses(server: &mut tokio_postgres::Config, given: &Parameters) -> Result<()> {
    let list = |name| {
        let list = given.get(name).map(|value| value.split(',').map(str::trim));
        list.into_iter().flatten().collect::<Vec<_>>()
    };
    let (hosts, addresses, ports) = (list("host"), list("hostaddr"), list("port"));
    let several = hosts.len().max(addresses.len()).max(1);
    if !hosts.is_empty() && !addresses.is_empty() && hosts.len() != addresses.len() {
        return Err(Error::configuration(format!(
            "host and hostaddr differ in length: {} hosts and {} addresses",
            hosts.len(),
            addresses.len()
        )));
    }
    if ports.len() > 1 && ports.len() != several {
        return Err(Error::configuration(format!(
            "port lists {} ports for {several} hosts: give one for each host, or one for all",
            ports.len()
        )));
    }
    for at in in_order(several, given)? {
        let host = hosts.get(at).copied().unwrap_or_default();
        match host {
            "" if addresses.is_empty() => {
                server.host("localhost");
            }
            // A list of addresses may do without names, but not with some.
            "" if hosts.is_empty() => {}
            "" => {
                server.host(addresses[at]);
            }
            _ if host.starts_with('@') => {
                return Err(Error::configuration(
                    "host is an abstract socket (`@`), which is not supported: give the directory of a socket",
                ));
            }
            // A password in this place may contain other characters.
            _ if !host.starts_with('/') && !is_host(host) => {
                return Err(Error::configuration(
                    "host contains a character that no name has: use a name, an IPv4 or IPv6 address, or the directory of a socket, which begins with `/`; a port goes into port",
                ));
            }
            _ => {
                server.host(host);
            }
        }
        if let Some(address) = addresses.get(at) {
            let address: IpAddr = address
                .parse()
                .map_err(|_| wrong("hostaddr", "an IPv4 or IPv6 address"))?;
            server.hostaddr(address);
        }
        let port = ports.get(at).or(ports.first()).copied().unwrap_or_default();
        let port = match port {
            "" => PORT,
            port => port
                .parse()
                .ok()
                .filter(|&port| port > 0)
                .ok_or_else(|| wrong("port", "a number from 1 to 65535"))?,
        };
        server.port(port);
    }
    Ok(())
}

/// Returns whether `host` is a name, perhaps not in ASCII, or an address, perhaps with a zone.
fn is_host(host: &str) -> bool {
    let address = host.split_once('%').map_or(host, |(address, _)| address);
    let is_address = address.parse::<IpAddr>().is_ok();
    let fits = |c: char| c.is_alphanumeric() || "-._".contains(c) || is_address && "%:".contains(c);
    host.chars().all(fits)
}

/// Orders the hosts. A random order is drawn once, so that each instance of a function
/// starts with another host and keeps it.
fn in_order(several: usize, given: &Parameters) -> Result<Vec<usize>> {
    let mut order: Vec<usize> = (0..several).collect();
    match given.get("load_balance_hosts") {
        None | Some("disable") => {}
        Some("random") => {
            // Seeded anew by the operating system in each process.
            let state = RandomState::new();
            order.sort_by_cached_key(|&at| {
                let mut hasher = state.build_hasher();
                hasher.write_usize(at);
                hasher.finish()
            });
        }
        Some(_) => return Err(wrong("load_balance_hosts", "disable or random")),
    }
    Ok(order)
}

/// Adds the settings that detect a server that is gone. To libpq, zero is the default: the
/// system's there, ours here (`net::Liveness`); but `keepalives=0` turns them off.
fn add_liveness(server: &mut tokio_postgres::Config, given: &Parameters) -> Result<()> {
    let number = |name, wanted| {
        let number = number::<u32>(given, name, wanted)?;
        Ok::<_, Error>(number.filter(|&number| number > 0 || name == "keepalives"))
    };
    let seconds = |name| {
        let seconds = number(name, "a number of seconds")?;
        Ok::<_, Error>(seconds.map(|seconds| Duration::from_secs(seconds.into())))
    };
    number("keepalives", "0 or 1")?.map(|on| server.keepalives(on != 0));
    seconds("keepalives_idle")?.map(|idle| server.keepalives_idle(idle));
    seconds("keepalives_interval")?.map(|interval| server.keepalives_interval(interval));
    number("keepalives_count", "a number of probes")?.map(|count| server.keepalives_retries(count));
    // libpq's is in milliseconds.
    let timeout = number("tcp_user_timeout", "a number of milliseconds")?;
    timeout.map(|timeout| server.tcp_user_timeout(Duration::from_millis(timeout.into())));
    Ok(())
}

/// Detects the pooler by the first host that is known for one.
fn detect(server: &tokio_postgres::Config, pgbouncer: bool) -> Pooler {
    let hosts = host_names(server).enumerate();
    let mut poolers = hosts.map(|(at, host)| {
        let ports = server.get_ports();
        let port = ports.get(at).or(ports.first()).copied().unwrap_or(PORT);
        match provider::detect(host, port) {
            Some((pooler, _)) => pooler,
            None if pgbouncer => Pooler::Transaction,
            None => Pooler::None,
        }
    });
    poolers
        .find(|&pooler| pooler != Pooler::None)
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    #[cfg(unix)]
    use tokio_postgres::config::Host;

    use super::super::readers::{UNLIMITED, limit};
    use super::*;

    fn read(text: &str) -> Result<DirectEndpoint> {
        super::read(&Parameters::parse(text)?)
    }

    #[test]
    fn hosts_are_paired_with_their_ports() {
        for (text, expected) in [
            ("", &[("localhost", 5432)][..]),
            ("postgres:///shop", &[("localhost", 5432)]),
            ("postgres://Db.Example.com", &[("Db.Example.com", 5432)]),
            ("postgres://[::1]:1/x", &[("::1", 1)]),
            ("postgres://a:1,b/x", &[("a", 1), ("b", 5432)]),
            ("host=a,b port=7", &[("a", 7), ("b", 7)]),
            ("host=a,b port=7,8", &[("a", 7), ("b", 8)]),
            ("postgres://a:1/x?host=b", &[("b", 1)]),
            ("postgres://a:1/x?host=b&port=2", &[("b", 2)]),
            ("hostaddr=10.0.0.1,10.0.0.2", &[("", 5432), ("", 5432)]),
            ("host=a hostaddr=10.0.0.1", &[("a", 5432)]),
            (
                "host=a,, hostaddr=10.0.0.1,::2,::3",
                &[("a", 5432), ("::2", 5432), ("::3", 5432)],
            ),
        ] {
            let server = read(text).expect(text).server;
            let hosts = host_names(&server).zip(server.get_ports().iter().copied());
            assert_eq!(hosts.collect::<Vec<_>>(), expected, "{text}");
        }
    }

    #[cfg(unix)]
    #[test]
    fn unix_socket_is_a_host() {
        for text in [
            "postgres://%2Frun%2Fpg:6/x",
            "postgres:///x?host=/run/pg&port=6",
            "postgres://localhost/x?host=/run/pg&port=6",
            "host=/run/pg port=6",
        ] {
            let server = read(text).expect(text).server;
            assert_eq!(server.get_hosts(), [Host::Unix("/run/pg".into())], "{text}");
            assert_eq!(server.get_ports(), [6], "{text}");
        }
    }

    #[test]
    fn random_order_keeps_hosts_with_their_ports() {
        let text = "postgres://a:1,b:2,c:3/x?load_balance_hosts=random";
        let mut first = std::collections::BTreeSet::new();
        for _ in 0..200 {
            let server = read(text).expect(text).server;
            let hosts = host_names(&server).zip(server.get_ports().iter().copied());
            let mut hosts: Vec<_> = hosts.collect();
            first.insert(hosts[0].1);
            hosts.sort_unstable();
            assert_eq!(hosts, [("a", 1), ("b", 2), ("c", 3)]);
        }
        assert_eq!(first.len(), 3, "each comes first at times");
    }

    #[test]
    fn parameters_reach_the_endpoint() {
        let seconds = Duration::from_secs;
        let read = read(
            "postgres://Me:p@h/Shop?options=-c%20a%3Db&fallback_application_name=f\
             &keepalives_idle=5&keepalives_interval=6&keepalives_count=7&tcp_user_timeout=8000\
             &target_session_attrs=primary&sslmode=require&schema=s&pgbouncer=true",
        )
        .expect("fine");
        let server = &read.server;
        assert_eq!(server.get_user(), Some("Me"));
        assert_eq!(server.get_password(), Some(&b"p"[..]));
        assert_eq!(server.get_dbname(), Some("Shop"));
        assert_eq!(server.get_options(), Some("-c a=b"));
        assert_eq!(server.get_application_name(), Some("f"));
        assert_eq!(server.get_keepalives_idle(), seconds(5));
        assert_eq!(server.get_keepalives_interval(), Some(seconds(6)));
        assert_eq!(server.get_keepalives_retries(), Some(7));
        assert_eq!(server.get_tcp_user_timeout(), Some(&seconds(8)));
        assert_eq!(read.target_session_attrs, TargetSessionAttrs::Primary);
        assert_eq!(read.tls.mode, super::super::TlsMode::Encrypt);
        assert_eq!(read.schema.as_deref(), Some("s"));
        assert_eq!(read.pooler, Pooler::Transaction);
    }

    #[test]
    fn zero_timeout_is_unlimited() {
        let given = Parameters::parse("pool_timeout=0 connect_timeout=9").expect("fine");
        let limit = |name| limit(&given, name).expect("fine");
        assert_eq!(limit("pool_timeout"), Some(UNLIMITED));
        assert_eq!(limit("connect_timeout"), Some(Duration::from_secs(9)));
        assert_eq!(limit("keepalives"), None);
    }

    #[test]
    fn zero_keepalive_is_the_default() {
        let untouched = tokio_postgres::Config::new();
        let zero = read("keepalives_idle=0 keepalives_count=0 tcp_user_timeout=0");
        let zero = zero.expect("fine").server;
        assert_eq!(zero.get_keepalives_idle(), untouched.get_keepalives_idle());
        assert_eq!(zero.get_keepalives_retries(), None);
        assert_eq!(zero.get_tcp_user_timeout(), None);
        assert!(!read("keepalives=0").expect("fine").server.get_keepalives());
    }

    #[test]
    fn invalid_parameter_is_named_without_its_value() {
        for (text, word) in [
            ("host=a,b hostaddr=::1", "host and hostaddr differ"),
            ("host=a,b port=1,2,3", "port lists 3"),
            ("postgres://u:hunter2", "port is not valid"),
            ("port=0", "from 1 to 65535"),
            ("port=65536", "from 1 to 65535"),
            ("hostaddr=hunter2", "hostaddr is not valid"),
            ("host=@hunter2", "abstract socket"),
            ("host='hunter2@x'", "a character that no name has"),
            ("connect_timeout=hunter2", "a number of seconds"),
            ("pool_timeout=1.5", "a number of seconds"),
            ("connection_limit=-1", "a number of connections"),
            ("connection_limit=0", "connection_limit is not valid"),
            ("keepalives=yes", "0 or 1"),
            ("tcp_user_timeout=1s", "a number of milliseconds"),
            ("pgbouncer=1", "true or false"),
            ("load_balance_hosts=yes", "disable or random"),
            ("target_session_attrs=prefer-standby", "is not supported"),
            ("dbname=postgres://u:hunter2@h", "dbname contains a URL"),
        ] {
            let error = read(text).expect_err(text).to_string();
            assert!(error.contains(word), "{text}: {error}");
            assert!(!error.contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn first_known_host_decides_the_pooler() {
        for (text, expected) in [
            ("postgres://a,b:6432/x", Pooler::Transaction),
            ("host=a,b port=6432", Pooler::Transaction),
            ("hostaddr=10.0.0.1 port=6432", Pooler::Transaction),
            ("postgres://a.pooler.supabase.com,b:6432/x", Pooler::Session),
            ("host=/run/pg", Pooler::None),
            ("postgres://a/x?pgbouncer=false", Pooler::None),
        ] {
            assert_eq!(read(text).expect(text).pooler, expected, "{text}");
        }
    }
}
