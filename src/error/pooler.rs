//! What poolers say, in their own words and under whatever code.

use super::sqlstate::{Meaning, Said, advised, parameter, plain};
use super::{Error, ErrorKind};
use std::time::Duration;

/// Words with which poolers say that they, or what is behind them, are full; what they
/// mean; and what helps.
const FULL: &[(&str, &str, &str)] = &[
    ("MaxClientsInSessionMode", SESSION_POOL, LEAVE_SESSION),
    ("EMAXCONNSESSION", SESSION_POOL, LEAVE_SESSION),
    ("EMAXCONN", CLIENTS, FEWER_CLIENTS),
    ("Max client connections reached", CLIENTS, FEWER_CLIENTS),
    (
        "no more connections allowed",
        "PgBouncer takes no more clients (max_client_conn)",
        FEWER_CLIENTS,
    ),
    (
        "max_user_client_connections",
        "PgBouncer takes no more clients of this user (max_user_client_connections)",
        FEWER_CLIENTS,
    ),
    (
        "max_db_client_connections",
        "PgBouncer takes no more clients for this database (max_db_client_connections)",
        FEWER_CLIENTS,
    ),
    (
        "query_wait_timeout",
        "PgBouncer had no server to give for as long as it waits (query_wait_timeout)",
        "look for what holds them, such as a long transaction, or give the pooler more of them; its \
         log says whether it reaches its server at all",
    ),
    ("ECHECKOUTTIMEOUT", POOL_IN_USE, SHORTER),
    ("unable to check out", POOL_IN_USE, SHORTER),
    (
        "Timed-out waiting to acquire database connection",
        POOL_IN_USE,
        SHORTER,
    ),
    (
        "Too many database connection attempts are currently ongoing",
        "the pooler has too many connection attempts under way",
        FEWER_CLIENTS,
    ),
];

const UNSUPPORTED: &str = "unsupported startup parameter";

const SESSION_POOL: &str =
    "the session pooler has given out all of its pool_size, one for each client";
const CLIENTS: &str = "the pooler takes no more clients";
const POOL_IN_USE: &str = "all of the pooler's servers were in use for as long as it waits";

const LEAVE_SESSION: &str = "use the transaction pooler (port 6543 on Supabase; ANTIFREEZE_PATH=transaction-pooler if the \
     port does not say so), or connections per invocation (ANTIFREEZE_LIFETIME=per-invocation)";
const FEWER_CLIENTS: &str =
    "lower `max_connections` or the function's concurrency, or raise the pooler's limit";
const SHORTER: &str =
    "look for what holds them, such as a long transaction, or give the pooler more of them";

/// The size that a full pooler names: Supavisor's "limited to pool_size: 15".
pub(super) fn pool_size(message: &str) -> Option<u32> {
    let (_, after) = message.split_once("limited to pool_size")?;
    let digits = after.trim_start_matches([':', ' ', '=']);
    let end = digits.find(|c: char| !c.is_ascii_digit());
    digits[..end.unwrap_or(digits.len())].parse().ok()
}

impl Error {
    /// A pooler let a client in and gave it no server in time.
    pub(crate) fn no_server(limit: Duration) -> Self {
        let cause = format!("the pooler gave no server within {limit:.1?}: all of them are in use");
        Error::new(ErrorKind::TooManyConnections, cause).with_remedy(SHORTER)
    }

    /// PgBouncer refused what was to be set at start-up: nobody else says it so.
    pub(crate) fn is_settings_refused(&self) -> bool {
        self.kind() == ErrorKind::ParameterRefused
            && self
                .db_error()
                .is_some_and(|said| said.message().contains(UNSUPPORTED))
    }
}

impl Said<'_> {
    /// What PgBouncer, Supavisor, RDS Proxy and Neon's proxy say by words of their own,
    /// mostly under 08P01 and XX000.
    ///
    /// They are no interface and change from one release to the next: a text that is not
    /// known falls back to its code.
    pub(super) fn pooler(&self) -> Option<Meaning> {
        if !matches!(
            self.code,
            "08P01" | "08006" | "XX000" | "53300" | "0A000" | "28000"
        ) && !self.at_start
        {
            return None;
        }
        if let Some((_, cause, remedy)) = FULL.iter().find(|(words, ..)| self.says(words)) {
            return Some(advised(ErrorKind::TooManyConnections, cause, remedy));
        }
        let lower = self.message.to_ascii_lowercase();
        if lower.contains("tenant") && lower.contains("not found") {
            return Some(plain(
                ErrorKind::TenantNotFound,
                "the pooler knows no such tenant or user",
            ));
        }
        if self.says_any(&["no such user", "no such database"]) {
            let (kind, cause, remedy) = match self.says("no such user") {
                true => (
                    ErrorKind::RoleMissing,
                    "PgBouncer knows no such user",
                    "add it to PgBouncer's auth_file, or set auth_query",
                ),
                false => (
                    ErrorKind::DatabaseMissing,
                    "PgBouncer knows no such database",
                    "add it to the section [databases] of PgBouncer's configuration, or correct \
                     the name at the end of the URL",
                ),
            };
            return Some(advised(kind, cause, remedy));
        }
        if self.says(UNSUPPORTED) {
            let name = self.message.rsplit(": ").next().and_then(parameter);
            let cause = match name {
                Some(name) => format!("PgBouncer does not take {name} at start-up"),
                None => "PgBouncer does not take a parameter at start-up".to_owned(),
            };
            return Some(Meaning {
                kind: ErrorKind::ParameterRefused,
                cause,
                remedy: Some(
                    "set ANTIFREEZE_PATH, or `path` in code, to transaction-pooler or \
                     session-pooler, as PgBouncer's pool_mode is, take the parameter out of the \
                     URL and set it with ALTER ROLE .. SET, or add it to PgBouncer's \
                     ignore_startup_parameters",
                ),
            });
        }
        // PgBouncer 1.18 and older; what a server told the pooler stands behind "server login".
        if self.code == "08P01" && self.says("authentication failed") && !self.says("server login")
        {
            return Some(self.wrong_password(
                "the pooler does not accept this user with this password",
                "check both, reserved characters of the password percent-encoded, and what \
                 PgBouncer's auth_file or auth_query has",
            ));
        }
        if let Some(meaning) = self.neon(&lower).or_else(|| self.rds_proxy(&lower)) {
            return Some(meaning);
        }
        if self.says("connection is insecure") {
            return Some(advised(
                ErrorKind::Tls,
                "the server takes no connection without TLS",
                "set sslmode=verify-full",
            ));
        }
        if self.says_any(&[
            "server_login_retry",
            "cannot connect to server",
            "server connection crashed",
            "server conn crashed",
            "server login failed",
            "connect failed",
            "(server down)",
            "server DNS lookup failed",
            // Odyssey, pgcat, pgpool-II.
            "failed to connect to remote server",
            "AllServersDown",
            "all backend nodes are down",
            "EDBHANDLEREXITED",
            "DbHandler exited",
        ]) {
            return Some(advised(
                ErrorKind::Unreachable,
                "the pooler is there, and cannot reach the server behind it",
                "is the server running, and does the pooler have the right password for it?",
            ));
        }
        if self.says_any(&["pooler is shut down", "pgbouncer is shutting down"]) {
            return Some(plain(
                ErrorKind::ServerStopping,
                "the pooler is shutting down",
            ));
        }
        None
    }

    fn neon(&self, lower: &str) -> Option<Meaning> {
        let (cause, remedy) = match () {
            () if lower.contains("endpoint id is not specified") => (
                "Neon goes by the host name that TLS tells it (SNI), and was told none",
                "name Neon's own host in the URL, no address and no tunnel, with \
                 sslmode=verify-full and without sslsni=0; else add \
                 ?options=endpoint%3D<endpoint id>",
            ),
            () if lower.contains("requested endpoint could not be found") => (
                "Neon knows no such endpoint",
                "was the branch or its compute deleted? copy the URL from the console once more",
            ),
            () => return None,
        };
        Some(advised(ErrorKind::TenantNotFound, cause, remedy))
    }

    /// Its texts are in AWS's manual ("Troubleshooting for RDS Proxy").
    fn rds_proxy(&self, lower: &str) -> Option<Meaning> {
        if !lower.contains("rds proxy") {
            return None;
        }
        let refused = || {
            advised(
                ErrorKind::ParameterRefused,
                "RDS Proxy does not take what was asked for at start-up",
                "set ANTIFREEZE_PATH=rds-proxy, or `path` in code, take `options` out of the URL, and set \
                 parameters with ALTER ROLE .. SET",
            )
        };
        match () {
            () if lower.contains("doesn't support") => Some(refused()),
            () if lower.contains("requires tls") => Some(advised(
                ErrorKind::Tls,
                "RDS Proxy takes no connection without TLS",
                "set sslmode=verify-full",
            )),
            () if lower.contains("no credentials for the role") => Some(advised(
                ErrorKind::Authentication,
                "RDS Proxy has no credentials for this role",
                "add a secret with this user name to the proxy's authentication settings, let \
                 its IAM role read it, or correct the user of the URL",
            )),
            () => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said<'a>(code: &'a str, message: &'a str) -> Said<'a> {
        Said {
            code,
            message,
            ..Said::default()
        }
    }

    #[test]
    fn pooler_errors_are_recognised_by_message() {
        use ErrorKind as Kind;
        for (code, message, kind) in [
            (
                "XX000",
                "MaxClientsInSessionMode: max clients reached - in Session mode max clients are \
                 limited to pool_size",
                Kind::TooManyConnections,
            ),
            (
                "XX000",
                "(EMAXCONNSESSION) max clients reached in session mode",
                Kind::TooManyConnections,
            ),
            (
                "XX000",
                "Max client connections reached",
                Kind::TooManyConnections,
            ),
            ("XX000", "Tenant or user not found", Kind::TenantNotFound),
            (
                "XX000",
                "(ENOTFOUND) tenant/user postgres.abc not found",
                Kind::TenantNotFound,
            ),
            (
                "08P01",
                "no more connections allowed (max_client_conn)",
                Kind::TooManyConnections,
            ),
            ("08P01", "query_wait_timeout", Kind::TooManyConnections),
            ("08P01", "no such user: app", Kind::RoleMissing),
            ("08P01", "no such database: shop", Kind::DatabaseMissing),
            (
                "08P01",
                "unsupported startup parameter: extra_float_digits",
                Kind::ParameterRefused,
            ),
            (
                "08P01",
                "server login has been failing, try again later (server_login_retry)",
                Kind::Unreachable,
            ),
            (
                "08P01",
                "client_login_timeout (server down)",
                Kind::Unreachable,
            ),
            (
                "08P01",
                "server login failed: FATAL the database is starting",
                Kind::Unreachable,
            ),
            ("08P01", "connect failed", Kind::Unreachable),
            (
                "08P01",
                "password authentication failed for user \"app\"",
                Kind::Authentication,
            ),
            ("08P01", "SASL authentication failed", Kind::Authentication),
            (
                "XX000",
                "The requested endpoint could not be found, or you don't have access to it.",
                Kind::TenantNotFound,
            ),
            (
                "28000",
                "This RDS Proxy requires TLS connections",
                Kind::Tls,
            ),
            (
                "28000",
                "This RDS proxy has no credentials for the role app. Check the credentials for \
                 this role and try again.",
                Kind::Authentication,
            ),
            (
                "XX000",
                "RDS Proxy is in trouble of another sort",
                Kind::Database,
            ),
            (
                "0A000",
                "Feature not supported: RDS Proxy currently doesn't support command-line options.",
                Kind::ParameterRefused,
            ),
        ] {
            assert_eq!(said(code, message).meaning().kind, kind, "{code} {message}");
        }
    }

    #[test]
    fn only_a_real_parameter_is_named() {
        let refused = |message| said("08P01", message).meaning().cause;
        assert!(refused("unsupported startup parameter: search_path").contains("search_path"));
        let odd = refused("unsupported startup parameter: a b\nc");
        assert_eq!(odd, "PgBouncer does not take a parameter at start-up");
    }
}
