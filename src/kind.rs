//! Lists the kinds of errors, with their general remedies.

use std::fmt;

use http::StatusCode;

/// A property of all errors of a kind.
#[derive(PartialEq, Eq)]
enum Property {
    Retryable,
    Unavailable,
}

/// Generates [`ErrorKind`] from one table: documentation, name for logs and metrics, what holds
/// for it, and the remedy that applies unless a more specific one is known.
macro_rules! kinds {
    ($($(#[$doc:meta])* $kind:ident $name:literal $($holds:ident)* => $remedy:literal,)*) => {
        /// The kind of an [`Error`](crate::Error).
        ///
        /// `Display` prints a short name for logs and metrics: `too_many_connections`.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum ErrorKind {
            $($(#[$doc])* $kind,)*
        }

        impl ErrorKind {
            /// Every kind, for metrics that register their labels in advance.
            pub const ALL: &[ErrorKind] = &[$(ErrorKind::$kind,)*];

            fn name(self) -> &'static str {
                match self { $(ErrorKind::$kind => $name,)* }
            }

            fn is(self, holds: Property) -> bool {
                let all: &[Property] = match self { $(ErrorKind::$kind => &[$(Property::$holds),*],)* };
                all.contains(&holds)
            }

            /// Returns the general remedy.
            pub(crate) const fn remedy(self) -> &'static str {
                match self { $(ErrorKind::$kind => $remedy,)* }
            }
        }
    };
}

kinds! {
    /// A setting is missing, misspelt or contradicts another.
    Configuration "configuration" => "correct the setting named in the message",
    /// A connection was requested outside an invocation.
    NotInInvocation "not_in_invocation" =>
        "add `.layer(antifreeze::DatabaseLayer::new(database))` around the handler, or run the \
         code inside `database.invocation(..)`; a task started with `tokio::spawn` needs a clone \
         of the `Invocation`",
    /// The invocation has ended, and the connections that it leased were taken back.
    InvocationEnded "invocation_ended" =>
        "await all database work before the handler returns, or start it with `Invocation::spawn`",
    /// The invocation waits for a connection while it holds all of them itself.
    PoolSelfDeadlock "pool_self_deadlock" =>
        "drop a held connection first, pass it on as `&Client`, or raise `max_connections`",
    /// No connection became free in time.
    AcquireTimeout "acquire_timeout" Retryable Unavailable =>
        "raise `max_connections`, or release connections earlier",
    /// No connection could be opened in time.
    ConnectTimeout "connect_timeout" Retryable Unavailable =>
        "if the server is healthy, raise `connect_timeout` or the function's timeout",
    /// Nothing listens at the server's address.
    Refused "refused" Retryable Unavailable =>
        "check that the server is running and accepts connections on this host and port",
    /// The host name has no address.
    NameNotResolved "name_not_resolved" Unavailable =>
        "check the spelling of the host, and that DNS works where the function runs",
    /// No packet was answered: a firewall drops them, or the host is down.
    NetworkBlocked "network_blocked" Unavailable =>
        "check the provider's IP allowlist, the security group of the database and, for a \
         function in a VPC, the NAT gateway; the host may also be down, or its address outdated \
         after a failover",
    /// The server could not be reached for another reason.
    Unreachable "unreachable" Unavailable =>
        "check that the server is running and that the function can reach it",
    /// TLS is required and not available, or its handshake failed.
    Tls "tls" => "check sslmode and sslrootcert, and the TLS settings of the server",
    /// The server rejected the user or the password.
    Authentication "authentication" =>
        "check user and password, and that the password was not changed and the token has not \
         expired",
    /// The role to connect as does not exist.
    RoleMissing "role_missing" => "create the role, or correct the user in the URL",
    /// The database to connect to does not exist.
    DatabaseMissing "database_missing" =>
        "create the database, or correct the name at the end of the URL",
    /// The pooler does not know the tenant, project or endpoint.
    TenantNotFound "tenant_not_found" => "copy the URL from the provider's dashboard again",
    /// The server, the role, the database or the pooler has no connection slot left.
    TooManyConnections "too_many_connections" Retryable Unavailable =>
        "lower antifreeze's `max_connections` or the function's concurrency, use a transaction \
         pooler, or raise the server's limit",
    /// The invocation was rejected without an attempt to connect: the server was full or
    /// unreachable at the last attempt, and the next one comes too late for this invocation.
    LoadShed "load_shed" Retryable Unavailable =>
        "retry later; lower the function's concurrency (`antifreeze plan` shows how many instances \
         fit)",
    /// The server is starting or recovering.
    ServerStarting "server_starting" Retryable Unavailable => "retry in a moment",
    /// The server is shutting down, or was restarted.
    ServerStopping "server_stopping" Unavailable =>
        "retry in a moment: a restart or a failover takes a while",
    /// The server or a pooler rejected a setting at startup.
    ParameterRefused "parameter_refused" =>
        "set ANTIFREEZE_POOLER, or `pooler` in code, to the kind of pooler, remove the parameter \
         from the URL, and set it with ALTER ROLE .. SET",
    /// A prepared statement does not exist on the server, or exists already, as happens behind
    /// a pooler that does not track prepared statements.
    StatementMissing "statement_missing" Retryable =>
        "behind a transaction pooler set ANTIFREEZE_POOLER=transaction, or `pooler` in code, and \
         do not PREPARE or DEALLOCATE by hand",
    /// A statement was prepared for a schema that has changed since.
    StatementOutdated "statement_outdated" Retryable =>
        "prepare the statement again and retry; `query_cached` and `execute_cached` do both",
    /// The transaction or the server is read-only.
    ReadOnly "read_only" => "connect to the primary, and begin a read-write transaction",
    /// A value violates a unique constraint (SQLSTATE 23505).
    UniqueViolation "unique_violation" => "use another value, or INSERT .. ON CONFLICT",
    /// A value violates another constraint (class 23).
    ConstraintViolation "constraint_violation" => "check the values before they are stored",
    /// A value has the wrong form or is out of range (class 22).
    DataException "data_exception" => "check the values before they are sent",
    /// The role lacks a privilege (42501).
    PermissionDenied "permission_denied" =>
        "GRANT the privilege to the role, or connect as another role",
    /// The transaction was aborted in favour of another: a serialization failure or a deadlock
    /// (40001, 40P01, OC000, OC001).
    SerializationFailure "serialization_failure" Retryable =>
        "retry the whole transaction, as `retry_transaction` does",
    /// A lock could not be obtained in time (55P03).
    LockTimeout "lock_timeout" Retryable =>
        "find the blocking session with pg_blocking_pids() or pg_locks, or raise lock_timeout",
    /// The server's `statement_timeout` ended the statement.
    StatementTimeout "statement_timeout" =>
        "check for a missing index or a lock held by another session, or raise statement_timeout",
    /// The statement was cancelled on request.
    Cancelled "cancelled" =>
        "check for a CancelToken, a deadline, or pg_cancel_backend() by an administrator",
    /// The server reported another error, or its answer was unexpected.
    Database "database" =>
        "look up the SQLSTATE in the PostgreSQL manual, appendix A; `source()` has the server's \
         message",
    /// The connection was lost.
    Closed "closed" Unavailable =>
        "get a new connection, and check whether the last statement was executed before repeating \
         it",
    /// The invocation reached its deadline.
    Deadline "deadline" => "do less work per invocation, or raise the function's timeout",
    /// A statement of the transaction failed: it was, or has to be, rolled back.
    TransactionFailed "transaction_failed" =>
        "handle the error of the statement that failed first",
    /// The transaction was still in use when it was to be committed, and was rolled back.
    TransactionInUse "transaction_in_use" =>
        "await the tasks that use it before the handler returns",
    /// The connection was lost during COMMIT: it is unknown whether the server committed. Do
    /// not repeat the transaction blindly.
    CommitUnknown "commit_unknown" =>
        "check whether the change is stored before repeating it",
}

impl ErrorKind {
    /// Returns whether the same work may succeed if it is repeated from its beginning, and
    /// nothing of it has been executed so far.
    ///
    /// False after a lost or terminated connection: the last statement may have been executed.
    /// [`Error::is_retryable`](crate::Error::is_retryable) also considers the SQLSTATE.
    pub fn is_retryable(self) -> bool {
        self.is(Property::Retryable)
    }

    /// Returns whether the database is unavailable at the moment for any request: a handler
    /// can answer from a cache, or do less.
    pub fn is_unavailable(self) -> bool {
        self.is(Property::Unavailable)
    }

    /// Returns the HTTP status to answer with: 409 for a unique violation, 422 for other
    /// constraints and data exceptions, 503 while the database is unavailable, 504 at the
    /// deadline, else 500.
    pub fn status(self) -> StatusCode {
        match self {
            ErrorKind::UniqueViolation => StatusCode::CONFLICT,
            ErrorKind::ConstraintViolation | ErrorKind::DataException => {
                StatusCode::UNPROCESSABLE_ENTITY
            }
            ErrorKind::Deadline => StatusCode::GATEWAY_TIMEOUT,
            kind if kind.is_unavailable() => StatusCode::SERVICE_UNAVAILABLE,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn kinds_have_unique_names() {
        let names: HashSet<_> = ErrorKind::ALL.iter().map(ErrorKind::to_string).collect();
        assert_eq!(names.len(), ErrorKind::ALL.len());
    }

    #[test]
    fn kinds_have_http_statuses() {
        for (kind, status) in [
            (ErrorKind::UniqueViolation, 409),
            (ErrorKind::ConstraintViolation, 422),
            (ErrorKind::DataException, 422),
            (ErrorKind::TooManyConnections, 503),
            (ErrorKind::Closed, 503),
            (ErrorKind::Deadline, 504),
            (ErrorKind::Authentication, 500),
            (ErrorKind::CommitUnknown, 500),
        ] {
            assert_eq!(kind.status(), status, "{kind}");
            assert_eq!(kind.is_unavailable(), status == 503, "{kind}");
        }
    }

    #[test]
    fn uncertain_failures_are_not_retryable() {
        for kind in [
            ErrorKind::Closed,
            ErrorKind::ServerStopping,
            ErrorKind::CommitUnknown,
            ErrorKind::Deadline,
            ErrorKind::Cancelled,
        ] {
            assert!(!kind.is_retryable(), "{kind}");
        }
    }

    #[test]
    fn remedies_end_a_single_line() {
        for &kind in ErrorKind::ALL {
            let remedy = kind.remedy();
            assert!(!remedy.is_empty() && !remedy.contains('\n'), "{kind}");
            assert!(!remedy.ends_with('.') && !remedy.contains("  "), "{kind}");
        }
    }
}
