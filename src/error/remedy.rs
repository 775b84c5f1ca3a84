//! What to do about each kind of error, where nothing better is known.

use super::ErrorKind;

impl ErrorKind {
    /// What to do about it, in general.
    pub(super) fn remedy(self) -> &'static str {
        use ErrorKind as Kind;
        match self {
            Kind::Configuration => "correct the setting that is named",
            Kind::NotInInvocation => {
                "add `.layer(antifreeze::DatabaseLayer::new(database))` around the handler, or \
                 run the code inside `database.invocation(..)`; a task started with \
                 `tokio::spawn` needs a clone of the `Invocation`"
            }
            Kind::InvocationEnded => {
                "await what needs a connection before the handler returns, or start it with \
                 `Invocation::spawn`"
            }
            Kind::WouldWaitForItself => {
                "drop one first, pass it on as `&Client`, or raise `max_connections`"
            }
            Kind::AcquireTimeout => "raise `max_connections`, or shorten what holds them",
            Kind::ConnectTimeout => {
                "if the server is well, raise `connect_timeout` or the function's own time-out"
            }
            Kind::Refused => "is the server running, and are host and port right?",
            Kind::NameNotResolved => {
                "is it spelt right, and can names be resolved where the function runs?"
            }
            Kind::NetworkBlocked => {
                "let the function through: the provider's allow-list of addresses, the security \
                 group of the database, or a NAT gateway for a function inside a VPC; else the host \
                 may be down, or the address an old one, as after a failover"
            }
            Kind::Unreachable => "is the server running, and may this function reach it?",
            Kind::Tls => "check sslmode and sslrootcert against what the server has",
            Kind::Authentication => {
                "check user and password; was the password changed, or the token too old?"
            }
            Kind::RoleMissing => "create the role, or correct the user of the URL",
            Kind::DatabaseMissing => {
                "create the database, or correct the name at the end of the URL"
            }
            Kind::TenantNotFound => {
                "behind Supabase's pooler the user is `postgres.<project>`, and the host that of \
                 the project's own region: copy the URL from the dashboard once more"
            }
            Kind::TooManyConnections => {
                "lower `max_connections` or the function's concurrency, go through a transaction \
                 pooler, or raise the limit"
            }
            Kind::LoadShed => {
                "come back later; `antifreeze plan` says how many instances fit, or lower the \
                 function's concurrency"
            }
            Kind::ServerStarting => "it takes a moment: try again",
            Kind::ServerStopping => "a restart or a failover takes a moment: try again",
            Kind::ParameterRefused => {
                "say with ANTIFREEZE_PATH, or `path` in code, what lies in between, take the parameter out of the URL, and set \
                 it with ALTER ROLE .. SET"
            }
            Kind::StatementMissing => {
                "behind a transaction pooler set ANTIFREEZE_PATH=transaction-pooler, or `path` in \
                 code, and do not PREPARE or DEALLOCATE by hand"
            }
            Kind::StatementOutdated => {
                "it is prepared anew the next time; `query_cached` and `execute_cached` do so at \
                 once"
            }
            Kind::ReadOnly => {
                "connect to the primary, and begin a transaction that is not read-only"
            }
            Kind::UniqueViolation => "take another value, or say ON CONFLICT",
            Kind::ConstraintViolation => "check the values before they are stored",
            Kind::BadInput => "check the values before they are sent",
            Kind::PermissionDenied => "GRANT it to the role, or connect as another",
            Kind::SerializationFailure => {
                "run the whole transaction again, as `retry_transaction` does"
            }
            Kind::LockTimeout => "find who holds it in pg_locks, or wait for longer",
            Kind::StatementTimeout => {
                "is an index missing, or somebody's lock in the way? else raise \
                 `statement_timeout`"
            }
            Kind::Cancelled => "look for who did: a CancelToken, a deadline, or an administrator",
            Kind::Database => {
                "the SQLSTATE says what (PostgreSQL's manual, appendix A), the source the rest"
            }
            Kind::Closed => {
                "ask for another connection, and mind that the last statement may have been \
                 executed"
            }
            Kind::Deadline => "do less at a time, or raise the function's time-out",
            Kind::TransactionFailed => "see to the statement that failed first",
            Kind::TransactionInUse => "join the tasks that use it before the handler returns",
            Kind::CommitUnknown => "look whether the change is there before it is repeated",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn remedy_ends_the_line() {
        for &kind in ErrorKind::ALL {
            let remedy = kind.remedy();
            assert!(!remedy.is_empty() && !remedy.contains('\n'), "{kind}");
            assert!(!remedy.ends_with('.') && !remedy.contains("  "), "{kind}");
        }
    }
}
