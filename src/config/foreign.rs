//! Parameters of other drivers, and what each is here.

const LEAVE: &str = "leave it out: there is nothing like it here";
const CLIENT: &str = "leave it out: it concerns the other driver's own ways";
const STATEMENT_TIMEOUT: &str =
    "write options=-c%20statement_timeout%3D<milliseconds> instead, or set it in code";
const READ_ONLY: &str =
    "write options=-c%20default_transaction_read_only%3Don instead, or target_session_attrs";
const VERIFY: &str = "write sslmode instead: verify-full, or require to verify nothing";
const UNNAMED: &str = "behind a transaction pooler write pgbouncer=true; else leave it out";
const AGE: &str = "set max_age in code, or DB_MAX_LIFETIME";
const IDLE: &str = "set max_idle_time in code, or DB_MAX_IDLE_TIME";

/// Those of JDBC, Prisma, node-postgres, Npgsql, asyncpg, pgx and Rails, whatever their
/// case; and what to write instead.
const FOREIGN: &[(&str, &str)] = &[
    // pgJDBC ("Connection Parameters").
    ("currentSchema", "write schema instead"),
    ("ApplicationName", "write application_name instead"),
    ("connectTimeout", "write connect_timeout instead"),
    ("loginTimeout", "write connect_timeout instead"),
    ("sslResponseTimeout", "write connect_timeout instead"),
    ("socketTimeout", STATEMENT_TIMEOUT),
    ("queryTimeout", STATEMENT_TIMEOUT),
    (
        "tcpKeepAlive",
        "write keepalives=1 instead, which is the default",
    ),
    ("prepareThreshold", UNNAMED),
    (
        "preparedStatementCacheQueries",
        "write statement_cache_size instead",
    ),
    (
        "preparedStatementCacheSizeMiB",
        "write statement_cache_size instead, a number of statements",
    ),
    ("targetServerType", "write target_session_attrs instead"),
    (
        "loadBalanceHosts",
        "write load_balance_hosts=random instead",
    ),
    ("gssEncMode", "write gssencmode instead"),
    ("channelBinding", "write channel_binding instead"),
    ("requireAuth", "write require_auth instead"),
    ("sslNegotiation", "write sslnegotiation instead"),
    ("sslfactory", VERIFY),
    (
        "sslhostnameverifier",
        "write sslmode instead: verify-full verifies the name, verify-ca does not",
    ),
    ("readOnly", READ_ONLY),
    ("stringtype", CLIENT),
    ("binaryTransfer", CLIENT),
    ("binaryTransferEnable", CLIENT),
    ("binaryTransferDisable", CLIENT),
    ("defaultRowFetchSize", CLIENT),
    ("autosave", CLIENT),
    ("cleanupSavepoints", CLIENT),
    ("allowEncodingChanges", CLIENT),
    ("assumeMinServerVersion", CLIENT),
    ("databaseMetadataCacheFields", CLIENT),
    ("disableColumnSanitiser", CLIENT),
    ("escapeSyntaxCallMode", CLIENT),
    ("hideUnprivilegedObjects", CLIENT),
    ("hostRecheckSeconds", CLIENT),
    ("logUnclosedConnections", CLIENT),
    ("logServerErrorDetail", CLIENT),
    ("loggerLevel", CLIENT),
    ("loggerFile", CLIENT),
    ("maxResultBuffer", CLIENT),
    ("preferQueryMode", CLIENT),
    ("protocolVersion", CLIENT),
    ("reWriteBatchedInserts", CLIENT),
    ("sendBufferSize", CLIENT),
    ("receiveBufferSize", CLIENT),
    ("socketFactory", CLIENT),
    ("socketFactoryArg", CLIENT),
    ("tcpNoDelay", CLIENT),
    ("unknownLength", CLIENT),
    ("sslpasswordcallback", CLIENT),
    ("sslfactoryarg", CLIENT),
    ("gssUseDefaultCreds", CLIENT),
    ("gssResponseTimeout", CLIENT),
    ("sspiServiceClass", CLIENT),
    ("useSpnego", CLIENT),
    ("adaptiveFetch", CLIENT),
    ("adaptiveFetchMinimum", CLIENT),
    ("adaptiveFetchMaximum", CLIENT),
    ("readOnlyMode", CLIENT),
    ("maxSendBufferSize", CLIENT),
    ("xmlFactoryFactory", CLIENT),
    ("groupStartupParameters", CLIENT),
    ("cancelSignalTimeout", CLIENT),
    ("quoteReturningIdentifiers", CLIENT),
    ("raiseExceptionOnSilentRollback", CLIENT),
    ("localSocketAddress", CLIENT),
    ("databaseMetadataCacheFieldsMiB", CLIENT),
    ("authenticationPluginClassName", CLIENT),
    ("convertBooleanToNumeric", CLIENT),
    ("jaasLogin", LEAVE),
    ("jaasApplicationName", LEAVE),
    ("kerberosServerName", LEAVE),
    // Prisma ("PostgreSQL connector", "Arguments").
    (
        "sslaccept",
        "write sslmode instead: sslaccept=strict is sslmode=verify-full, and accept_invalid_certs is sslmode=require",
    ),
    ("sslidentity", "write sslcert and sslkey instead, in PEM"),
    ("socket_timeout", STATEMENT_TIMEOUT),
    ("max_connection_lifetime", AGE),
    ("max_idle_connection_lifetime", IDLE),
    (
        "single_use_connections",
        "set the lifetime to per-invocation in code, or ANTIFREEZE_LIFETIME",
    ),
    // node-postgres (`Client`, `Pool`) and postgres.js.
    ("connectionString", "give the URL alone"),
    (
        "connectionTimeoutMillis",
        "write connect_timeout instead, in seconds",
    ),
    ("idleTimeoutMillis", IDLE),
    ("idle_timeout", IDLE),
    ("max_lifetime", AGE),
    ("query_timeout", STATEMENT_TIMEOUT),
    ("statement_timeout", STATEMENT_TIMEOUT),
    (
        "lock_timeout",
        "write options=-c%20lock_timeout%3D<milliseconds> instead",
    ),
    (
        "idle_in_transaction_session_timeout",
        "write options=-c%20idle_in_transaction_session_timeout%3D<milliseconds> instead, or set \
         idle_in_transaction_timeout in code",
    ),
    (
        "search_path",
        "write schema instead, or options=-c%20search_path%3D<schemas>",
    ),
    ("max", "write connection_limit instead"),
    ("min", LEAVE),
    (
        "keepAlive",
        "write keepalives=1 instead, which is the default",
    ),
    (
        "keepAliveInitialDelayMillis",
        "write keepalives_idle instead, in seconds",
    ),
    (
        "enableChannelBinding",
        "write channel_binding=prefer instead, which is the default",
    ),
    ("encoding", "leave it out: the driver speaks UTF8 alone"),
    ("rejectUnauthorized", VERIFY),
    ("allowExitOnIdle", CLIENT),
    ("prepare", UNNAMED),
    ("fetch_types", CLIENT),
    // Npgsql, SQLAlchemy, asyncpg, pgx, lib/pq, sqlx, Rails.
    ("server", "write host instead"),
    ("username", "write user instead"),
    ("database", "write dbname instead"),
    ("pooling", CLIENT),
    ("TrustServerCertificate", VERIFY),
    ("async_fallback", CLIENT),
    ("command_timeout", STATEMENT_TIMEOUT),
    (
        "prepared_statement_cache_size",
        "write statement_cache_size instead",
    ),
    (
        "statement_cache_capacity",
        "write statement_cache_size instead",
    ),
    (
        "statement-cache-capacity",
        "write statement_cache_size instead",
    ),
    ("prepared_statements", UNNAMED),
    ("prefer_simple_protocol", UNNAMED),
    ("default_query_exec_mode", UNNAMED),
    ("binary_parameters", CLIENT),
    ("pool", "write connection_limit instead"),
    ("pool_size", "write connection_limit instead"),
    ("pool_max_conns", "write connection_limit instead"),
    ("pool_min_conns", LEAVE),
    ("pool_max_conn_lifetime", AGE),
    ("pool_max_conn_idle_time", IDLE),
    ("checkout_timeout", "write pool_timeout instead"),
    ("schema_search_path", "write schema instead"),
    ("conn_max_age", AGE),
];

/// The other driver's name for it, and what to do.
pub(super) fn advice(name: &str) -> Option<&'static (&'static str, &'static str)> {
    let mut all = FOREIGN.iter();
    all.find(|(foreign, _)| foreign.eq_ignore_ascii_case(name))
}

#[cfg(test)]
mod tests {
    use super::super::parameters::KNOWN;
    use super::*;

    #[test]
    fn none_is_known_or_listed_twice() {
        for (at, (name, _)) in FOREIGN.iter().enumerate() {
            let known = KNOWN.iter().any(|(known, _)| known == name);
            assert!(!known, "{name}");
            let first = FOREIGN
                .iter()
                .position(|(other, _)| other.eq_ignore_ascii_case(name));
            assert_eq!(first, Some(at), "{name}");
        }
    }
}
