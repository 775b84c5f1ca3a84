//! The table of settings. A new one is a row here and its row in `tests/rows.rs`, which
//! tries it from every source; `UPDATE_DOCS=1 cargo test --lib settings_page` writes it into
//! docs/configuration.md.
//!
//! From the row follow the setter of [`Config`], the name for serde, what is read of the URL
//! and of variables, the field of [`Settings`], and that of the health report.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use super::deserialize::value;
use super::macros::settings;
use super::origin::{Origin, Sourced, sourced};
use super::parameters::Parameters;
use super::readers::{
    at_least_one, attributes, connections, count, duration, limit, or_never, secret, statements,
    text, unless_zero, word,
};
#[cfg(test)]
use super::tests::page::shown;
use super::{
    ConnectionLifetime, DirectEndpoint, Endpoint, Environment, GuessAuthentication, LoadShed,
    Pooler, Reset, TargetSessionAttrs, Tls, values,
};
use crate::credentials::Credentials;
use crate::error::Result;

/// Configures a [`Database`](crate::Database): its address, and each setting that differs
/// from its default.
///
/// It is made from a URL, from the environment, empty or by serde; setters then change single
/// settings. What an operator sets in `ANTIFREEZE_*` variables wins over the code, the code
/// over the URL, the URL over `DB_MAX_*` variables, and those over the defaults;
/// `docs/configuration.md` lists all of them, and [`Settings`] holds the result.
///
/// ```
/// use std::time::Duration;
///
/// use antifreeze::{Config, Database};
///
/// let config = Config::from_url("postgres://app@localhost/shop?sslmode=disable")?
///     .max_connections(4)
///     .statement_timeout(Duration::from_secs(5));
/// let database = Database::new(config)?;
/// # Ok::<(), antifreeze::Error>(())
/// ```
///
/// Its `Debug` shows neither password nor client keys.
#[derive(Clone, Default)]
#[must_use = "a configuration does nothing until it is a Database's"]
pub struct Config {
    /// Those of a URL, a keyword string or variables, and then of the code.
    pub(super) parameters: Parameters,
    /// A URL or the environment gave the parameters; else, without a host, the environment
    /// gives them later.
    pub(super) has_source: bool,
    pub(super) credentials: Option<Arc<dyn Credentials>>,
    pub(super) direct: Option<DirectEndpoint>,
    /// The settings that the code sets.
    pub(super) code: PartialSettings,
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config")
            .field("parameters", &self.parameters)
            .field("credentials", &self.credentials.as_ref().map(|_| ".."))
            .field("direct", &self.direct)
            .finish_non_exhaustive()
    }
}

settings! {
parameters {
    /// Hosts, separated by commas. This and what follows up to
    /// [`options`](Self::options) wins over the URL.
    host: String;
    /// Addresses that are dialled instead of the hosts' names, separated by commas.
    hostaddr: String;
    /// A port for all hosts.
    port: u16;
    /// The user.
    user: String;
    /// The password.
    password: String;
    /// The database.
    dbname: String;
    /// `disable`, `prefer`, `require`, `verify-ca` or `verify-full`.
    sslmode: String;
    /// Certificate authorities: a file, PEM, or `system`.
    sslrootcert: String;
    /// The client certificate: a file, or PEM.
    sslcert: String;
    /// The key of the client certificate: a file, or PEM.
    sslkey: String;
    /// `direct`: TLS from the first byte on (PostgreSQL 17 and newer).
    sslnegotiation: String;
    /// `0`: TLS without the host name in the clear (SNI).
    sslsni: String;
    /// `disable`, `prefer` or `require`.
    channel_binding: String;
    /// The authentication methods that the server may ask for: see
    /// [`RequireAuth`](crate::config::RequireAuth).
    require_auth: String;
    /// The name that the server shows for the sessions. Default: the function's name and
    /// version on Lambda and Vercel.
    application_name: String;
    /// Options of the server (`-c name=value`).
    options: String;
}
settings(environment, pooler) {
    /// The pooler between the function and the server. Default: recognised by the address,
    /// else [`Pooler::None`]; a pooler that is detected while connecting is treated as one,
    /// and a warning says what to set.
    pooler: Pooler = pooler, default "recognised by the address",
        overrides "ANTIFREEZE_POOLER" word, health pooler same;
    /// Which endpoint of the database is used. Default: [`Endpoint::Pooled`], the one of the
    /// URL.
    endpoint: Endpoint = Endpoint::Pooled,
        overrides "ANTIFREEZE_ENDPOINT" word, health endpoint same;
    /// How long a connection lives. Default: depends on the pooler.
    lifetime: ConnectionLifetime = ConnectionLifetime::behind(pooler), default "depends on the pooler",
        overrides "ANTIFREEZE_LIFETIME" word, health lifetime same;
    /// Whether the first message of SCRAM is sent together with the startup packet, which saves
    /// a round trip of each connect. Default: [`GuessAuthentication::Auto`].
    guess_authentication: GuessAuthentication = GuessAuthentication::Auto,
        overrides "ANTIFREEZE_GUESS_AUTHENTICATION" word;
    /// What removes session state before a connection is kept.
    reset: Reset = Reset::Detected, health reset same;
    /// Which invocations are rejected while the server is full or unreachable. Default:
    /// [`LoadShed::FirstUse`].
    load_shed: LoadShed = LoadShed::FirstUse,
        overrides "ANTIFREEZE_LOAD_SHED" word, health load_shed same;
    /// The share of the server's slots in use, in percent, above which connections are closed
    /// at the end of each invocation instead of being kept. Default: 80. It counts with
    /// [`Pooler::None`] and [`Pooler::Session`], where a kept connection takes a slot.
    high_water_mark: u8 = 80, health high_water_mark same;
    /// The most connections that a tokio runtime of this process has at a time.
    /// Default: `connection_limit` of the URL, `DB_MAX_OPEN_CONNS`, or else 1 on Lambda,
    /// the concurrency on Lambda Managed Instances, elsewhere 3.
    max_connections: usize = environment.concurrency(),
        default "1 on Lambda, the concurrency on Managed Instances, elsewhere 3",
        url "connection_limit" connections,
        overrides "ANTIFREEZE_MAX_CONNECTIONS" at_least_one,
        limit "DB_MAX_OPEN_CONNS" at_least_one, health max_connections same;
    /// The most connections that are kept between invocations, with
    /// [`PerEventLoop`](ConnectionLifetime::PerEventLoop). Default: `DB_MAX_IDLE_CONNS`,
    /// or else all of them.
    max_idle: usize, default "all", limit "DB_MAX_IDLE_CONNS" count, health max_idle kept;
    /// A connection older than this, less up to a tenth of it, is not kept: those that were
    /// opened at once do not end at once. Default: `DB_MAX_LIFETIME`, or else 30 minutes; on
    /// Aurora DSQL, which ends connections after an hour, 50 minutes at most.
    max_age: Duration = Duration::from_secs(30 * 60),
        limit "DB_MAX_LIFETIME" or_never, health max_age_seconds seconds;
    /// A connection that was kept for longer than this without use, by the wall clock,
    /// is replaced at the next checkout. Default: `DB_MAX_IDLE_TIME`, or else no limit.
    max_idle_time: Duration, default "no limit",
        limit "DB_MAX_IDLE_TIME" unless_zero, health max_idle_time_seconds seconds;
    /// How long a process whose host suspends it between requests is kept awake after the last
    /// request, for the next one to use its connections, which are closed then: on Vercel. Not
    /// where kept connections take no slot of the server, behind a transaction pooler or RDS
    /// Proxy, unless it is set. Default: 5 s. Zero: the process is suspended at once, and keeps
    /// its connections.
    linger: Duration = Duration::from_secs(5), overrides "ANTIFREEZE_LINGER" duration,
        health linger_seconds seconds;
    /// A connection that was kept for longer than this without use answers an empty query
    /// before it is leased again, alone and within a second: a device in between may have
    /// dropped it silently, as NAT gateways and connection tracking do after 350 s
    /// (AWS, "NAT gateways", "Connection tracking"). Default: 60 s.
    test_after_idle: Duration = Duration::from_secs(60), health test_after_idle_seconds seconds;
    /// How long a checkout waits while all connections are in use. Default: `pool_timeout` of the
    /// URL, or else 5 s.
    acquire_timeout: Duration = Duration::from_secs(5), url "pool_timeout" limit,
        overrides "ANTIFREEZE_ACQUIRE_TIMEOUT" duration, health acquire_timeout_seconds seconds;
    /// How long connecting may take. Default: `connect_timeout` of the URL, or else 10 s.
    connect_timeout: Duration = Duration::from_secs(10), url "connect_timeout" limit,
        overrides "ANTIFREEZE_CONNECT_TIMEOUT" duration, health connect_timeout_seconds seconds;
    /// The server's `statement_timeout`, in whole milliseconds. Default: 30 s, unless
    /// `options` of the URL say otherwise. Zero: the server's own. It is sent on
    /// [`Pooler::None`] alone, since poolers refuse it: behind one, use
    /// `ALTER ROLE .. SET`.
    statement_timeout: Duration = Duration::from_secs(30),
        overrides "ANTIFREEZE_STATEMENT_TIMEOUT" duration, health statement_timeout_seconds sent;
    /// The server's `idle_in_transaction_session_timeout`, which ends what no
    /// teardown could: the process was killed, the network is gone. Default: 60 s.
    /// Zero: the server's own. Sent as `statement_timeout` is.
    idle_in_transaction_timeout: Duration = Duration::from_secs(60),
        overrides "ANTIFREEZE_IDLE_IN_TRANSACTION_TIMEOUT" duration,
        health idle_in_transaction_timeout_seconds sent;
    /// The server's `idle_session_timeout` (PostgreSQL 14 and newer): a session that was not
    /// used for so long is ended, as those that frozen processes hold; the next checkout finds
    /// it closed without a round trip. Default: 15 minutes, long enough for a
    /// process that is called now and then, short enough that what a burst of instances left
    /// behind is gone soon. Zero: the server's own. Sent on [`Pooler::None`] alone, and never
    /// to a pooler.
    idle_session_timeout: Duration = Duration::from_secs(15 * 60),
        overrides "ANTIFREEZE_IDLE_SESSION_TIMEOUT" duration,
        health idle_session_timeout_seconds sent;
    /// The server's `transaction_timeout` (PostgreSQL 17 and newer): a transaction that
    /// takes longer ends with its session. Default: 15 minutes, the longest that Lambda runs
    /// a function ("Lambda quotas"). Zero: the server's own. Sent on [`Pooler::None`] alone.
    transaction_timeout: Duration = Duration::from_secs(15 * 60),
        overrides "ANTIFREEZE_TRANSACTION_TIMEOUT" duration,
        health transaction_timeout_seconds sent;
    /// How long a call of the function may take, where the host does not say so yet, as while
    /// the function starts: the server's timeouts are lowered to it, but to no less than 1 s,
    /// and `idle_session_timeout` not at all. Within an invocation its own time counts, if
    /// that is shorter. On Lambda it is the deadline of a request that carries none, too
    /// ([`DatabaseLayer::max_duration`](crate::DatabaseLayer::max_duration)). Default: not
    /// known.
    function_timeout: Duration, default "not known",
        overrides "ANTIFREEZE_FUNCTION_TIMEOUT" duration, health function_timeout_seconds seconds;
    /// From which duration on an invocation is slow, which is one line of the log. Default: 1 s.
    slow_invocation: Duration = Duration::from_secs(1),
        overrides "ANTIFREEZE_SLOW_INVOCATION" duration;
    /// How often an invocation may execute the same statement before one line of the log says
    /// so, once for each statement and process. Default: 20. Zero: never.
    repeated_statements: usize = 20;
    /// Whether lines of the log name a statement by its text, without literals and parameters,
    /// instead of by a hash of that. Default: no.
    log_statements: bool = false;
    /// Which of several hosts is accepted. Default: any.
    target_session_attrs: TargetSessionAttrs = TargetSessionAttrs::Any,
        url "target_session_attrs" attributes;
    /// The schema that is searched, instead of the server's `search_path`. Default:
    /// `schema` of the URL, or else none. It is sent on [`Pooler::None`] alone; behind a
    /// pooler any but `public` is an error.
    schema: String, default "the server's `search_path`", url "schema" text;
    /// Whether the server may compile statements (`jit`), which costs short ones more
    /// than it brings. Default: no, where the setting can be sent, as with
    /// [`Pooler::None`].
    jit: bool = false;
    /// How many statements [`prepare_cached`](crate::Connection::prepare_cached)
    /// keeps for each connection, the least recently used out first. Default:
    /// `statement_cache_size` of the URL, or else 100.
    statement_cache: usize = 100, url "statement_cache_size" statements;
    /// Whether other drivers are served by the runtime in which their URL is asked for first, which
    /// saves two switches of threads for each statement. Default: no, but by a thread of its own,
    /// which a driver needs that blocks the thread of its handler (Diesel).
    drivers_on_runtime: bool = false;
    /// Whether a session keeps what it has prepared, so that the text of a `query(..)` that was
    /// executed before takes one round trip instead of two, with [`Pooler::None`]. Default: no,
    /// since a statement may then fail once with "cached plan must not change result type"
    /// after another session has altered the columns that it returns.
    reuse_statements: bool = false;
    /// How many connections [`warm_up`](crate::Database::warm_up) opens, whatever the code
    /// asks it for; at most as many as can be kept. Default: what it is asked for.
    warm_up: usize, default "what the code asks for", overrides "ANTIFREEZE_WARM_UP" count;
    /// The token that unlocks the details of [`health`](crate::health), as
    /// `Authorization: Bearer ..`. Default: none, no details over HTTP. 16 characters or more, without
    /// spaces.
    health_token: String, default "none", overrides "ANTIFREEZE_HEALTH_TOKEN" secret;
}
}
