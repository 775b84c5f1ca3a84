//! Closes connections on SIGTERM and ctrl-C: for servers, and for Vercel.

use std::future::{Future, IntoFuture};
use std::pin::pin;
use std::sync::Arc;

use futures_util::future::{Either, join, select};

use crate::database::Database;
use crate::lifecycle::{Close, close_idle};

/// Waits until the process is told to stop, by SIGTERM or ctrl-C, and until every idle
/// connection was closed: what a server's graceful shutdown begins with. Connections of
/// requests that are still served are closed as these end.
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
        told_to_stop().await;
        close_idle(&engine).await;
    }
}

/// Serves, and closes every connection when the process is told to stop, by SIGTERM or
/// ctrl-C, or when `serve` ends: for Vercel, whose runtime then waits for the requests that
/// are still served.
///
/// It closes as [`Database::close`] does: a request that is under way has 125 ms, then its
/// statement is cancelled. Where the host waits for longer, say so with
/// `database.close().within(..)` in place of `&database`.
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
    match select(serve.as_mut(), pin!(told_to_stop())).await {
        Either::Left((served, _)) => {
            close.await;
            served
        }
        // Both to their ends: the last request's may come before that of its connection.
        Either::Right(((), serve)) => join(close.into_future(), serve).await.1,
    }
}

async fn told_to_stop() {
    let interrupted = pin!(async {
        if tokio::signal::ctrl_c().await.is_err() {
            // There is no handler to install: that is no reason to stop.
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
