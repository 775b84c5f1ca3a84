//! Lists the connection parameters, and how each is supported (docs/configuration.md has the
//! table).

use super::foreign;

/// How a parameter is supported.
pub(super) enum Support {
    /// It is read, or its value makes no difference.
    Taken,
    /// Only these values are accepted, and why.
    Limited(&'static str, &'static str),
}

/// libpq's (manual, "Parameter Key Words"), Prisma's ("PostgreSQL connector", "Arguments"),
/// and JDBC's `ssl`.
const READ: &str = "host hostaddr port dbname user password options application_name \
    fallback_application_name connect_timeout keepalives keepalives_idle keepalives_interval \
    keepalives_count tcp_user_timeout target_session_attrs load_balance_hosts sslmode ssl \
    sslrootcert sslcert sslkey sslnegotiation sslsni channel_binding require_auth pgbouncer \
    connection_limit pool_timeout schema statement_cache_size";

/// libpq's that concern features that are not supported, and the marks that Supabase's
/// integration with Vercel (`supa`, `workaround`) and node-postgres (`uselibpqcompat`) put
/// into URLs.
const IGNORED: &str = "sslcompression gsslib krbsrvname supa workaround uselibpqcompat";

/// Rows of libpq's parameters, the accepted values, if there are any, and why no other is.
const LIMITED: &str = "\
client_encoding | auto, utf8, utf-8, unicode | the driver supports UTF8 only
sslcertmode | allow | to send no certificate, leave sslcert and sslkey out
ssl_min_protocol_version | tlsv1, tlsv1.1, tlsv1.2 | TLS 1.2 and 1.3 are both offered, and the newer is used
ssl_max_protocol_version | tlsv1.3 | TLS 1.2 and 1.3 are both offered, and the newer is used
min_protocol_version | 3.0 | the driver supports version 3.0 of the protocol
max_protocol_version | 3.0, 3.2, latest | the driver supports version 3.0 of the protocol
gssencmode | disable, prefer | GSSAPI is not supported
gssdelegation | 0 | GSSAPI is not supported
replication | false, off, no, 0 | the driver does not support the replication protocol
passfile | | a password file is not read: give the password itself
service servicefile | | a service file is not read: give host, user and database
sslpassword | | an encrypted key is not read: decrypt the key that sslkey names
sslcrl sslcrldir | | certificate revocation lists are not read
sslkeylogfile | | TLS keys are not written to files
requirepeer | | the owner of a unix socket is not checked
requiressl | | write sslmode=require
scram_client_key scram_server_key | | SCRAM needs the password
oauth_issuer oauth_client_id oauth_client_secret oauth_scope | | OAuth is not supported: use a password, a token or a certificate
";

/// Lists the names of all known parameters.
pub(super) fn known() -> impl Iterator<Item = &'static str> {
    let limited = LIMITED.lines().filter_map(|row| row.split(" |").next());
    let all = [READ, IGNORED].into_iter().chain(limited);
    all.flat_map(str::split_whitespace)
}

/// Returns how the parameter of this name is supported, if it is known.
pub(super) fn support(name: &str) -> Option<Support> {
    let has = |names: &str| names.split_whitespace().any(|known| known == name);
    if has(READ) || has(IGNORED) {
        return Some(Support::Taken);
    }
    LIMITED.lines().find_map(|row| {
        let (names, rest) = row.split_once(" |")?;
        let (values, why) = rest.split_once("| ")?;
        has(names).then_some(Support::Limited(values.trim(), why))
    })
}

/// Returns whether a parameter has this name, here or in another driver, in any case.
pub(super) fn is_known(name: &str) -> bool {
    known().any(|known| known.eq_ignore_ascii_case(name)) || foreign::advice(name).is_some()
}

/// Returns whether a parameter of this name holds a secret: its value is not shown, nor the names of
/// unknown parameters, which may be the rest of it.
pub(super) fn holds_secret(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    ["pass", "pwd", "secret", "token", "key"]
        .iter()
        .any(|word| name.contains(word))
}

/// Returns whether `name` is formed like those of parameters and variables. A password in its
/// place mixes cases or contains digits.
pub(super) fn is_word(name: &str) -> bool {
    let all = |fits: fn(&u8) -> bool| name.bytes().all(|byte| byte == b'_' || fits(&byte));
    name.len() <= 40 && (all(u8::is_ascii_lowercase) || all(u8::is_ascii_uppercase))
}
