//! Describes the pooled and the direct endpoint of a server.

use serde::{Deserialize, Serialize};
use tokio_postgres::config::Host;

use super::{Pooler, TargetSessionAttrs, Tls};

/// Which of the two endpoints of a database is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Endpoint {
    /// The one that the URL names, whatever it is (`DATABASE_URL` and friends).
    #[default]
    Pooled,
    /// [`Config::direct`](crate::Config::direct): past a pooler that is down.
    Direct,
}

/// An endpoint of the same database without its pooler.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct DirectEndpoint {
    /// As [`Settings::server`](crate::config::Settings::server).
    pub server: tokio_postgres::Config,
    /// As [`Settings::tls`](crate::config::Settings::tls).
    pub tls: Tls,
    /// As [`Settings::pooler`](crate::config::Settings::pooler): it may be a session pooler, as
    /// Supabase's is for clients without IPv6.
    pub pooler: Pooler,
    /// Replaces [`Settings::schema`](crate::config::Settings::schema), unless it is `None`; then
    /// that one stays, but not `public`.
    pub schema: Option<String>,
    /// Replaces [`Settings::target_session_attrs`](crate::config::Settings::target_session_attrs),
    /// unless it is [`Any`](TargetSessionAttrs::Any).
    pub target_session_attrs: TargetSessionAttrs,
}

/// Lists the name of each host; empty for one that has none.
pub(super) fn host_names(server: &tokio_postgres::Config) -> impl Iterator<Item = &str> {
    let (hosts, addresses) = (server.get_hosts(), server.get_hostaddrs());
    (0..hosts.len().max(addresses.len())).map(|at| match hosts.get(at) {
        Some(Host::Tcp(name)) => name.as_str(),
        _ => "",
    })
}

/// Copies a configuration with other hosts and ports: tokio-postgres cannot remove any.
pub(super) fn with_hosts(
    old: &tokio_postgres::Config,
    hosts: impl IntoIterator<Item = String>,
    port: impl Fn(u16) -> u16,
) -> tokio_postgres::Config {
    let mut server = tokio_postgres::Config::new();
    for host in hosts {
        server.host(host);
    }
    for &old in old.get_ports() {
        server.port(port(old));
    }
    old.get_user().map(|user| server.user(user));
    old.get_password().map(|password| server.password(password));
    old.get_dbname().map(|dbname| server.dbname(dbname));
    old.get_options().map(|options| server.options(options));
    server.channel_binding(old.get_channel_binding());
    server.keepalives(old.get_keepalives());
    server.keepalives_idle(old.get_keepalives_idle());
    old.get_keepalives_interval()
        .map(|interval| server.keepalives_interval(interval));
    old.get_keepalives_retries()
        .map(|retries| server.keepalives_retries(retries));
    old.get_tcp_user_timeout()
        .map(|&timeout| server.tcp_user_timeout(timeout));
    server
}
