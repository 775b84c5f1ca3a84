//! Writes every `tracing` event.
//!
//! Events contain no SQL, no values and no messages of the server, which may quote values.

use std::error::Error as _;
use std::fmt::{Debug, Display, Write as _};
use std::io::Write as _;
use std::time::Duration;

use tokio_postgres::error::DbError;
use tracing::Level;
use tracing::field::{debug, display};
use tracing::subscriber::NoSubscriber;

use crate::error::{Error, ErrorKind};

/// The target of every event.
const TARGET: &str = "antifreeze";

/// Writes an event that must not be lost: without a subscriber it is a line on stderr, which
/// every host stores.
macro_rules! loud {
    ($level:ident, [$($field:ident),*], $message:literal) => {{
        tracing::event!(target: TARGET, Level::$level, $($field,)* $message);
        if !has_subscriber() {
            let fields: &[(&str, &dyn Debug)] = &[$((stringify!($field), &$field)),*];
            // A failure to log is not an error.
            let _ = writeln!(std::io::stderr(), "{}", line(Level::$level, $message, fields));
        }
    }};
}

/// Returns whether the current task has a subscriber, even one that filters the events out.
fn has_subscriber() -> bool {
    tracing::dispatcher::has_been_set()
        && !tracing::dispatcher::get_default(|current| current.is::<NoSubscriber>())
}

/// Formats an event as a subscriber would: without `None`, and `Some` as its content.
fn line(level: Level, message: &str, fields: &[(&str, &dyn Debug)]) -> String {
    let mut line = format!("{level} {TARGET}: {message}");
    for (name, value) in fields {
        let value = format!("{value:?}");
        let some = value
            .strip_prefix("Some(")
            .and_then(|value| value.strip_suffix(')'));
        if value != "None" {
            let _ = write!(line, " {name}={}", some.unwrap_or(&value));
        }
    }
    line
}

/// The settings of a new database, and the variables that override the code.
pub(crate) fn configured(pooler: &'static str, max_connections: usize, variables: &str) {
    if variables.is_empty() {
        tracing::debug!(target: TARGET, pooler, max_connections, "configured");
    } else {
        tracing::info!(target: TARGET, pooler, max_connections, variables, "configured");
    }
}

/// A panic would abort the process, without teardown.
pub(crate) fn aborts() {
    loud!(
        WARN,
        [],
        "built with panic = \"abort\": a panic leaves transactions open; set panic = \"unwind\" in \
         [profile.release] of Cargo.toml (cargo-lambda's default is abort)"
    );
}

/// A variable begins with `ANTIFREEZE_`, and is not known.
pub(crate) fn unknown_variable(name: &str) {
    loud!(
        WARN,
        [name],
        "unknown environment variable ignored; check its spelling"
    );
}

/// A variable has no effect.
pub(crate) fn without_effect(variables: &str, why: &str) {
    loud!(
        WARN,
        [variables, why],
        "an environment variable has no effect"
    );
}

/// Behind this pooler only `ALTER ROLE` sets the server timeouts.
pub(crate) fn server_timeouts_elsewhere(pooler: &'static str, run: &str) {
    tracing::info!(
        target: TARGET,
        pooler,
        run,
        "the pooler does not support server timeouts at startup; set them for the role"
    );
}

/// The server rejected the server timeouts.
pub(crate) fn server_timeouts_refused(error: &DbError, run: &str) {
    let sqlstate = error.code().code();
    loud!(
        WARN,
        [sqlstate, run],
        "the server rejected the server timeouts; set them for the role"
    );
}

/// The server sent a notice.
pub(crate) fn notice(notice: &DbError) {
    tracing::debug!(
        target: TARGET,
        severity = notice.severity(),
        sqlstate = notice.code().code(),
        "notice from the server"
    );
}

/// A connection was closed or failed.
pub(crate) fn connection_lost(error: &tokio_postgres::Error) {
    let (sqlstate, closed) = (error.code().map(|code| code.code()), error.is_closed());
    tracing::debug!(target: TARGET, sqlstate, closed, "connection lost");
}

/// The server's bytes cannot be parsed.
pub(crate) fn framing_lost() {
    loud!(
        WARN,
        [],
        "the server's answer violates PostgreSQL's protocol, and the connection was closed; check \
         the proxies in between"
    );
}

/// The server terminated a session with an error.
pub(crate) fn dismissed(sqlstate: Option<[u8; 5]>) {
    let sqlstate = sqlstate.and_then(|code| String::from_utf8(code.to_vec()).ok());
    tracing::debug!(target: TARGET, sqlstate, "the server terminated a connection");
}

/// A connection was opened.
pub(crate) fn connected(process: i32, elapsed: Duration) {
    tracing::debug!(target: TARGET, process, ?elapsed, "connected");
}

/// A connection is encrypted, and the server was not verified.
pub(crate) fn unverified(host: &str) {
    loud!(
        WARN,
        [host],
        "sslmode=require encrypts without verifying the server; set sslmode=verify-full, and \
         sslrootcert if its authority is a private one"
    );
}

/// The session revealed another pooler than the address.
pub(crate) fn path_differs(expected: &'static str, found: &'static str) {
    loud!(
        WARN,
        [expected, found],
        "an unconfigured pooler was detected; set ANTIFREEZE_POOLER, or `pooler` in code, to \
         transaction or session, and set the server timeouts with ALTER ROLE .. SET, since poolers \
         do not support them at startup"
    );
}

/// Connecting failed, and is retried.
pub(crate) fn connecting_again(error: &Error, delay: Duration) {
    let kind = error.kind();
    let sqlstate = error.sqlstate().map(|state| state.code());
    tracing::debug!(target: TARGET, %kind, sqlstate, ?delay, "connecting failed; retrying");
}

/// The server is full or unreachable: one invocation retries, and the others wait for it.
pub(crate) fn circuit_opened(kind: ErrorKind) {
    let kind = display(kind);
    loud!(
        WARN,
        [kind],
        "the circuit breaker opened: connecting is retried by one invocation at a time"
    );
}

/// The server accepts connections again.
pub(crate) fn circuit_closed(elapsed: Duration) {
    tracing::info!(target: TARGET, ?elapsed, "the circuit breaker closed");
}

/// An invocation was rejected since the server is full or unreachable.
pub(crate) fn shed(request_id: Option<&str>, error: &Error) {
    error.mark_logged();
    let error = display(error);
    loud!(
        WARN,
        [request_id, error],
        "load shedding rejected an invocation"
    );
}

/// The health query succeeded.
pub(crate) fn health_read(used: Option<u32>, limit: Option<u32>, latency: Duration) {
    tracing::debug!(target: TARGET, used, limit, ?latency, "the health query succeeded");
}

/// The health query failed.
pub(crate) fn health_failed(kind: ErrorKind) {
    let kind = display(kind);
    loud!(WARN, [kind], "the health query failed");
}

/// An idle connection was closed or too old, and is replaced.
pub(crate) fn discarded(process: i32, why: &'static str) {
    tracing::debug!(target: TARGET, process, why, "discarded an idle connection");
}

/// Every connection was closed, or every idle one.
pub(crate) fn closed(closed: usize, acknowledged: usize, interrupted: usize, elapsed: Duration) {
    tracing::info!(target: TARGET, closed, acknowledged, interrupted, ?elapsed, "closed");
}

/// Teardown of one connection has ended.
pub(crate) fn torn_down(
    request_id: &str,
    process: i32,
    outcome: &dyn Display,
    kept: bool,
    round_trips: u64,
    elapsed: Duration,
) {
    if kept && round_trips == 0 {
        tracing::debug!(target: TARGET, request_id, process, %outcome, kept, round_trips, ?elapsed, "teardown");
    } else {
        tracing::info!(target: TARGET, request_id, process, %outcome, kept, round_trips, ?elapsed, "teardown");
    }
}

/// A hook or task of the application failed or did not end.
pub(crate) fn cleanup_failed(request_id: &str, what: &'static str, why: &'static str) {
    loud!(
        WARN,
        [request_id, what, why],
        "a hook or task failed at the end of an invocation"
    );
}

/// The future of the layer was dropped.
pub(crate) fn abandoned(request_id: &str, connections: usize) {
    loud!(
        WARN,
        [request_id, connections],
        "the future of the invocation was dropped outside the layer; put timeouts inside the layer"
    );
}

/// The response body was not read to its end.
pub(crate) fn hung_up(request_id: &str, connections: usize) {
    tracing::debug!(
        target: TARGET,
        request_id,
        connections,
        "the response body was dropped before its end"
    );
}

/// The deadline was reached.
pub(crate) fn deadline(request_id: &str, error: &Error) {
    error.mark_logged();
    let error = display(error);
    loud!(WARN, [request_id, error], "the deadline was reached");
}

/// A request on Lambda has no deadline.
pub(crate) fn without_deadline(request_id: &str) {
    loud!(
        ERROR,
        [request_id],
        "the deadline of a request on Lambda is not known, and statements can continue after the \
         function is killed; run the service under lambda_http 1, or set the function's timeout \
         with DatabaseLayer::max_duration"
    );
}

/// An error became the response; a client error (4xx) is not a warning.
pub(crate) fn answered(request_id: Option<&str>, error: &Error) {
    if error.mark_logged() {
        return;
    }
    let kind = display(error.kind());
    let sqlstate = error.sqlstate().map(|state| state.code());
    let is_client_error = error.status().is_client_error();
    let error = display(error);
    if is_client_error {
        tracing::info!(target: TARGET, request_id, kind, sqlstate, error, "answered with an error");
    } else {
        loud!(
            ERROR,
            [request_id, kind, sqlstate, error],
            "answered with an error"
        );
    }
}

/// The invocation's transaction was not committed, or may not have been.
pub(crate) fn not_committed(request_id: &str, error: &Error) {
    error.mark_logged();
    let kind = display(error.kind());
    let sqlstate = error.sqlstate().map(|state| state.code());
    let error = display(error);
    loud!(ERROR, [request_id, kind, sqlstate, error], "commit failed");
}

/// Warm-up has ended.
pub(crate) fn warmed_up(requested: usize, warmed: usize, elapsed: Duration, error: Option<&Error>) {
    let elapsed = debug(elapsed);
    let Some(error) = error else {
        tracing::info!(target: TARGET, requested, warmed, elapsed, "warmed up");
        return;
    };
    let cause = error.source().map(|source| source.to_string());
    let (error, cause) = (display(error), cause.as_deref());
    loud!(
        WARN,
        [requested, warmed, elapsed, error, cause],
        "warm-up incomplete"
    );
}

/// Warm-up requests more connections than the pool keeps.
pub(crate) fn warm_up_capped(asked: usize, size: usize) {
    loud!(
        WARN,
        [asked, size],
        "warm-up requests more connections than are kept; raise max_connections or max_idle"
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn line_contains_the_fields_that_are_set() {
        let fields: &[(&str, &dyn Debug)] = &[
            ("request_id", &Some("abc")),
            ("kind", &display(ErrorKind::Closed)),
            ("sqlstate", &None::<&str>),
            ("connections", &2_usize),
        ];
        assert_eq!(
            line(Level::WARN, "failed", fields),
            "WARN antifreeze: failed request_id=\"abc\" kind=closed connections=2"
        );
    }
}
