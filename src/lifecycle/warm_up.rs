//! Opens connections before the first event.

use std::future::{Future, IntoFuture};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::{Instant, timeout};
use tracing::Instrument;

use crate::bridge::Bridge;
use crate::engine::Engine;
use crate::error::{Error, ErrorKind, Result};
use crate::observe::{self, span};

/// The time limit of a warm-up: Lambda's init phase takes 10 s at most, and contains other work
/// too.
const LIMIT: Duration = Duration::from_secs(3);

/// Prepares what the first invocation would otherwise wait for. Await it before the function
/// starts to serve; on Lambda that is in the init phase.
///
/// With [`PerEventLoop`](crate::config::ConnectionLifetime::PerEventLoop) it opens the connections
/// that this process can use at once, in parallel, so that it takes as long as one;
/// with [`PerInvocation`](crate::config::ConnectionLifetime::PerInvocation) it resolves names and
/// reads certificate authorities, and opens nothing. It takes 3 s at most, and never
/// changes anything in the database.
///
/// A failure does not stop the function, unless the warm-up is [`required`](WarmUp::required): the
/// report and one line of the log have the error.
///
/// # Errors
///
/// With [`required`](WarmUp::required), the first error.
#[derive(Debug)]
#[must_use = "warming up does nothing until it is awaited"]
pub struct WarmUp {
    engine: Arc<Engine>,
    connections: Option<usize>,
    required: bool,
}

/// The result of a warm-up.
#[derive(Debug)]
#[non_exhaustive]
pub struct WarmedUp {
    /// The number of connections to open.
    pub requested: usize,
    /// The number of connections that are open now.
    pub warmed: usize,
    /// How long it took.
    pub elapsed: Duration,
    /// The first error, if there was one.
    pub first_error: Option<Error>,
}

impl WarmUp {
    pub(crate) fn new(engine: Arc<Engine>) -> Self {
        WarmUp {
            engine,
            connections: None,
            required: false,
        }
    }

    /// Sets the number of connections to open, unless `ANTIFREEZE_WARM_UP` is set. The limit and
    /// the default are the number that can be kept.
    pub fn connections(mut self, connections: usize) -> Self {
        self.connections = Some(connections);
        self
    }

    /// Makes awaiting this fail if a connection cannot be opened, so that the function does not
    /// start without its database.
    pub fn required(mut self) -> Self {
        self.required = true;
        self
    }

    async fn run(self) -> Result<WarmedUp> {
        let begin = Instant::now();
        let requested = self.requested();
        let span = span::warm_up(requested);
        let results = if requested == 0 {
            vec![self.prepare().instrument(span).await]
        } else {
            self.open(requested).instrument(span).await
        };
        let failed = results.iter().filter(|result| result.is_err()).count();
        let warmed = requested.saturating_sub(failed);
        let warmed_up = WarmedUp {
            requested,
            warmed,
            elapsed: begin.elapsed(),
            first_error: results.into_iter().find_map(Result::err),
        };
        let first_error = warmed_up.first_error.as_ref();
        observe::warmed_up(requested, warmed, warmed_up.elapsed, first_error);
        match warmed_up.first_error {
            Some(error) if self.required => Err(error),
            _ => Ok(warmed_up),
        }
    }

    /// Opens connections where they will be used: once there is a bridge to other drivers, there.
    async fn open(&self, requested: usize) -> Vec<Result<()>> {
        let engine = Arc::clone(&self.engine);
        let open = async move {
            let pool = engine.pools().here();
            let open = |_| Arc::clone(&pool).open_idle(LIMIT);
            join_all((0..requested).map(open)).await
        };
        let Some(runtime) = Bridge::runtime(&self.engine) else {
            return open.await;
        };
        // The runtime ends only after the bridge.
        runtime
            .spawn(open.in_current_span())
            .await
            .unwrap_or_default()
    }

    /// Returns the number of connections to open.
    fn requested(&self) -> usize {
        let settings = self.engine.settings();
        let size = settings.idle_limit();
        let asked = settings.warm_up.or(self.connections);
        if let Some(asked) = asked.filter(|&asked| asked > size && size > 0) {
            observe::warm_up_capped(asked, size);
        }
        asked.unwrap_or(size).min(size)
    }

    async fn prepare(&self) -> Result<()> {
        let prepare = self.engine.pools().connector.prepare();
        timeout(LIMIT, prepare).await.unwrap_or_else(|_| {
            Err(Error::new(
                ErrorKind::ConnectTimeout,
                format!("timed out after {LIMIT:.0?} while resolving the name of the server"),
            ))
        })
    }
}

impl IntoFuture for WarmUp {
    type Output = Result<WarmedUp>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.run())
    }
}
