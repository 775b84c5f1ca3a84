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
    /// Turned away without a try: the server was full or away when somebody last tried, and
    /// the next try comes too late for this invocation.
    LoadShed,
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
        ErrorKind::LoadShed,
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
    /// A connection that was lost, or that the server ended, is none: the last statement
    /// may have been executed. [`Error::is_retryable`](crate::Error::is_retryable) knows
    /// more of the single case.
    pub fn is_retryable(self) -> bool {
        matches!(
            self,
            ErrorKind::AcquireTimeout
                | ErrorKind::ConnectTimeout
                | ErrorKind::Refused
                | ErrorKind::TooManyConnections
                | ErrorKind::LoadShed
                | ErrorKind::ServerStarting
                | ErrorKind::StatementMissing
                | ErrorKind::StatementOutdated
                | ErrorKind::SerializationFailure
                | ErrorKind::LockTimeout
        )
    }

    /// Whether there is no database to be had at the moment, whatever is asked of it:
    /// a handler can answer from a cache, or do less.
    pub fn is_unavailable(self) -> bool {
        matches!(
            self,
            ErrorKind::AcquireTimeout
                | ErrorKind::ConnectTimeout
                | ErrorKind::Refused
                | ErrorKind::NameNotResolved
                | ErrorKind::NetworkBlocked
                | ErrorKind::Unreachable
                | ErrorKind::TooManyConnections
                | ErrorKind::LoadShed
                | ErrorKind::ServerStarting
                | ErrorKind::ServerStopping
                | ErrorKind::Closed
        )
    }

    /// What a caller over HTTP is best told: 409 for a unique violation, 422 for other
    /// constraints and bad input, 503 while there is no database to be had, 504 at the
    /// deadline, else 500.
    pub fn status(self) -> StatusCode {
        match self {
            ErrorKind::UniqueViolation => StatusCode::CONFLICT,
            ErrorKind::ConstraintViolation | ErrorKind::BadInput => {
                StatusCode::UNPROCESSABLE_ENTITY
            }
            ErrorKind::Deadline => StatusCode::GATEWAY_TIMEOUT,
            kind if kind.is_unavailable() => StatusCode::SERVICE_UNAVAILABLE,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    fn name(self) -> &'static str {
        use ErrorKind as Kind;
        match self {
            Kind::Configuration => "configuration",
            Kind::NotInInvocation => "not_in_invocation",
            Kind::InvocationEnded => "invocation_ended",
            Kind::WouldWaitForItself => "would_wait_for_itself",
            Kind::AcquireTimeout => "acquire_timeout",
            Kind::ConnectTimeout => "connect_timeout",
            Kind::Refused => "refused",
            Kind::NameNotResolved => "name_not_resolved",
            Kind::NetworkBlocked => "network_blocked",
            Kind::Unreachable => "unreachable",
            Kind::Tls => "tls",
            Kind::Authentication => "authentication",
            Kind::RoleMissing => "role_missing",
            Kind::DatabaseMissing => "database_missing",
            Kind::TenantNotFound => "tenant_not_found",
            Kind::TooManyConnections => "too_many_connections",
            Kind::LoadShed => "load_shed",
            Kind::ServerStarting => "server_starting",
            Kind::ServerStopping => "server_stopping",
            Kind::ParameterRefused => "parameter_refused",
            Kind::StatementMissing => "statement_missing",
            Kind::StatementOutdated => "statement_outdated",
            Kind::ReadOnly => "read_only",
            Kind::UniqueViolation => "unique_violation",
            Kind::ConstraintViolation => "constraint_violation",
            Kind::BadInput => "bad_input",
            Kind::PermissionDenied => "permission_denied",
            Kind::SerializationFailure => "serialization_failure",
            Kind::LockTimeout => "lock_timeout",
            Kind::StatementTimeout => "statement_timeout",
            Kind::Cancelled => "cancelled",
            Kind::Database => "database",
            Kind::Closed => "closed",
            Kind::Deadline => "deadline",
            Kind::TransactionFailed => "transaction_failed",
            Kind::TransactionInUse => "transaction_in_use",
            Kind::CommitUnknown => "commit_unknown",
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
    fn kinds_are_all_listed_with_unique_names() {
        // Whoever adds one at the end changes this line, too.
        assert_eq!(ErrorKind::ALL.len(), ErrorKind::CommitUnknown as usize + 1);
        for (at, kind) in ErrorKind::ALL.iter().enumerate() {
            assert_eq!(*kind as usize, at, "{kind}");
        }
        let names: HashSet<_> = ErrorKind::ALL.iter().map(ErrorKind::to_string).collect();
        assert_eq!(names.len(), ErrorKind::ALL.len());
    }

    #[test]
    fn kinds_have_http_statuses() {
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
}
