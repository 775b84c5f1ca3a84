//! What kinds of errors there are, and what a caller can make of each.

use std::fmt;

use http::StatusCode;

/// What kind of thing went wrong.
///
/// It prints as a short name for logs and metrics: `too_many_connections`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// A setting is missing, misspelt or contradicts another.
    Configuration,
    /// A connection was asked for outside any invocation.
    NotInInvocation,
    /// The invocation has ended; what it leased is gone.
    InvocationEnded,
    /// The invocation holds every connection that it could wait for.
    WouldWaitForItself,
    /// No connection became free in time.
    AcquireTimeout,
    /// No connection could be made in time.
    ConnectTimeout,
    /// Nothing listens at the server's address.
    Refused,
    /// The host's name has no address.
    NameNotResolved,
    /// Nobody answered at all: something in between drops the packets.
    NetworkBlocked,
    /// The server could not be reached, for another reason.
    Unreachable,
    /// TLS is needed and missing, or its handshake failed.
    Tls,
    /// The server did not accept who we are.
    Authentication,
    /// The role to connect as does not exist.
    RoleMissing,
    /// The database to connect to does not exist.
    DatabaseMissing,
    /// A pooler does not know whose database is meant.
    TenantNotFound,
    /// The server, the role, the database or the pooler has no slot left.
    TooManyConnections,
    /// The server is starting, or recovering.
    ServerStarting,
    /// The server is shutting down, or was restarted.
    ServerStopping,
    /// A setting at start-up was refused, as poolers do.
    ParameterRefused,
    /// A prepared statement is not on the server's side, or is there already: what
    /// happens behind a pooler that does not follow them.
    StatementMissing,
    /// A prepared statement was made for a schema that has changed since.
    StatementOutdated,
    /// The transaction or the server is read-only.
    ReadOnly,
    /// A value is there already that may be there once (SQLSTATE 23505).
    UniqueViolation,
    /// Another constraint was violated (class 23).
    ConstraintViolation,
    /// A value is not of the form or in the range that it must be (class 22).
    BadInput,
    /// The role may not do this (42501).
    PermissionDenied,
    /// The transaction met another and gave way: a serialization failure or a
    /// deadlock (40001, 40P01, OC000, OC001).
    SerializationFailure,
    /// A lock was not to be had in time (55P03).
    LockTimeout,
    /// The server's `statement_timeout` ended the statement.
    StatementTimeout,
    /// The statement was cancelled on request.
    Cancelled,
    /// The server reported another error, or its answer was not as expected.
    Database,
    /// The connection was lost.
    Closed,
    /// The invocation reached its deadline.
    Deadline,
    /// The transaction had failed: it was, or is to be, rolled back.
    TransactionFailed,
    /// The transaction was still in use when it was to be committed: it was
    /// rolled back.
    TransactionInUse,
    /// The connection was lost during COMMIT: whether the server committed is not
    /// known. Never to be repeated blindly.
    CommitUnknown,
}

/// What follows from a kind.
struct Facts {
    name: &'static str,
    remedy: &'static str,
    status: StatusCode,
}

impl ErrorKind {
    /// Every kind that there is at present, for metrics that want to know their labels
    /// beforehand.
    pub const ALL: &[ErrorKind] = &[
        ErrorKind::Configuration,
        ErrorKind::NotInInvocation,
        ErrorKind::InvocationEnded,
        ErrorKind::WouldWaitForItself,
        ErrorKind::AcquireTimeout,
        ErrorKind::ConnectTimeout,
        ErrorKind::Refused,
        ErrorKind::NameNotResolved,
        ErrorKind::NetworkBlocked,
        ErrorKind::Unreachable,
        ErrorKind::Tls,
        ErrorKind::Authentication,
        ErrorKind::RoleMissing,
        ErrorKind::DatabaseMissing,
        ErrorKind::TenantNotFound,
        ErrorKind::TooManyConnections,
        ErrorKind::ServerStarting,
        ErrorKind::ServerStopping,
        ErrorKind::ParameterRefused,
        ErrorKind::StatementMissing,
        ErrorKind::StatementOutdated,
        ErrorKind::ReadOnly,
        ErrorKind::UniqueViolation,
        ErrorKind::ConstraintViolation,
        ErrorKind::BadInput,
        ErrorKind::PermissionDenied,
        ErrorKind::SerializationFailure,
        ErrorKind::LockTimeout,
        ErrorKind::StatementTimeout,
        ErrorKind::Cancelled,
        ErrorKind::Database,
        ErrorKind::Closed,
        ErrorKind::Deadline,
        ErrorKind::TransactionFailed,
        ErrorKind::TransactionInUse,
        ErrorKind::CommitUnknown,
    ];

    /// Whether the same work, done again from its beginning, may succeed without
    /// anybody changing anything, and nothing of it has been done so far.
    ///
    /// A connection that was lost is none: the last statement may have been executed.
    pub fn is_retryable(self) -> bool {
        matches!(
            self,
            ErrorKind::AcquireTimeout
                | ErrorKind::ConnectTimeout
                | ErrorKind::Refused
                | ErrorKind::TooManyConnections
                | ErrorKind::ServerStarting
                | ErrorKind::ServerStopping
                | ErrorKind::StatementMissing
                | ErrorKind::StatementOutdated
                | ErrorKind::SerializationFailure
                | ErrorKind::LockTimeout
        )
    }

    /// Whether there is no database to be had at the moment, whatever is asked of it:
    /// a handler can answer from a cache, or do less.
    pub fn is_unavailable(self) -> bool {
        self.facts().status == StatusCode::SERVICE_UNAVAILABLE
    }

    /// What a caller over HTTP is best told: 409 for a unique violation, 422 for other
    /// constraints and bad input, 503 while there is no database to be had, 504 at the
    /// deadline, else 500.
    pub fn status(self) -> StatusCode {
        self.facts().status
    }

    /// What to do about it, in general.
    pub(super) fn remedy(self) -> &'static str {
        self.facts().remedy
    }

    fn facts(self) -> Facts {
        use ErrorKind as Kind;
        const BUG: StatusCode = StatusCode::INTERNAL_SERVER_ERROR;
        const DOWN: StatusCode = StatusCode::SERVICE_UNAVAILABLE;
        let (name, status, remedy) = match self {
            Kind::Configuration => ("configuration", BUG, "correct the setting that is named"),
            Kind::NotInInvocation => (
                "not_in_invocation",
                BUG,
                "add `.layer(antifreeze::DatabaseLayer::new(database))` around the handler, or \
                 run the code inside `database.invocation(..)`; a task started with \
                 `tokio::spawn` needs a clone of the `Invocation`",
            ),
            Kind::InvocationEnded => (
                "invocation_ended",
                BUG,
                "await what needs a connection before the handler returns, or start it with \
                 `Invocation::spawn`",
            ),
            Kind::WouldWaitForItself => (
                "would_wait_for_itself",
                BUG,
                "drop one first, pass it on as `&Client`, or raise `max_connections`",
            ),
            Kind::AcquireTimeout => (
                "acquire_timeout",
                DOWN,
                "raise `max_connections`, or shorten what holds them",
            ),
            Kind::ConnectTimeout => (
                "connect_timeout",
                DOWN,
                "if the server is well, raise `connect_timeout` or the function's own time-out",
            ),
            Kind::Refused => (
                "refused",
                DOWN,
                "is the server running, and are host and port right?",
            ),
            Kind::NameNotResolved => (
                "name_not_resolved",
                DOWN,
                "is it spelt right, and can names be resolved where the function runs?",
            ),
            Kind::NetworkBlocked => (
                "network_blocked",
                DOWN,
                "let the function through: the provider's allow-list of addresses, the security \
                 group of the database, or a NAT gateway for a function inside a VPC",
            ),
            Kind::Unreachable => (
                "unreachable",
                DOWN,
                "is the server running, and may this function reach it?",
            ),
            Kind::Tls => (
                "tls",
                BUG,
                "check sslmode and sslrootcert against what the server has",
            ),
            Kind::Authentication => (
                "authentication",
                BUG,
                "check user and password; was the password changed, or the token too old?",
            ),
            Kind::RoleMissing => (
                "role_missing",
                BUG,
                "create the role, or correct the user of the URL",
            ),
            Kind::DatabaseMissing => (
                "database_missing",
                BUG,
                "create the database, or correct the name at the end of the URL",
            ),
            Kind::TenantNotFound => (
                "tenant_not_found",
                BUG,
                "behind Supabase's pooler the user is `postgres.<project>`, and the host that of \
                 the project's own region: copy the URL from the dashboard once more",
            ),
            Kind::TooManyConnections => (
                "too_many_connections",
                DOWN,
                "lower `max_connections` or the function's concurrency, go through a transaction \
                 pooler, or raise the limit",
            ),
            Kind::ServerStarting => ("server_starting", DOWN, "it takes a moment: try again"),
            Kind::ServerStopping => (
                "server_stopping",
                DOWN,
                "a restart or a failover takes a moment: try again",
            ),
            Kind::ParameterRefused => (
                "parameter_refused",
                BUG,
                "set `path` to what lies in between, take the parameter out of the URL, and set \
                 it with ALTER ROLE .. SET",
            ),
            Kind::StatementMissing => (
                "statement_missing",
                BUG,
                "behind a transaction pooler set `path` to `Path::TransactionPooler`, and do not \
                 PREPARE or DEALLOCATE by hand",
            ),
            Kind::StatementOutdated => (
                "statement_outdated",
                BUG,
                "it is prepared anew the next time; `query_cached` and `execute_cached` do so at \
                 once",
            ),
            Kind::ReadOnly => (
                "read_only",
                BUG,
                "connect to the primary, and begin a transaction that is not read-only",
            ),
            Kind::UniqueViolation => (
                "unique_violation",
                StatusCode::CONFLICT,
                "take another value, or say ON CONFLICT",
            ),
            Kind::ConstraintViolation => (
                "constraint_violation",
                StatusCode::UNPROCESSABLE_ENTITY,
                "check the values before they are stored",
            ),
            Kind::BadInput => (
                "bad_input",
                StatusCode::UNPROCESSABLE_ENTITY,
                "check the values before they are sent",
            ),
            Kind::PermissionDenied => (
                "permission_denied",
                BUG,
                "GRANT it to the role, or connect as another",
            ),
            Kind::SerializationFailure => (
                "serialization_failure",
                BUG,
                "run the whole transaction again, as `retry_transaction` does",
            ),
            Kind::LockTimeout => (
                "lock_timeout",
                BUG,
                "find who holds it in pg_locks, or wait for longer",
            ),
            Kind::StatementTimeout => (
                "statement_timeout",
                BUG,
                "is an index missing, or somebody's lock in the way? else raise \
                 `statement_timeout`",
            ),
            Kind::Cancelled => (
                "cancelled",
                BUG,
                "look for who did: a CancelToken, a deadline, or an administrator",
            ),
            Kind::Database => (
                "database",
                BUG,
                "the SQLSTATE says what (PostgreSQL's manual, appendix A), the source the rest",
            ),
            Kind::Closed => (
                "closed",
                DOWN,
                "ask for another connection, and mind that the last statement may have been \
                 executed",
            ),
            Kind::Deadline => (
                "deadline",
                StatusCode::GATEWAY_TIMEOUT,
                "do less at a time, or raise the function's time-out",
            ),
            Kind::TransactionFailed => (
                "transaction_failed",
                BUG,
                "see to the statement that failed first",
            ),
            Kind::TransactionInUse => (
                "transaction_in_use",
                BUG,
                "join the tasks that use it before the handler returns",
            ),
            Kind::CommitUnknown => (
                "commit_unknown",
                BUG,
                "look whether the change is there before it is repeated",
            ),
        };
        Facts {
            name,
            remedy,
            status,
        }
    }
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.facts().name)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn all_kinds_are_listed_and_have_a_name_of_their_own() {
        // Whoever adds one at the end changes this line, too.
        assert_eq!(ErrorKind::ALL.len(), ErrorKind::CommitUnknown as usize + 1);
        for (at, kind) in ErrorKind::ALL.iter().enumerate() {
            assert_eq!(*kind as usize, at, "{kind}");
        }
        let names: HashSet<_> = ErrorKind::ALL.iter().map(ErrorKind::to_string).collect();
        assert_eq!(names.len(), ErrorKind::ALL.len());
    }

    #[test]
    fn statuses() {
        for (kind, status) in [
            (ErrorKind::UniqueViolation, 409),
            (ErrorKind::ConstraintViolation, 422),
            (ErrorKind::BadInput, 422),
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
    fn what_may_have_been_done_is_not_to_be_repeated() {
        for kind in [
            ErrorKind::Closed,
            ErrorKind::CommitUnknown,
            ErrorKind::Deadline,
            ErrorKind::Cancelled,
        ] {
            assert!(!kind.is_retryable(), "{kind}");
        }
    }
}
