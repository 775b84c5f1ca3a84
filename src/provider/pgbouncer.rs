//! Recognises PgBouncer and its messages.

use super::known_error::{CHECK_SERVER, FEWER_CLIENTS, NO_SERVER, known_errors};
use super::{Pooler, Provider, UNKNOWN};

pub(super) const PROVIDER: Provider = Provider {
    // The default `listen_port` ("Generic settings"); Azure's built-in PgBouncer uses it too.
    pooler: |_, port| (port == 6432).then_some((Pooler::Transaction, "by the port")),
    known_errors: known_errors! {
        ["no more connections allowed"] => TooManyConnections,
            "PgBouncer accepts no more clients (max_client_conn)",
            FEWER_CLIENTS;
        ["max_user_client_connections"] => TooManyConnections,
            "PgBouncer accepts no more clients of this user (max_user_client_connections)",
            FEWER_CLIENTS;
        ["max_db_client_connections"] => TooManyConnections,
            "PgBouncer accepts no more clients for this database (max_db_client_connections)",
            FEWER_CLIENTS;
        ["query_wait_timeout"] => TooManyConnections,
            "PgBouncer had no free server connection in time (query_wait_timeout)",
            "check for long transactions, raise the pool size, or check in PgBouncer's log that it \
             reaches its server";
        ["no such user"] => RoleMissing,
            "PgBouncer does not know the user",
            "add it to PgBouncer's auth_file, or set auth_query";
        ["no such database"] => DatabaseMissing,
            "PgBouncer does not know the database",
            "add it to the section [databases] of PgBouncer's configuration, or correct the name \
             at the end of the URL";
        [UNSUPPORTED] => ParameterRefused,
            "PgBouncer rejects {parameter} at startup",
            "set ANTIFREEZE_POOLER, or `pooler` in code, to PgBouncer's pool_mode (transaction or \
             session), remove the parameter from the URL and set it with ALTER ROLE .. SET, or add \
             it to PgBouncer's ignore_startup_parameters";
        // "server login" precedes a quoted message of the server, which would match rows below.
        ["server login"] | ["server_login_retry"] | ["cannot connect to server"]
            | ["server connection crashed"] | ["server conn crashed"] | ["connect failed"]
            | ["(server down)"] | ["server DNS lookup failed"] => Unreachable,
            NO_SERVER, CHECK_SERVER;
        // 1.18 and older.
        "08P01" ["authentication failed"] => Authentication,
            "the pooler rejected user or password",
            "check both, that reserved characters of the password are percent-encoded, and \
             PgBouncer's auth_file or auth_query";
        ["pooler is shut down"] | ["pgbouncer is shutting down"] => ServerStopping,
            "the pooler is shutting down";
    },
    ..UNKNOWN
};

const UNSUPPORTED: &str = "unsupported startup parameter";

/// Cause and remedy if a schema was sent in the startup packet and is not in force.
pub(crate) const DROPS_OPTIONS: (&str, &str) = (
    "`schema` is not in force: a pooler ignored the startup options, as PgBouncer does with \
     ignore_startup_parameters",
    "remove `schema`, and use ALTER ROLE .. SET search_path or schema-qualified names",
);

/// The highest process number of Linux (`PID_MAX_LIMIT`; proc(5), `pid_max`). PgBouncer sends
/// a random number in its place, which is below this once in a thousand sessions.
const HIGHEST_PROCESS: i32 = 1 << 22;

/// Returns whether PgBouncer rejected settings at startup: no other server uses this text.
pub(crate) fn refuses_settings(message: &str) -> bool {
    message.contains(UNSUPPORTED)
}

/// Detects PgBouncer as a session begins. `None`: it may be the server itself.
///
/// `process` is that of BackendKeyData, or `None` if a proxy is known that makes up its own.
pub(crate) fn detect_at_start<'a>(
    parameter: impl Fn(&str) -> Option<&'a str>,
    process: Option<i32>,
) -> Option<Pooler> {
    // The mode is unknown: what is right for transaction mode also works in session mode.
    let foreign = process.filter(|process| !(1..=HIGHEST_PROCESS).contains(process));
    pool_mode(parameter).or(foreign.map(|_| Pooler::Transaction))
}

/// Reads the mode that PgBouncer reports: 1.26 does, 1.18 does not.
pub(crate) fn pool_mode<'a>(parameter: impl Fn(&str) -> Option<&'a str>) -> Option<Pooler> {
    Some(match parameter("pgbouncer.pool_mode")? {
        "session" => Pooler::Session,
        _ => Pooler::Transaction,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn session_start_reveals_pgbouncer() {
        use Pooler::{Session, Transaction};
        for (mode, process, expected) in [
            (None, Some(20867), None),
            (None, Some(HIGHEST_PROCESS), None),
            (None, None, None),
            (None, Some(1_300_301_942), Some(Transaction)),
            (None, Some(-1_911_720_800), Some(Transaction)),
            (Some("transaction"), Some(1), Some(Transaction)),
            (Some("statement"), None, Some(Transaction)),
            (Some("session"), Some(-1), Some(Session)),
        ] {
            let parameter = |name: &str| mode.filter(|_| name == "pgbouncer.pool_mode");
            assert_eq!(
                detect_at_start(parameter, process),
                expected,
                "{mode:?} {process:?}"
            );
        }
    }
}
