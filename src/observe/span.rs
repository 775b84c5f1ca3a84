//! Makes spans of `tracing`, with the names of OpenTelemetry's semantic conventions for clients of
//! PostgreSQL where those have one.
//!
//! Without a subscriber that takes them, none is made.

use std::fmt::Display;
use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering};

use tracing::dispatcher::has_been_set;
use tracing::field::{Empty, display};
use tracing::{Instrument, Span, info_span};

use super::events::{TARGET, sqlstate};
use crate::error::Error;
use crate::lock::Mutex;

/// The server as spans and metrics name it: of several hosts, the first.
#[derive(Debug)]
pub(crate) struct Peer {
    pub(crate) address: String,
    pub(crate) port: u16,
    pub(crate) database: String,
    /// `address:port/database`.
    pub(crate) pool: String,
}

/// The span of an invocation: it is closed when all connections are at rest, so that what is
/// flushed before the response contains it.
pub(crate) struct InvocationSpan {
    /// Read without a lock, since there is mostly no span.
    is_open: AtomicBool,
    span: Mutex<Span>,
}

impl InvocationSpan {
    pub(crate) fn new(request_id: &str) -> Self {
        // Else `tracing` formats the span for `log`, where a dependency has turned that on.
        if !has_been_set() {
            return InvocationSpan {
                is_open: AtomicBool::new(false),
                span: Mutex::new(Span::none()),
            };
        }
        let request_id = Some(request_id).filter(|id| !id.is_empty());
        let span = info_span!(
            target: TARGET, "invocation",
            faas.invocation_id = request_id,
            antifreeze.statements = Empty,
            antifreeze.round_trips = Empty,
            db.response.returned_rows = Empty,
        );
        InvocationSpan {
            is_open: AtomicBool::new(!span.is_disabled()),
            span: Mutex::new(span),
        }
    }

    pub(crate) fn is_open(&self) -> bool {
        self.is_open.load(Ordering::Acquire)
    }

    #[inline]
    pub(crate) fn get(&self) -> Span {
        if !self.is_open() {
            return Span::none();
        }
        self.span.lock().clone()
    }

    /// Closes the span, once no poll is inside it any more. Returns whether there was one.
    pub(crate) fn close(&self) -> bool {
        let was_open = self.is_open.swap(false, Ordering::AcqRel);
        if was_open {
            *self.span.lock() = Span::none();
        }
        was_open
    }
}

/// Records the work of the invocation.
pub(crate) fn worked(span: &Span, statements: u64, round_trips: u64, rows: u64) {
    if !span.is_disabled() {
        span.record("antifreeze.statements", statements);
        span.record("antifreeze.round_trips", round_trips);
        span.record("db.response.returned_rows", rows);
    }
}

/// Makes the span of a checkout that cannot be served at once.
pub(crate) fn checkout(invocation: &Span, pool: &str) -> Span {
    info_span!(
        target: TARGET, parent: invocation, "checkout",
        db.client.connection.pool.name = pool,
        antifreeze.checkout = Empty,
        antifreeze.waited = Empty,
        "error.type" = Empty,
    )
}

/// Records how the current checkout got its connection.
pub(crate) fn checked_out(how: &'static str) {
    Span::current().record("antifreeze.checkout", how);
}

/// Records that the current checkout has to wait.
pub(crate) fn waits() {
    Span::current().record("antifreeze.waited", true);
}

/// Makes the span of a connect, with its retries.
pub(crate) fn connect(peer: &Peer) -> Span {
    info_span!(
        target: TARGET, "connect",
        otel.kind = "client",
        db.system.name = "postgresql",
        db.namespace = peer.database.as_str(),
        server.address = peer.address.as_str(),
        server.port = peer.port,
        db.response.status_code = Empty,
        "error.type" = Empty,
        otel.status_code = Empty,
    )
}

/// Makes the spans of the phases of a connect.
macro_rules! phases {
    ($($phase:ident)*) => {$(
        pub(crate) fn $phase() -> Span {
            info_span!(target: TARGET, stringify!($phase))
        }
    )*};
}

phases! { resolve dial encrypt credentials authenticate }

/// Makes the span of an invocation's transaction, from its first use to its end.
pub(crate) fn transaction(invocation: &Span, peer: &Peer) -> Span {
    info_span!(
        target: TARGET, parent: invocation, "transaction",
        db.system.name = "postgresql",
        db.namespace = peer.database.as_str(),
        antifreeze.outcome = Empty,
        db.response.status_code = Empty,
        "error.type" = Empty,
        otel.status_code = Empty,
    )
}

/// Records how the invocation's transaction has ended.
pub(crate) fn ended(transaction: &Span, outcome: &'static str) {
    transaction.record("antifreeze.outcome", outcome);
}

/// Makes the span of the COMMIT of the invocation's transaction.
pub(crate) fn commit(transaction: &Span) -> Span {
    info_span!(
        target: TARGET, parent: transaction, "commit",
        otel.kind = "client",
        db.system.name = "postgresql",
        db.operation.name = "COMMIT",
        db.response.status_code = Empty,
        "error.type" = Empty,
        otel.status_code = Empty,
    )
}

/// Makes the span of the teardown of a connection that is not known to be at rest.
pub(crate) fn teardown(invocation: &Span) -> Span {
    info_span!(
        target: TARGET, parent: invocation, "teardown",
        otel.kind = "client",
        db.system.name = "postgresql",
        antifreeze.outcome = Empty,
        antifreeze.kept = Empty,
        antifreeze.round_trips = Empty,
        antifreeze.left_open_at = Empty,
    )
}

/// Records the result of a teardown.
pub(crate) fn torn_down(
    span: &Span,
    outcome: &dyn Display,
    kept: bool,
    round_trips: u64,
    left_open_at: Option<&dyn Display>,
) {
    if span.is_disabled() {
        return;
    }
    span.record("antifreeze.outcome", display(outcome));
    span.record("antifreeze.kept", kept);
    span.record("antifreeze.round_trips", round_trips);
    if let Some(left_open_at) = left_open_at {
        span.record("antifreeze.left_open_at", display(left_open_at));
    }
}

pub(crate) fn warm_up(requested: usize) -> Span {
    info_span!(target: TARGET, "warm_up", antifreeze.connections = requested)
}

/// Records how many connections the current shutdown has closed.
pub(crate) fn closed(connections: usize) {
    Span::current().record("antifreeze.connections", connections);
}

pub(crate) fn shutdown() -> Span {
    info_span!(target: TARGET, "shutdown", antifreeze.connections = Empty)
}

/// Runs `work` inside `span`, which gets its error.
pub(crate) async fn within<T>(
    span: Span,
    work: impl Future<Output = Result<T, Error>>,
) -> Result<T, Error> {
    let result = work.instrument(span.clone()).await;
    if let Err(error) = &result {
        failed(&span, error);
    }
    result
}

/// Records the kind of an error and its SQLSTATE, not its text, which may quote values.
pub(crate) fn failed(span: &Span, error: &Error) {
    if span.is_disabled() {
        return;
    }
    span.record("error.type", display(error.kind()));
    span.record("otel.status_code", "ERROR");
    if let Some(sqlstate) = sqlstate(error) {
        span.record("db.response.status_code", sqlstate);
    }
}
