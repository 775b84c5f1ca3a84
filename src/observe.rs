//! Every `tracing` event, in one place.
//!
//! Events carry no SQL, no values and no messages of the server: what the server
//! says may quote what a user typed.

use std::error::Error as _;
use std::fmt::Write as _;
use std::io::Write as _;
use std::time::Duration;

use tokio_postgres::error::DbError;
use tracing::Level;
use tracing::field::{DebugValue, DisplayValue, debug, display};
use tracing::subscriber::NoSubscriber;

/// The target of every event.
const TARGET: &str = "antifreeze";

/// An event that must not be missed: where no subscriber is set, it is a line on stderr, which
/// every host keeps.
macro_rules! loud {
    ($level:ident, { $($field:ident: $value:expr),* $(,)? }, $message:literal) => {{
        tracing::event!(target: TARGET, Level::$level, $($field = $value,)* $message);
        if nobody_listens() {
            let fields: &[(&str, &dyn Shown)] = &[$((stringify!($field), &$value)),*];
            print(Level::$level, $message, fields);
        }
    }};
}

/// Whether the current task's events go nowhere. A subscriber that filters them out has
/// been set, and decides.
fn nobody_listens() -> bool {
    !tracing::dispatcher::has_been_set()
        || tracing::dispatcher::get_default(|current| current.is::<NoSubscriber>())
}

fn print(level: Level, message: &str, fields: &[(&str, &dyn Shown)]) {
    // A log that cannot be written is no reason to fail.
    let _ = writeln!(std::io::stderr(), "{}", line(level, message, fields));
}

fn line(level: Level, message: &str, fields: &[(&str, &dyn Shown)]) -> String {
    let mut line = format!("{level} {TARGET}: {message}");
    for (name, value) in fields {
        if let Some(value) = value.shown() {
            let _ = write!(line, " {name}={value}");
        }
    }
    line
}

/// What a field's value looks like; as a subscriber would, it leaves out what is `None`.
trait Shown {
    fn shown(&self) -> Option<String>;
}

impl Shown for &str {
    fn shown(&self) -> Option<String> {
        Some(format!("{self:?}"))
    }
}

impl<T: Shown> Shown for Option<T> {
    fn shown(&self) -> Option<String> {
        self.as_ref()?.shown()
    }
}

impl Shown for usize {
    fn shown(&self) -> Option<String> {
        Some(self.to_string())
    }
}

impl<T: std::fmt::Display> Shown for DisplayValue<T> {
    fn shown(&self) -> Option<String> {
        Some(format!("{self:?}"))
    }
}

impl<T: std::fmt::Debug> Shown for DebugValue<T> {
    fn shown(&self) -> Option<String> {
        Some(format!("{self:?}"))
    }
}

/// The settings that a database was made with, and the operator's variables that won.
pub(crate) fn configured(pooler: &'static str, max_connections: usize, variables: &str) {
    if variables.is_empty() {
        tracing::debug!(target: TARGET, pooler, max_connections, "configured");
    } else {
        tracing::info!(target: TARGET, pooler, max_connections, variables, "configured");
    }
}

/// A panic would end the process where it stands.
pub(crate) fn aborts() {
    loud!(
        WARN,
        {},
        "built with panic = \"abort\": a panic leaves everything open; cargo-lambda does so unless \
         Cargo.toml has [profile.release] panic = \"unwind\""
    );
}

/// A variable looks like one of ours and is none.
pub(crate) fn unknown_variable(name: &str) {
    loud!(WARN, { name: name }, "an unknown variable is ignored");
}

/// A lever of the operator's moves nothing.
pub(crate) fn without_effect(variables: &str, why: &str) {
    loud!(WARN, { variables: variables, why: why }, "a variable has no effect");
}

/// Nothing ends what is left behind on this pooler but what its roles are told.
pub(crate) fn server_timeouts_elsewhere(pooler: &'static str, run: &str) {
    tracing::info!(target: TARGET, pooler, run, "the server's timeouts have to be set for the role");
}

/// The server was to be told its timeouts, and does not take them.
pub(crate) fn server_timeouts_refused(error: &DbError, run: &str) {
    loud!(
        WARN,
        { sqlstate: error.code().code(), run: run },
        "the server's timeouts have to be set for the role"
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

/// A connection ended by itself.
pub(crate) fn connection_lost(error: &tokio_postgres::Error) {
    tracing::debug!(
        target: TARGET,
        sqlstate = error.code().map(|code| code.code()),
        closed = error.is_closed(),
        "a connection ended"
    );
}

/// What came from the server is no protocol that the wire can follow.
pub(crate) fn framing_lost() {
    loud!(
        WARN,
        {},
        "the server's answer violates PostgreSQL's protocol, and the connection was closed: check \
         the proxies in between"
    );
}

/// The server ended a session, and said why.
pub(crate) fn dismissed(sqlstate: Option<[u8; 5]>) {
    let sqlstate = sqlstate.and_then(|code| String::from_utf8(code.to_vec()).ok());
    tracing::debug!(target: TARGET, sqlstate, "the server ended a session");
}

/// A connection was made.
pub(crate) fn connected(process: i32, elapsed: Duration) {
    tracing::debug!(target: TARGET, process, ?elapsed, "connected");
}

/// A connection is encrypted, and the server is not verified.
pub(crate) fn unverified(host: &str) {
    loud!(
        WARN,
        { host: host },
        "sslmode=require encrypts without verifying the server: set sslmode=verify-full, and \
         sslrootcert if its authority is a private one"
    );
}

/// What lies in between is not what its address looked like.
pub(crate) fn path_differs(expected: &'static str, found: &'static str) {
    loud!(
        WARN,
        { expected: expected, found: found },
        "an unconfigured pooler was detected: set ANTIFREEZE_POOLER, or `pooler` in code, to \
         transaction or session; behind a pooler no timeouts are set at startup, so use ALTER ROLE \
         .. SET"
    );
}

/// No connection was made, and it is tried again.
pub(crate) fn connecting_again(error: &crate::Error, delay: Duration) {
    let kind = error.kind();
    let sqlstate = error.sqlstate().map(|state| state.code());
    tracing::debug!(target: TARGET, %kind, sqlstate, ?delay, "connecting again");
}

/// The server is full or away: from now on one tries, and the others wait for it.
pub(crate) fn circuit_opened(kind: crate::ErrorKind) {
    loud!(WARN, { kind: display(kind) }, "the circuit is open");
}

/// The server takes connections again.
pub(crate) fn circuit_closed(elapsed: Duration) {
    tracing::info!(target: TARGET, ?elapsed, "the circuit is closed");
}

/// An invocation was turned away; where that is known, this one.
pub(crate) fn shed(request_id: Option<&str>, error: &crate::Error) {
    error.mark_logged();
    loud!(WARN, { request_id: request_id, error: display(error) }, "turned away");
}

/// The server was asked how it is, and has said so.
pub(crate) fn health_read(used: Option<u32>, limit: Option<u32>, latency: Duration) {
    tracing::debug!(target: TARGET, used, limit, ?latency, "health was read");
}

/// The server was asked how it is, and there was no answer.
pub(crate) fn health_failed(kind: crate::ErrorKind) {
    loud!(WARN, { kind: display(kind) }, "health could not be read");
}

/// A kept connection turned out to be dead, or too old, and was replaced.
pub(crate) fn discarded(process: i32, why: &'static str) {
    tracing::debug!(target: TARGET, process, why, "discarded a kept connection");
}

/// Every connection was closed, or all that are idle.
pub(crate) fn closed(closed: usize, acknowledged: usize, interrupted: usize, elapsed: Duration) {
    tracing::info!(target: TARGET, closed, acknowledged, interrupted, ?elapsed, "closed");
}

/// What teardown did to one connection.
pub(crate) fn torn_down(
    request_id: &str,
    process: i32,
    outcome: &dyn std::fmt::Display,
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

/// A clean-up of the user's failed or did not end.
pub(crate) fn cleanup_failed(request_id: &str, what: &'static str, why: &'static str) {
    loud!(
        WARN,
        { request_id: request_id, what: what, why: why },
        "a clean-up did not end well"
    );
}

/// The layer's own future was dropped.
pub(crate) fn abandoned(request_id: &str, connections: usize) {
    loud!(
        WARN,
        { request_id: request_id, connections: connections },
        "something outside the layer dropped its future: put timeouts inside it"
    );
}

/// The response's body is not read to its end.
pub(crate) fn hung_up(request_id: &str, connections: usize) {
    tracing::debug!(
        target: TARGET,
        request_id,
        connections,
        "the response's body was dropped before its end"
    );
}

/// The deadline was reached.
pub(crate) fn deadline(request_id: &str, error: &crate::Error) {
    error.mark_logged();
    loud!(
        WARN,
        { request_id: request_id, error: display(error) },
        "the deadline was reached"
    );
}

/// A request came without the deadline that its host has set.
pub(crate) fn without_deadline(request_id: &str) {
    loud!(
        ERROR,
        { request_id: request_id },
        "on Lambda, a request without a deadline: a statement that hangs goes on after the function \
         was killed; run the service under lambda_http 1, which antifreeze reads the deadline of, \
         or give the function's timeout to DatabaseLayer::max_duration"
    );
}

/// An error is what a caller is told. What is the caller's own fault is in order.
pub(crate) fn answered(request_id: Option<&str>, error: &crate::Error) {
    if error.mark_logged() {
        return;
    }
    let kind = error.kind();
    let sqlstate = error.sqlstate().map(|state| state.code());
    if error.status().is_client_error() {
        tracing::info!(target: TARGET, request_id, %kind, sqlstate, %error, "answered with an error");
    } else {
        loud!(
            ERROR,
            {
                request_id: request_id,
                kind: display(kind),
                sqlstate: sqlstate,
                error: display(error),
            },
            "answered with an error"
        );
    }
}

/// The invocation's transaction was to be committed and was not, as far as is known.
pub(crate) fn not_committed(request_id: &str, error: &crate::Error) {
    error.mark_logged();
    loud!(
        ERROR,
        {
            request_id: request_id,
            kind: display(error.kind()),
            sqlstate: error.sqlstate().map(|state| state.code()),
            error: display(error),
        },
        "not committed"
    );
}

/// What warm-up came to.
pub(crate) fn warmed_up(
    requested: usize,
    warmed: usize,
    elapsed: Duration,
    error: Option<&crate::Error>,
) {
    match error {
        None => {
            tracing::info!(target: TARGET, requested, warmed, ?elapsed, "warmed up");
        }
        Some(error) => {
            let cause = error.source().map(|source| source.to_string());
            loud!(
                WARN,
                {
                    requested: requested,
                    warmed: warmed,
                    elapsed: debug(elapsed),
                    error: display(error),
                    cause: cause.as_deref(),
                },
                "warmed up in part"
            );
        }
    }
}

/// The environment asks for more than fits.
pub(crate) fn warm_up_capped(asked: usize, size: usize) {
    loud!(
        WARN,
        { asked: asked, size: size },
        "warming up asks for more connections than can be kept (max_connections, max_idle)"
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn line_holds_the_fields_that_are_set() {
        let fields: &[(&str, &dyn Shown)] = &[
            ("request_id", &Some("abc")),
            ("kind", &display(crate::ErrorKind::Closed)),
            ("sqlstate", &None::<&str>),
            ("connections", &2_usize),
        ];
        assert_eq!(
            line(Level::WARN, "said", fields),
            "WARN antifreeze: said request_id=\"abc\" kind=closed connections=2"
        );
    }
}
