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

/// Makes a function of each event: its level, its name, its fields with the value that is
/// written if it is not the argument itself, and the message.
macro_rules! events {
    ($(
        $(#[$doc:meta])*
        $level:ident $event:ident($($field:ident: $type:ty $(= $value:expr)?),*) $message:literal;
    )*) => {$(
        $(#[$doc])*
        pub(crate) fn $event($($field: $type),*) {
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

pub(super) fn sqlstate(error: &Error) -> Option<&str> {
    error.sqlstate().map(|state| state.code())
}

events! {
    /// A panic would abort the process, without teardown.
    WARN aborts()
        "built with panic = \"abort\": a panic leaves transactions open; set panic = \"unwind\" in \
         [profile.release] of Cargo.toml (cargo-lambda's default is abort)";
    /// A variable begins with `ANTIFREEZE_`, and is not known.
    WARN unknown_variable(name: &str) "unknown environment variable ignored; check its spelling";
    /// A variable has no effect.
    WARN without_effect(variables: &str, why: &str) "an environment variable has no effect";
    /// Behind this pooler only `ALTER ROLE` sets the server timeouts.
    INFO server_timeouts_elsewhere(pooler: &'static str, run: &str)
        "the pooler does not support server timeouts at startup; set them for the role";
    /// The server rejected the server timeouts.
    WARN server_timeouts_refused(sqlstate: &str, run: &str)
        "the server rejected the server timeouts; set them for the role";
    /// The server's bytes cannot be parsed.
    WARN framing_lost()
        "the server's answer violates PostgreSQL's protocol, and the connection was closed; check \
         the proxies in between";
    /// A connection was opened.
    DEBUG connected(process: i32, elapsed: Duration = debug(elapsed)) "connected";
    /// A connection is encrypted, and the server was not verified.
    WARN unverified(host: &str)
        "sslmode=require encrypts without verifying the server; set sslmode=verify-full, and \
         sslrootcert if its authority is a private one";
    /// The session revealed another pooler than the address.
    WARN path_differs(expected: &'static str, found: &'static str)
        "an unconfigured pooler was detected; set ANTIFREEZE_POOLER, or `pooler` in code, to \
         transaction or session, and set the server timeouts with ALTER ROLE .. SET, since poolers \
         do not support them at startup";
    /// The server is full or unreachable: one invocation retries, and the others wait for it.
    WARN circuit_opened(kind: ErrorKind = display(kind))
        "the circuit breaker opened: connecting is retried by one invocation at a time";
    /// A connection of another driver said nothing about its invocation while several ran.
    WARN unclaimed()
        "a connection of another driver belongs to none of several invocations at once, and is \
         brought to rest when the last of them ends; claim it with antifreeze::sqlx_hooks! or \
         antifreeze::claim, or connect with Invocation::url";
    /// The server accepts connections again.
    INFO circuit_closed(elapsed: Duration = debug(elapsed)) "the circuit breaker closed";
    /// An invocation was rejected since the server is full or unreachable.
    WARN shed(request_id: Option<&str>, error: &Error = logged(error))
        "load shedding rejected an invocation";
    /// The health query succeeded.
    DEBUG health_read(
        used: Option<u32>, limit: Option<u32>, latency: Duration = debug(latency)
    ) "the health query succeeded";
    /// The health query failed.
    WARN health_failed(kind: ErrorKind = display(kind)) "the health query failed";
    /// An idle connection was closed or too old, and is replaced.
    DEBUG discarded(process: i32, why: &'static str) "discarded an idle connection";
    /// Every connection was closed, or every idle one.
    INFO closed(
        closed: usize, acknowledged: usize, interrupted: usize, elapsed: Duration = debug(elapsed)
    ) "closed";
    /// A hook or task of the application failed or did not end.
    WARN cleanup_failed(request_id: &str, what: &'static str, why: &'static str)
        "a hook or task failed at the end of an invocation";
    /// The future of the layer was dropped.
    WARN abandoned(request_id: &str, connections: usize)
        "the future of the invocation was dropped outside the layer; put timeouts inside the layer";
    /// The response body was not read to its end.
    DEBUG hung_up(request_id: &str, connections: usize)
        "the response body was dropped before its end";
    /// An invocation has executed a statement again and again.
    INFO repeated(request_id: &str, times: u32, statement: &dyn Display = display(statement))
        "an invocation executed the same statement many times: one statement for all of them may \
         do (N+1), or raise repeated_statements";
    /// The deadline was reached.
    WARN deadline(request_id: &str, error: &Error = logged(error)) "the deadline was reached";
    /// A request on Lambda has no deadline.
    ERROR without_deadline(request_id: &str)
        "the deadline of a request on Lambda is not known, and statements can continue after the \
         function is killed; run the service under lambda_http 1, or set the function's timeout \
         with DatabaseLayer::max_duration";
    /// Warm-up requests more connections than the pool keeps.
    WARN warm_up_capped(asked: usize, size: usize)
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

/// The server sent a notice.
pub(crate) fn notice(notice: &DbError) {
    let (severity, sqlstate) = (notice.severity(), notice.code().code());
    event!(DEBUG, [severity, sqlstate], "notice from the server");
}

/// A connection was closed or failed.
pub(crate) fn connection_lost(error: &tokio_postgres::Error) {
    let (sqlstate, closed) = (error.code().map(|code| code.code()), error.is_closed());
    event!(DEBUG, [sqlstate, closed], "connection lost");
}

/// The server terminated a session with an error.
pub(crate) fn dismissed(sqlstate: Option<[u8; 5]>) {
    let sqlstate = sqlstate.and_then(|code| String::from_utf8(code.to_vec()).ok());
    event!(DEBUG, [sqlstate], "the server terminated a connection");
}

/// Connecting failed, and is retried.
pub(crate) fn connecting_again(error: &Error, delay: Duration) {
    let (kind, sqlstate, delay) = (display(error.kind()), sqlstate(error), debug(delay));
    event! { DEBUG, [kind, sqlstate, delay], "connecting failed; retrying" }
}

/// Teardown of one connection has ended.
pub(crate) fn torn_down(
    request_id: &str,
    process: i32,
    outcome: &dyn Display,
    kept: bool,
    round_trips: u64,
    elapsed: Duration,
    left_open_at: Option<&dyn Display>,
) {
    let (outcome, elapsed) = (display(outcome), debug(elapsed));
    let left_open_at = left_open_at.map(display);
    event!(
        DEBUG,
        [
            request_id,
            process,
            outcome,
            kept,
            round_trips,
            elapsed,
            left_open_at
        ],
        "teardown"
    );
}

/// What teardown had to remove from one connection, whose first statement is named.
pub(crate) struct Unclean<T, S> {
    pub(crate) caller: Option<Caller>,
    pub(crate) outcome: T,
    pub(crate) statement: Option<S>,
}

/// What an invocation has done.
pub(crate) struct Figures<'a> {
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

/// An invocation left connections open or in use. One line, whatever their number.
pub(crate) fn unclean<T: Display, S: Display>(figures: Figures<'_>, all: &[Unclean<T, S>]) {
    let joined = |each: &dyn Fn(&Unclean<T, S>) -> Option<String>| {
        let parts: Vec<_> = all.iter().filter_map(each).collect();
        parts.join("; ")
    };
    let outcome = joined(&|one| Some(one.outcome.to_string()));
    let left_open_at = joined(&|one| Some(one.caller?.to_string()));
    let statement = joined(&|one| Some(one.statement.as_ref()?.to_string()));
    let (outcome, left_open_at) = (display(outcome), display(left_open_at));
    let statement = (!statement.is_empty()).then(|| display(statement));
    let Figures {
        request_id,
        statements,
        round_trips,
        rows,
        ..
    } = figures;
    let elapsed = debug(figures.elapsed);
    event!(
        INFO,
        [
            request_id,
            elapsed,
            outcome,
            left_open_at,
            statement,
            statements,
            round_trips,
            rows
        ],
        "an invocation left a connection open or in use"
    );
}

/// An invocation took long.
pub(crate) fn slow(figures: Figures<'_>) {
    let Figures {
        request_id,
        statements,
        round_trips,
        rows,
        sent,
        received,
        ..
    } = figures;
    let elapsed = debug(figures.elapsed);
    let slowest = figures.slowest.map(debug);
    let slowest_statement = figures.slowest_statement.map(display);
    event!(
        INFO,
        [
            request_id,
            elapsed,
            statements,
            round_trips,
            rows,
            sent,
            received,
            slowest,
            slowest_statement
        ],
        "an invocation was slow"
    );
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

/// The invocation's transaction was not committed, or may not have been.
pub(crate) fn not_committed(request_id: &str, error: &Error) {
    let (kind, sqlstate, error) = (display(error.kind()), sqlstate(error), logged(error));
    event!(ERROR, [request_id, kind, sqlstate, error], "commit failed");
}

/// Warm-up has ended.
pub(crate) fn warmed_up(requested: usize, warmed: usize, elapsed: Duration, error: Option<&Error>) {
    let elapsed = debug(elapsed);
    let Some(error) = error else {
        event!(INFO, [requested, warmed, elapsed], "warmed up");
        return;
    };
    let cause = error.source().map(|source| source.to_string());
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
