//! `ErrorKind`: the kinds of errors, with their general remedies.

use std::fmt;

use http::StatusCode;

/// Makes [`ErrorKind`] of one table: for each kind what it is, its name for logs and metrics,
/// and what to do about it where nothing better is known.
macro_rules! kinds {
    ($($(#[$doc:meta])* $kind:ident $name:literal => $remedy:literal,)*) => {
        /// What kind of thing went wrong.
        ///
        /// It prints as a short name for logs and metrics: `too_many_connections`.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum ErrorKind {
            $($(#[$doc])* $kind,)*
        }

        impl ErrorKind {
            /// Every kind that there is at present, for metrics that want to know their
            /// labels beforehand.
            pub const ALL: &[ErrorKind] = &[$(ErrorKind::$kind,)*];

            fn name(self) -> &'static str {
                match self {
                    $(ErrorKind::$kind => $name,)*
                }
            }

            /// What to do about it, in general.
            pub(crate) const fn remedy(self) -> &'static str {
                match self {
                    $(ErrorKind::$kind => $remedy,)*
                }
            }
        }
    };
}

kinds! {
    /// A setting is missing, misspelt or contradicts another.
    Configuration "configuration"
        => "correct the setting that is named",
    /// A connection was asked for outside any invocation.
    NotInInvocation "not_in_invocation"
        => "add `.layer(antifreeze::DatabaseLayer::new(database))` around the handler, or run \
            the code inside `database.invocation(..)`; a task started with `tokio::spawn` needs \
            a clone of the `Invocation`",
    /// The invocation has ended; what it leased is gone.
    InvocationEnded "invocation_ended"
        => "await what needs a connection before the handler returns, or start it with \
            `Invocation::spawn`",
    /// The invocation holds every connection that it could wait for.
    PoolSelfDeadlock "pool_self_deadlock"
        => "drop one first, pass it on as `&Client`, or raise `max_connections`",
    /// No connection became free in time.
    AcquireTimeout "acquire_timeout"
        => "raise `max_connections`, or release connections earlier",
    /// No connection could be made in time.
    ConnectTimeout "connect_timeout"
        => "if the server is healthy, raise `connect_timeout` or the function's timeout",
    /// Nothing listens at the server's address.
    Refused "refused"
        => "check that the server is running, and the host and port",
    /// The host's name has no address.
    NameNotResolved "name_not_resolved"
        => "check the spelling, and that DNS works where the function runs",
    /// No answer at all: a firewall drops the packets.
    NetworkBlocked "network_blocked"
        => "check the provider's IP allow-list, the security group of the database, and the NAT gateway of a function inside a VPC; otherwise the host may be down, or the address outdated after a failover",
    /// The server could not be reached, for another reason.
    Unreachable "unreachable"
        => "check that the server is running and that the function can reach it",
    /// TLS is needed and missing, or its handshake failed.
    Tls "tls"
        => "check sslmode and sslrootcert against what the server has",
    /// The server did not accept the user or the password.
    Authentication "authentication"
        => "check the user and the password, and whether the password was changed or the token has expired",
    /// The role to connect as does not exist.
    RoleMissing "role_missing"
        => "create the role, or correct the user of the URL",
    /// The database to connect to does not exist.
    DatabaseMissing "database_missing"
        => "create the database, or correct the name at the end of the URL",
    /// A pooler does not know whose database is meant.
    TenantNotFound "tenant_not_found"
        => "copy the URL from the provider's dashboard again",
    /// The server, the role, the database or the pooler has no slot left.
    TooManyConnections "too_many_connections"
        => "lower `max_connections` or the function's concurrency, go through a transaction \
            pooler, or raise the limit",
    /// Turned away without a try: the server was full or unreachable at the last try, and
    /// the next try comes too late for this invocation.
    LoadShed "load_shed"
        => "retry later; lower the function's concurrency (`antifreeze plan` shows how many instances fit)",
    /// The server is starting, or recovering.
    ServerStarting "server_starting"
        => "retry in a moment",
    /// The server is shutting down, or was restarted.
    ServerStopping "server_stopping"
        => "retry in a moment: a restart or a failover takes a while",
    /// A setting at start-up was refused, as poolers do.
    ParameterRefused "parameter_refused"
        => "set ANTIFREEZE_POOLER, or `pooler` in code, to the kind of the pooler, remove the parameter from the URL, and set it with ALTER ROLE .. SET",
    /// A prepared statement is not on the server's side, or is there already: what
    /// happens behind a pooler that does not follow them.
    StatementMissing "statement_missing"
        => "behind a transaction pooler set ANTIFREEZE_POOLER=transaction, or `pooler` in \
            code, and do not PREPARE or DEALLOCATE by hand",
    /// A prepared statement was made for a schema that has changed since.
    StatementOutdated "statement_outdated"
        => "it is prepared again the next time; `query_cached` and `execute_cached` do so at once",
    /// The transaction or the server is read-only.
    ReadOnly "read_only"
        => "connect to the primary, and begin a transaction that is not read-only",
    /// A value is there already that may be there once (SQLSTATE 23505).
    UniqueViolation "unique_violation"
        => "use another value, or ON CONFLICT",
    /// Another constraint was violated (class 23).
    ConstraintViolation "constraint_violation"
        => "check the values before they are stored",
    /// A value is not of the form or in the range that it must be (class 22).
    DataException "data_exception"
        => "check the values before they are sent",
    /// The role may not do this (42501).
    PermissionDenied "permission_denied"
        => "GRANT it to the role, or connect as another",
    /// The transaction met another and gave way: a serialization failure or a
    /// deadlock (40001, 40P01, OC000, OC001).
    SerializationFailure "serialization_failure"
        => "run the whole transaction again, as `retry_transaction` does",
    /// A lock was not to be had in time (55P03).
    LockTimeout "lock_timeout"
        => "find the holder in pg_locks, or raise lock_timeout",
    /// The server's `statement_timeout` ended the statement.
    StatementTimeout "statement_timeout"
        => "check for a missing index or a lock of another session, or raise `statement_timeout`",
    /// The statement was cancelled on request.
    Cancelled "cancelled"
        => "check for a CancelToken, a deadline, or an administrator",
    /// The server reported another error, or its answer was not as expected.
    Database "database"
        => "see the SQLSTATE (PostgreSQL manual, appendix A) and the source of the error",
    /// The connection was lost.
    Closed "closed"
        => "get a new connection; the last statement may have been executed",
    /// The invocation reached its deadline.
    Deadline "deadline"
        => "do less at a time, or raise the function's timeout",
    /// The transaction had failed: it was, or is to be, rolled back.
    TransactionFailed "transaction_failed"
        => "handle the error of the statement that failed first",
    /// The transaction was still in use when it was to be committed: it was
    /// rolled back.
    TransactionInUse "transaction_in_use"
        => "join the tasks that use it before the handler returns",
    /// The connection was lost during COMMIT: whether the server committed is not
    /// known. Never to be repeated blindly.
    CommitUnknown "commit_unknown"
        => "check whether the change is stored before repeating it",
}

impl ErrorKind {
    /// Whether the same work, done again from its beginning, may succeed without
    /// any change, and nothing of it has been done so far.
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
    fn kinds_have_names_of_their_own() {
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
    fn a_remedy_is_the_end_of_one_line() {
        for &kind in ErrorKind::ALL {
            let remedy = kind.remedy();
            assert!(!remedy.is_empty() && !remedy.contains('\n'), "{kind}");
            assert!(!remedy.ends_with('.') && !remedy.contains("  "), "{kind}");
        }
    }
}
