//! Closes connections on SIGTERM and ctrl-C: for servers, and for Vercel.

use std::future::{Future, IntoFuture};
use std::pin::pin;
use std::sync::Arc;

use futures_util::future::{Either, join, select};

use crate::database::Database;
use crate::lifecycle::{Close, close_idle};

/// Waits for SIGTERM or ctrl-C, and then until every idle connection is closed: the signal for a
/// server's graceful shutdown. Connections of requests that are still served are closed when these
/// end.
///
/// ```no_run
/// # async fn main_() -> Result<(), Box<dyn std::error::Error>> {
/// let database = antifreeze::Database::from_env()?;
/// let router = axum::Router::new().layer(antifreeze::DatabaseLayer::new(database.clone()));
/// let listener = tokio::net::TcpListener::bind("127.0.0.1:3000").await?;
/// axum::serve(listener, router)
///     .with_graceful_shutdown(antifreeze::shutdown::signal(&database))
///     .await?;
/// # Ok(())
/// # }
/// ```
pub fn signal(database: &Database) -> impl Future<Output = ()> + Send + use<> {
    let engine = Arc::clone(database.engine());
    async move {
        stop_requested().await;
        // Invocations close theirs.
        engine.pools().shut();
        close_idle(&engine, None).await;
    }
}

/// Runs `serve`, and closes every connection on SIGTERM or ctrl-C, or when `serve` ends: for
/// Vercel, whose runtime then waits for the requests that are still served.
///
/// It closes like [`Database::close`]: a request that is being served has 125 ms, then its
/// statement is cancelled. If the host waits longer, pass `database.close().within(..)` instead of
/// `&database`.
///
/// ```no_run
/// # #[cfg(feature = "vercel")] mod function {
/// # use tower::Layer;
/// # use vercel_runtime::{Error, Request, run, service_fn};
/// # async fn handler(_: Request) -> Result<String, Error> { Ok(String::new()) }
/// # async fn main_() -> Result<(), Error> {
/// let database = antifreeze::Database::from_env()?;
/// let service = antifreeze::DatabaseLayer::new(database.clone()).layer(service_fn(handler));
/// antifreeze::shutdown::around(&database, run(service)).await
/// # }
/// # }
/// ```
pub async fn around<F: Future>(close: impl Into<Close>, serve: F) -> F::Output {
    let close: Close = close.into();
    let mut serve = pin!(serve);
    match select(serve.as_mut(), pin!(stop_requested())).await {
        Either::Left((served, _)) => {
            close.await;
            served
        }
        // Both run to their ends: the last request may end before its connection is closed.
        Either::Right(((), serve)) => join(close.into_future(), serve).await.1,
    }
}

async fn stop_requested() {
    let interrupted = pin!(async {
        if tokio::signal::ctrl_c().await.is_err() {
            // No handler can be installed, which is no reason to stop.
            std::future::pending::<()>().await;
        }
    });
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        if let Ok(mut terminated) = signal(SignalKind::terminate()) {
            select(interrupted, pin!(terminated.recv())).await;
            return;
        }
    }
    interrupted.await;
}
