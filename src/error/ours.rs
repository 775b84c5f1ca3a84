//! Errors of antifreeze itself: invocations, leases and deadlines.

use std::fmt;
use std::time::Duration;

use super::{Error, ErrorKind};
use crate::provider;

impl Error {
    pub(crate) fn not_in_invocation() -> Self {
        Error::caused(
            ErrorKind::NotInInvocation,
            "`connection()` or `transaction()` was called outside an invocation",
        )
    }

    /// The deadline at which Lambda kills a call is not read.
    pub(crate) fn lambda_forgotten() -> Self {
        Error::configuration(
            "on Lambda, and the deadline of a request is not read, so that a statement could go \
             on after the function was killed; enable the feature `lambda` of antifreeze, or give \
             the function's timeout to `DatabaseLayer::max_duration` or \
             ANTIFREEZE_FUNCTION_TIMEOUT",
        )
    }

    pub(crate) fn invocation_ended() -> Self {
        Error::caused(
            ErrorKind::InvocationEnded,
            "the invocation that leased this connection has ended",
        )
    }

    pub(crate) fn pool_self_deadlock(held: usize, at: &dyn fmt::Display) -> Self {
        Error::caused(
            ErrorKind::PoolSelfDeadlock,
            format!(
                "{at} requested another connection while this invocation holds all {held} of `max_connections`"
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

    /// Turned away: `why` has opened the circuit so long ago, and the next try comes in
    /// `next`.
    pub(crate) fn shed(why: ErrorKind, open: Duration, next: Duration) -> Self {
        let why = match why {
            ErrorKind::TooManyConnections => "the server is full",
            _ => "the server cannot be reached",
        };
        Error::caused(
            ErrorKind::LoadShed,
            format!(
                "{why}, and has been for {open:.1?}: the next try is due in {next:.1?}, which this \
                 invocation cannot wait for"
            ),
        )
        .with_retry_after(next)
    }

    /// Turned away at the door: a connection might still be had, and others need it more.
    pub(crate) fn all_but_full(next: Duration) -> Self {
        let cause = "nearly all connection slots of the server are in use";
        Error::caused(ErrorKind::LoadShed, cause).with_retry_after(next)
    }

    pub(crate) fn deadline() -> Self {
        Error::caused(
            ErrorKind::Deadline,
            "the invocation reached its deadline, so its statements were cancelled and its \
             transactions rolled back",
        )
    }

    /// The server refused to commit: why, and what to do, is said as of a statement.
    pub(crate) fn commit_refused(error: tokio_postgres::Error) -> Self {
        let mut why = Error::from(error);
        if why.0.kind == ErrorKind::UniqueViolation {
            // ON CONFLICT does not look at constraints that are deferred.
            let remedy = "take another value (SET CONSTRAINTS ALL IMMEDIATE lets the statement \
                          itself fail)";
            why = why.with_remedy(remedy);
        }
        why.0.kind = ErrorKind::TransactionFailed;
        why.0.message = format!(
            "the server refused to commit, and rolled the transaction back: {}",
            why.0.message
        )
        .into();
        why
    }

    /// A pooler let a client in and gave it no server in time.
    pub(crate) fn no_server(limit: Duration) -> Self {
        let cause = format!("the pooler gave no server within {limit:.1?}: all of them are in use");
        Error::new(ErrorKind::TooManyConnections, cause).with_remedy(provider::SHORTER)
    }
}
