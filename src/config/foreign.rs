//! Translates parameters of other drivers.

/// Rows of names and what to write instead. The names are those of JDBC ("Connection
/// Parameters"), Prisma ("PostgreSQL connector", "Arguments"), node-postgres (`Client`,
/// `Pool`), postgres.js, Npgsql, SQLAlchemy, asyncpg, pgx, lib/pq, sqlx and Rails; their case
/// does not matter.
const FOREIGN: &str = "\
currentSchema schema_search_path: write schema instead
ApplicationName: write application_name instead
connectTimeout loginTimeout sslResponseTimeout: write connect_timeout instead
socketTimeout queryTimeout socket_timeout query_timeout statement_timeout command_timeout: write options=-c%20statement_timeout%3D<milliseconds> instead, or set it in code
tcpKeepAlive keepAlive: write keepalives=1 instead, which is the default
prepareThreshold prepare prepared_statements prefer_simple_protocol default_query_exec_mode: behind a transaction pooler write pgbouncer=true; else leave it out
preparedStatementCacheQueries prepared_statement_cache_size statement_cache_capacity \
  statement-cache-capacity: write statement_cache_size instead
preparedStatementCacheSizeMiB: write statement_cache_size instead, a number of statements
targetServerType: write target_session_attrs instead
loadBalanceHosts: write load_balance_hosts=random instead
gssEncMode: write gssencmode instead
channelBinding: write channel_binding instead
requireAuth: write require_auth instead
sslNegotiation: write sslnegotiation instead
sslfactory rejectUnauthorized TrustServerCertificate: write sslmode instead: verify-full, or require to skip verification
sslhostnameverifier: write sslmode instead: verify-full verifies the name, verify-ca does not
readOnly: write options=-c%20default_transaction_read_only%3Don instead, or target_session_attrs
stringtype binaryTransfer binaryTransferEnable binaryTransferDisable defaultRowFetchSize \
  autosave cleanupSavepoints allowEncodingChanges assumeMinServerVersion \
  databaseMetadataCacheFields disableColumnSanitiser escapeSyntaxCallMode \
  hideUnprivilegedObjects hostRecheckSeconds logUnclosedConnections logServerErrorDetail \
  loggerLevel loggerFile maxResultBuffer preferQueryMode protocolVersion reWriteBatchedInserts \
  sendBufferSize receiveBufferSize socketFactory socketFactoryArg tcpNoDelay unknownLength \
  sslpasswordcallback sslfactoryarg gssUseDefaultCreds gssResponseTimeout sspiServiceClass \
  useSpnego adaptiveFetch adaptiveFetchMinimum adaptiveFetchMaximum readOnlyMode \
  maxSendBufferSize xmlFactoryFactory groupStartupParameters cancelSignalTimeout \
  quoteReturningIdentifiers raiseExceptionOnSilentRollback localSocketAddress \
  databaseMetadataCacheFieldsMiB authenticationPluginClassName convertBooleanToNumeric \
  allowExitOnIdle fetch_types pooling async_fallback binary_parameters: leave it out: it concerns only the other driver
jaasLogin jaasApplicationName kerberosServerName min pool_min_conns: leave it out: there is no such setting
sslaccept: write sslmode instead: sslaccept=strict is sslmode=verify-full, and accept_invalid_certs is sslmode=require
sslidentity: write sslcert and sslkey instead, in PEM
max_connection_lifetime max_lifetime pool_max_conn_lifetime conn_max_age: set max_age in code, or DB_MAX_LIFETIME
max_idle_connection_lifetime idleTimeoutMillis idle_timeout pool_max_conn_idle_time: set max_idle_time in code, or DB_MAX_IDLE_TIME
single_use_connections: set the lifetime to per-invocation in code, or ANTIFREEZE_LIFETIME
connectionString: give the URL alone
connectionTimeoutMillis: write connect_timeout instead, in seconds
lock_timeout: write options=-c%20lock_timeout%3D<milliseconds> instead
idle_in_transaction_session_timeout: write options=-c%20idle_in_transaction_session_timeout%3D<milliseconds> instead, or set idle_in_transaction_timeout in code
search_path: write schema instead, or options=-c%20search_path%3D<schemas>
max pool pool_size pool_max_conns: write connection_limit instead
keepAliveInitialDelayMillis: write keepalives_idle instead, in seconds
enableChannelBinding: write channel_binding=prefer instead, which is the default
encoding: leave it out: the driver supports UTF8 only
server: write host instead
username: write user instead
database: write dbname instead
checkout_timeout: write pool_timeout instead
";

/// Lists the names, each with what to write instead.
fn all() -> impl Iterator<Item = (&'static str, &'static str)> {
    let rows = FOREIGN.lines().filter_map(|row| row.split_once(": "));
    rows.flat_map(|(names, advice)| names.split_whitespace().map(move |name| (name, advice)))
}

/// Finds the other driver's name for a parameter, and what to write instead.
pub(super) fn advice(name: &str) -> Option<(&'static str, &'static str)> {
    all().find(|(foreign, _)| foreign.eq_ignore_ascii_case(name))
}

#[cfg(test)]
mod tests {
    use super::super::names::known;
    use super::*;

    #[test]
    fn foreign_names_are_unique() {
        for (at, (name, _)) in all().enumerate() {
            assert!(known().all(|known| known != name), "{name}");
            let first = all().position(|(other, _)| other.eq_ignore_ascii_case(name));
            assert_eq!(first, Some(at), "{name}");
        }
    }
}
