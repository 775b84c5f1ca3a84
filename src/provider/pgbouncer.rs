//! PgBouncer: its messages, and how it is detected.

use super::refusal::{FEWER_CLIENTS, LET_IT_IN, NO_SERVER, refusals};
use super::{Pooler, Provider, UNKNOWN};

pub(super) const PROVIDER: Provider = Provider {
    // the default `listen_port` ("Generic settings"); Azure's built-in one
    // is there too.
    pooler: |_, port| (port == 6432).then_some((Pooler::Transaction, "by the port")),
    refusals: refusals! {
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
            "look for long transactions, or raise the pool size; the log of PgBouncer says whether it reaches its server";
        ["no such user"] => RoleMissing,
            "PgBouncer does not know the user",
            "add it to PgBouncer's auth_file, or set auth_query";
        ["no such database"] => DatabaseMissing,
            "PgBouncer does not know the database",
            "add it to the section [databases] of PgBouncer's configuration, or correct the name \
             at the end of the URL";
        [UNSUPPORTED] => ParameterRefused,
            "PgBouncer rejects {parameter} at startup",
            "set ANTIFREEZE_POOLER, or `pooler` in code, to transaction or session, as \
             PgBouncer's pool_mode is, remove the parameter from the URL and set it with ALTER ROLE .. SET, or add it to PgBouncer's ignore_startup_parameters";
        // What a server told it stands behind "server login": before what it says itself.
        ["server login"] | ["server_login_retry"] | ["cannot connect to server"]
            | ["server connection crashed"] | ["server conn crashed"] | ["connect failed"]
            | ["(server down)"] | ["server DNS lookup failed"]
            => Unreachable, NO_SERVER, LET_IT_IN;
        // 1.18 and older.
        "08P01" ["authentication failed"] => Authentication,
            "the pooler does not accept this user with this password",
            "check both, reserved characters of the password percent-encoded, and what \
             PgBouncer's auth_file or auth_query has";
        ["pooler is shut down"] | ["pgbouncer is shutting down"]
            => ServerStopping, "the pooler is shutting down";
    },
    ..UNKNOWN
};

const UNSUPPORTED: &str = "unsupported startup parameter";

/// What is wrong where a schema was sent in the start-up packet and does not hold.
pub(crate) const DROPS_OPTIONS: &str = "the server did not take `schema`: something in between drops the options of the start-up \
     packet, as PgBouncer does with ignore_startup_parameters; write ALTER ROLE .. SET \
     search_path, or schema-qualified names, and leave `schema` out";

/// Linux gives no process a higher number (`PID_MAX_LIMIT`; proc(5), `pid_max`). For
/// want of a process of its own PgBouncer puts a random number there, which lies
/// below once in a thousand times.
const HIGHEST_PROCESS: i32 = 1 << 22;

/// Whether the settings at startup were refused: no other server uses this text.
pub(crate) fn refuses_settings(message: &str) -> bool {
    message.contains(UNSUPPORTED)
}

/// The path that a session shows as it begins. `None`: it may well be the server's own.
///
/// `process` is that of BackendKeyData, to be looked at where nothing else in between is
/// known to make up its own.
pub(crate) fn shown<'a>(
    parameter: impl Fn(&str) -> Option<&'a str>,
    process: Option<i32>,
) -> Option<Pooler> {
    // In whatever mode: what is right behind the one is right behind the other.
    let foreign = process.filter(|process| !(1..=HIGHEST_PROCESS).contains(process));
    pool_mode(parameter).or(foreign.map(|_| Pooler::Transaction))
}

/// What a newer one says of itself: 1.26 does, 1.18 not.
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
    fn a_pooler_gives_itself_away() {
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
            assert_eq!(shown(parameter, process), expected, "{mode:?} {process:?}");
        }
    }
}
