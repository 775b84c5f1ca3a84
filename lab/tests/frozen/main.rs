//! The matrix: every ending of a handler, in every shape, with both lifetimes, in
//! plain text and under TLS, in a process that is really stopped, seen from a second
//! connection.
//!
//! After each ending, while the process is frozen: no session of ours is in a
//! transaction or busy (and none is there at all with `PerInvocation`), and what can
//! be kept is kept; nothing of a session's state is left that others could see; an
//! `ALTER TABLE` gets its lock within 100 ms, the response left within its deadline, the
//! server's log has no transaction that lost its client; and the next invocation works, in the
//! same process, and sees nothing of the last one. Kept connections that end while the process
//! is frozen do not disturb the next one.
//!
//! The same behind PgBouncer in transaction mode, where the second connection goes directly to
//! the server. `LAB_PGBOUNCER` selects another program than the installed one.
//!
//! Lambda's shapes are frozen where Lambda does it, and earlier, as another host might: once
//! the response has left, before the runtime is told.

mod combination;
mod endings;
mod host;

use std::time::Duration;

use combination::Combination;
use host::Shape;

/// How long an invocation may take.
const TIMEOUT: Duration = Duration::from_secs(2);

/// How much later than that the host ends it: a teardown that gets no answer leaves 50 ms, which a
/// busy machine may take.
const OVERTIME: Duration = Duration::from_secs(2);

macro_rules! combinations {
    ($($name:ident: $shape:ident, $per_invocation:literal, $tls:literal;)*) => {
        $(
            #[tokio::test]
            async fn $name() {
                Combination::new(Shape::$shape, $per_invocation, $tls).await.run().await;
            }
        )*
    };
}

macro_rules! pooled {
    ($($name:ident: $shape:ident, $per_invocation:literal;)*) => {
        $(
            #[tokio::test]
            async fn $name() {
                Combination::pooled(Shape::$shape, $per_invocation).await.run().await;
            }
        )*
    };
}

pooled! {
    pooled_lambda_http_per_event_loop: LambdaHttp, false;
    pooled_vercel_per_invocation: Vercel, true;
    pooled_concurrent_per_event_loop: Concurrent, false;
}

combinations! {
    lambda_http_per_event_loop_plain: LambdaHttp, false, false;
    lambda_http_per_event_loop_tls: LambdaHttp, false, true;
    lambda_http_per_invocation_plain: LambdaHttp, true, false;
    lambda_http_per_invocation_tls: LambdaHttp, true, true;
    event_per_event_loop_plain: Event, false, false;
    event_per_event_loop_tls: Event, false, true;
    event_per_invocation_plain: Event, true, false;
    event_per_invocation_tls: Event, true, true;
    axum_per_event_loop_plain: Axum, false, false;
    axum_per_event_loop_tls: Axum, false, true;
    axum_per_invocation_plain: Axum, true, false;
    axum_per_invocation_tls: Axum, true, true;
    vercel_per_event_loop_plain: Vercel, false, false;
    vercel_per_event_loop_tls: Vercel, false, true;
    vercel_per_invocation_plain: Vercel, true, false;
    vercel_per_invocation_tls: Vercel, true, true;
    concurrent_per_event_loop_plain: Concurrent, false, false;
    concurrent_per_invocation_tls: Concurrent, true, true;
    streaming_per_event_loop_plain: Streaming, false, false;
    streaming_per_event_loop_tls: Streaming, false, true;
    streaming_per_invocation_plain: Streaming, true, false;
}
