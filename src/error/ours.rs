//! Describes errors of antifreeze itself: invocations, leases and deadlines.

use std::fmt;
use std::time::Duration;

use super::{ENDED_MESSAGE, Error, ErrorKind};
use crate::provider;

impl Error {
    pub(crate) fn not_in_invocation() -> Self {
        Error::caused(
            ErrorKind::NotInInvocation,
            "`connection()` or `transaction()` was called outside an invocation",
        )
    }

    /// The deadline at which Lambda kills the function is not known.
    pub(crate) fn lambda_forgotten() -> Self {
        Error::configuration(
            "the deadline of requests on Lambda is not known, and statements could continue after \
             the function is killed",
        )
        .with_remedy(
            "enable the feature `lambda` of antifreeze, or set the function's timeout with \
             `DatabaseLayer::max_duration` or ANTIFREEZE_FUNCTION_TIMEOUT",
        )
    }

    pub(crate) fn invocation_ended() -> Self {
        Error::caused(ErrorKind::InvocationEnded, ENDED_MESSAGE)
    }

    pub(crate) fn lost() -> Self {
        Error::caused(ErrorKind::Closed, "the connection was lost")
    }

    pub(crate) fn pool_self_deadlock(held: usize, at: &dyn fmt::Display) -> Self {
        Error::caused(
            ErrorKind::PoolSelfDeadlock,
            format!(
                "{at} requested another connection while this invocation holds all of them \
                 (`max_connections` = {held})"
            ),
        )
    }

    pub(crate) fn acquire_timeout(after: Duration, in_use: usize, max: usize) -> Self {
        Error::caused(
            ErrorKind::AcquireTimeout,
            format!(
                "timed out after {after:.1?} waiting for a connection: {in_use} of {max} are in use by other invocations"
            ),
        )
    }

    /// Rejected without an attempt: `why` opened the circuit `open` ago, and the next attempt is
    /// due in `next`.
    pub(crate) fn shed(why: ErrorKind, open: Duration, next: Duration) -> Self {
        let why = match why {
            ErrorKind::TooManyConnections => "full",
            _ => "unreachable",
        };
        Error::caused(
            ErrorKind::LoadShed,
            format!(
                "the server has been {why} for {open:.1?}, and this invocation cannot wait for the \
                 next attempt in {next:.1?}"
            ),
        )
        .with_next_try(Some(next))
    }

    /// Rejected before the handler: the last slots are left to other clients of the server.
    pub(crate) fn all_but_full(next: Duration) -> Self {
        let cause = "nearly all connection slots of the server are in use";
        Error::caused(ErrorKind::LoadShed, cause).with_next_try(Some(next))
    }

    pub(crate) fn deadline() -> Self {
        Error::caused(
            ErrorKind::Deadline,
            "the invocation reached its deadline: its statements were cancelled and its \
             transactions rolled back",
        )
    }

    /// COMMIT failed: cause and remedy are those of a statement.
    pub(crate) fn commit_refused(error: tokio_postgres::Error) -> Self {
        let mut why = Error::from(error);
        if why.0.kind == ErrorKind::UniqueViolation {
            // ON CONFLICT does not support deferrable constraints.
            why = why.with_remedy(
                "use another value; SET CONSTRAINTS ALL IMMEDIATE makes the statement itself fail",
            );
        }
        why.0.kind = ErrorKind::TransactionFailed;
        let cause = format!(
            "COMMIT failed, and the server rolled back: {}",
            why.0.message
        );
        why.0.message = cause.into();
        why
    }

    /// A pooler accepted the client and assigned no server connection in time.
    pub(crate) fn no_server(limit: Duration) -> Self {
        let cause =
            format!("the pooler assigned no server connection within {limit:.1?}: all are in use");
        Error::new(ErrorKind::TooManyConnections, cause).with_remedy(provider::CHECK_POOL)
    }
}
