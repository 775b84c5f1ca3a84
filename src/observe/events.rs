//! Writes every `tracing` event.
//!
//! Events contain no SQL, no values and no messages of the server, which may quote values.

use std::error::Error as _;
use std::fmt::{Debug, Display, Write as _};
use std::io::Write as _;
use std::time::Duration;

use tokio_postgres::error::{DbError, SqlState};
use tracing::Level;
use tracing::field::{debug, display};
use tracing::subscriber::NoSubscriber;

use crate::error::{Error, ErrorKind, is_sqlstate};

/// The caller of a checkout: a place in the source, or an extractor.
pub(crate) type Caller = &'static (dyn Display + Sync);

/// The target of every event.
pub(super) const TARGET: &str = "antifreeze";

/// Writes one event. One that must not be lost, a warning or an error, is a line on stderr if
/// there is no subscriber, which every host stores.
macro_rules! event {
    ($level:ident, [$($field:ident),*], $message:literal) => {{
        tracing::event!(target: TARGET, Level::$level, $($field,)* $message);
        if Level::$level <= Level::WARN && !has_subscriber() {
            let fields: &[(&str, &dyn Debug)] = &[$((stringify!($field), &$field)),*];
            // A failure to log is not an error.
            let _ = writeln!(std::io::stderr(), "{}", line(Level::$level, $message, fields));
        }
    }};
}

/// Makes a function of each event: its level, name and arguments, its fields, each with the value
/// that is written if it is not the argument itself, and the message.
macro_rules! events {
    ($(
        $(#[$doc:meta])*
        $level:ident $event:ident($($argument:ident: $type:ty),*)
            [$($field:ident $(= $value:expr)?),*] $message:literal;
    )*) => {$(
        $(#[$doc])*
        pub(crate) fn $event($($argument: $type),*) {
            $($(let $field = $value;)?)*
            event!($level, [$($field),*], $message);
        }
    )*};
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

/// The error as a field, marked as logged.
fn logged(error: &Error) -> impl Debug + tracing::Value {
    error.mark_logged();
    display(error)
}

fn shown(code: &SqlState) -> Option<&str> {
    Some(code.code()).filter(|code| is_sqlstate(code))
}

pub(super) fn sqlstate(error: &Error) -> Option<&str> {
    shown(error.sqlstate()?)
}

events! {
    /// A panic would abort the process, without teardown.
    WARN aborts() []
        "built with panic = \"abort\": a panic leaves transactions open; set panic = \"unwind\" in \
         [profile.release] of Cargo.toml (cargo-lambda's default is abort)";
    /// A variable begins with `ANTIFREEZE_`, and is not known.
    WARN unknown_variable(name: &str) [name]
        "unknown environment variable ignored; check its spelling";
    /// A variable has no effect.
    WARN without_effect(variables: &str, why: &str) [variables, why]
        "an environment variable has no effect";
    /// Behind this pooler only `ALTER ROLE` sets the server timeouts.
    INFO server_timeouts_elsewhere(pooler: &'static str, run: &str) [pooler, run]
        "the pooler does not support server timeouts at startup; set them for the role";
    /// The server rejected the server timeouts.
    WARN server_timeouts_refused(sqlstate: &str, run: &str) [sqlstate, run]
        "the server rejected the server timeouts; set them for the role";
    /// The server's bytes cannot be parsed.
    WARN framing_lost() []
        "the server's answer violates PostgreSQL's protocol, and the connection was closed; check \
         the proxies in between";
    /// A connection was opened.
    DEBUG connected(process: i32, elapsed: Duration) [process, elapsed = debug(elapsed)]
        "connected";
    /// Connecting failed, and is retried.
    DEBUG connecting_again(error: &Error, delay: Duration)
        [kind = display(error.kind()), sqlstate = sqlstate(error), delay = debug(delay)]
        "connecting failed; retrying";
    /// A connection is encrypted, and the server was not verified.
    WARN unverified(host: &str) [host]
        "sslmode=require encrypts without verifying the server; set sslmode=verify-full, and \
         sslrootcert if its authority is a private one";
    /// The session revealed another pooler than the address.
    WARN path_differs(expected: &'static str, found: &'static str) [expected, found]
        "an unconfigured pooler was detected; set ANTIFREEZE_POOLER, or `pooler` in code, to \
         transaction or session, and set the server timeouts with ALTER ROLE .. SET, since poolers \
         do not support them at startup";
    /// The server sent a notice.
    DEBUG notice(notice: &DbError)
        [severity = notice.severity(), sqlstate = shown(notice.code())]
        "notice from the server";
    /// A connection was closed or failed.
    DEBUG connection_lost(error: &tokio_postgres::Error)
        [sqlstate = error.code().and_then(shown), closed = error.is_closed()]
        "connection lost";
    /// The server terminated a session with an error.
    DEBUG dismissed(code: Option<[u8; 5]>)
        [sqlstate = code.and_then(|code| String::from_utf8(code.to_vec()).ok())]
        "the server terminated a connection";
    /// The server is full or unreachable: one invocation retries, and the others wait for it.
    WARN circuit_opened(kind: ErrorKind) [kind = display(kind)]
        "the circuit breaker opened: connecting is retried by one invocation at a time";
    /// A connection of another driver said nothing about its invocation while several ran.
    WARN unclaimed() []
        "a connection of another driver belongs to none of several invocations at once, and is \
         brought to rest when the last of them ends; claim it with antifreeze::sqlx_hooks! or \
         antifreeze::claim, or connect with Invocation::url";
    /// The server accepts connections again.
    INFO circuit_closed(elapsed: Duration) [elapsed = debug(elapsed)]
        "the circuit breaker closed";
    /// An invocation was rejected since the server is full or unreachable.
    WARN shed(request_id: Option<&str>, error: &Error) [request_id, error = logged(error)]
        "load shedding rejected an invocation";
    /// The health query succeeded.
    DEBUG health_read(used: Option<u32>, limit: Option<u32>, latency: Duration)
        [used, limit, latency = debug(latency)] "the health query succeeded";
    /// The health query failed.
    WARN health_failed(kind: ErrorKind) [kind = display(kind)] "the health query failed";
    /// An idle connection was closed or too old, and is replaced.
    DEBUG discarded(process: i32, why: &'static str) [process, why]
        "discarded an idle connection";
    /// Every connection was closed, or every idle one.
    INFO closed(closed: usize, acknowledged: usize, interrupted: usize, elapsed: Duration)
        [closed, acknowledged, interrupted, elapsed = debug(elapsed)] "closed";
    /// A hook or task of the application failed or did not end.
    WARN cleanup_failed(request_id: &str, what: &'static str, why: &'static str)
        [request_id, what, why] "a hook or task failed at the end of an invocation";
    /// The future of the layer was dropped.
    WARN abandoned(request_id: &str, connections: usize) [request_id, connections]
        "the future of the invocation was dropped outside the layer; put timeouts inside the layer";
    /// The response body was not read to its end.
    DEBUG hung_up(request_id: &str, connections: usize) [request_id, connections]
        "the response body was dropped before its end";
    /// Teardown of one connection has ended.
    DEBUG torn_down(
        request_id: &str, process: i32, outcome: &dyn Display, kept: bool, round_trips: u64,
        elapsed: Duration, left_open_at: Option<&dyn Display>
    ) [
        request_id, process, outcome = display(outcome), kept, round_trips,
        elapsed = debug(elapsed), left_open_at = left_open_at.map(display)
    ] "teardown";
    /// An invocation left connections open or in use. One line, whatever their number.
    INFO unclean(figures: &InvocationFigures<'_>, outcome: &str, left_open_at: &str, statement: Option<&str>)
    [
        request_id = figures.request_id, elapsed = debug(figures.elapsed),
        outcome = display(outcome), left_open_at = display(left_open_at),
        statement = statement.map(display), statements = figures.statements,
        round_trips = figures.round_trips, rows = figures.rows
    ] "an invocation left a connection open or in use";
    /// An invocation took long.
    INFO slow(figures: &InvocationFigures<'_>) [
        request_id = figures.request_id, elapsed = debug(figures.elapsed),
        statements = figures.statements, round_trips = figures.round_trips, rows = figures.rows,
        sent = figures.sent, received = figures.received, slowest = figures.slowest.map(debug),
        slowest_statement = figures.slowest_statement.map(display)
    ] "an invocation was slow";
    /// An invocation has executed a statement again and again.
    INFO repeated(request_id: &str, times: u32, statement: &dyn Display)
        [request_id, times, statement = display(statement)]
        "an invocation executed the same statement many times: one statement for all of them may \
         do (N+1), or raise repeated_statements";
    /// The invocation's transaction was not committed, or may not have been.
    ERROR not_committed(request_id: &str, error: &Error) [
        request_id, kind = display(error.kind()), sqlstate = sqlstate(error),
        error = logged(error)
    ] "commit failed";
    /// The deadline was reached.
    WARN deadline(request_id: &str, error: &Error) [request_id, error = logged(error)]
        "the deadline was reached";
    /// A request on Lambda has no deadline.
    ERROR without_deadline(request_id: &str) [request_id]
        "the deadline of a request on Lambda is not known, and statements can continue after the \
         function is killed; run the service under lambda_http 1, or set the function's timeout \
         with DatabaseLayer::max_duration";
    /// Warm-up requests more connections than the pool keeps.
    WARN warm_up_capped(asked: usize, size: usize) [asked, size]
        "warm-up requests more connections than are kept; raise max_connections or max_idle";
}

/// The settings of a new database, and the variables that override the code.
pub(crate) fn configured(pooler: &'static str, max_connections: usize, variables: &str) {
    if variables.is_empty() {
        event!(DEBUG, [pooler, max_connections], "configured");
    } else {
        event!(INFO, [pooler, max_connections, variables], "configured");
    }
}

/// What an invocation has done.
pub(crate) struct InvocationFigures<'a> {
    pub(crate) request_id: &'a str,
    pub(crate) elapsed: Duration,
    pub(crate) statements: u64,
    pub(crate) round_trips: u64,
    pub(crate) rows: u64,
    pub(crate) sent: u64,
    pub(crate) received: u64,
    pub(crate) slowest: Option<Duration>,
    pub(crate) slowest_statement: Option<&'a (dyn Display + Send + Sync)>,
}

/// Returns whether any subscriber takes the lines about the ends of invocations.
pub(crate) fn logs_ends() -> bool {
    tracing::enabled!(target: TARGET, Level::INFO)
}

/// An error became the response; a client error (4xx) is not a warning.
pub(crate) fn answered(request_id: Option<&str>, error: &Error) {
    if error.mark_logged() {
        return;
    }
    let is_client_error = error.status().is_client_error();
    let (kind, sqlstate, error) = (display(error.kind()), sqlstate(error), display(error));
    if is_client_error {
        event! { INFO, [request_id, kind, sqlstate, error], "answered with an error" }
    } else {
        event! { ERROR, [request_id, kind, sqlstate, error], "answered with an error" }
    }
}

/// Warm-up has ended.
pub(crate) fn warmed_up(requested: usize, warmed: usize, elapsed: Duration, error: Option<&Error>) {
    let elapsed = debug(elapsed);
    let Some(error) = error else {
        event!(INFO, [requested, warmed, elapsed], "warmed up");
        return;
    };
    let cause = error.source().and_then(|source| error.safe_text(source));
    let (error, cause) = (display(error), cause.as_deref());
    event! { WARN, [requested, warmed, elapsed, error, cause], "warm-up incomplete" }
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
