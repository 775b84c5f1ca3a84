//! The tower layer, its service, futures and bodies.

pub(crate) mod arrival;
mod body;
mod call;
mod future;
mod health;
pub(crate) mod problem;
mod service;
mod settings;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use tower_layer::Layer;

pub use body::Body;
#[cfg(any(feature = "lambda", feature = "vercel"))]
pub(crate) use call::Call;
pub use future::ResponseFuture;
pub use health::{HealthFuture, HealthService};
pub use service::DatabaseService;

use crate::database::Database;
use settings::LayerSettings;

/// Makes every call of a service an [`Invocation`](crate::Invocation): when its response leaves,
/// every database connection that it used is at rest, acknowledged by the server, or closed.
///
/// One layer for every shape of service:
///
/// | service | runs under |
/// | --- | --- |
/// | `Service<http::Request<B>>` | `lambda_http::run`, an axum router, any server |
/// | `Service<LambdaEvent<T>>` (feature `lambda`) | `lambda_runtime::run` |
/// | `Service<(AppState, Request)>` (feature `vercel`) | `vercel_runtime::run` |
///
/// ```no_run
/// # use tower_layer::Layer;
/// # async fn main_(handler: ()) -> Result<(), antifreeze::Error> {
/// let database = antifreeze::Database::from_env()?;
/// let service = antifreeze::DatabaseLayer::new(database).layer(handler);
/// # Ok(())
/// # }
/// ```
///
/// # Requirements
///
/// - Nothing outside it drops its future: a `TimeoutLayer` belongs inside. (If one
///   does, connections are closed at once, but no task waits for the server.)
/// - The handler does not block its thread forever.
/// - `panic = "unwind"`, the default.
/// - Handlers return an `http::Response`: with lambda_http, not a bare `String` or
///   `Value`.
///
/// # Inside a buffer
///
/// tower's `Buffer`, like any middleware that calls the service from its own task, takes the call
/// out of the invocation. The body of an `async` handler still finds the invocation, since its
/// future is polled by the caller; code in `call` itself gets
/// [`NotInInvocation`](crate::ErrorKind::NotInInvocation). There, take the
/// [`Invocation`](crate::Invocation) from the request's extensions. A buffer outside the layer
/// changes nothing.
#[derive(Clone)]
pub struct DatabaseLayer {
    settings: LayerSettings,
}

impl DatabaseLayer {
    /// Creates a layer for the connections of `database`. A layer inside another one for the same
    /// database joins the outer invocation: both values of `max_duration` apply, and its own
    /// `commit_when`, if set, decides for its responses instead of the outer layer's.
    ///
    /// With several databases, mount one layer for each. [`connection()`](crate::connection()),
    /// [`transaction()`](crate::transaction()) and the extractors use the innermost one;
    /// [`Database::connection`] and [`Database::transaction`] use the database that they are
    /// called on. The transactions are separate: the innermost one commits first, and stays
    /// committed if an outer commit then fails, whose error the caller gets.
    pub fn new(database: Database) -> Self {
        DatabaseLayer {
            settings: LayerSettings::new(database),
        }
    }

    /// Returns the database of this layer.
    pub fn database(&self) -> &Database {
        &self.settings.database
    }

    /// Sets the maximum duration of a call. When it is reached, the handler is dropped, its
    /// statements are cancelled and the caller gets a 504.
    ///
    /// Default: on Lambda, with the feature `lambda`, the deadline of the event (and at most 29 s
    /// behind API Gateway, which waits no longer); on Vercel 300 s, Vercel's own default;
    /// elsewhere no limit.
    ///
    /// On Lambda a request may carry no deadline that could be read. Then it is
    /// [`Config::function_timeout`](crate::Config::function_timeout), if that is set. If it
    /// is not: without the feature `lambda`, none ever does, so each is
    /// answered with a 500 ([`Configuration`](crate::ErrorKind::Configuration)) and the
    /// handler is not called; with the feature, as under another major version of
    /// lambda_http or behind the Lambda Web Adapter, it is served, and the log says so once.
    pub fn max_duration(mut self, max_duration: Duration) -> Self {
        self.settings.max_duration = Some(max_duration);
        self
    }

    /// Sets which responses commit the invocation's transaction. Default: 2xx and 3xx.
    pub fn commit_when(
        mut self,
        commit_when: impl Fn(StatusCode) -> bool + Send + Sync + 'static,
    ) -> Self {
        self.settings.commit_when = Some(Arc::new(commit_when));
        self
    }
}

impl DatabaseLayer {
    /// Adds a `Server-Timing` header to responses: how long the handler waited for the database,
    /// with how many statements and round trips. Browsers show it beside the request. For a
    /// streamed body it has what was done before the head.
    ///
    /// The clock is then read twice for each round trip. Default: off, since each client can
    /// read it.
    pub fn server_timing(mut self) -> Self {
        self.settings.server_timing = true;
        self
    }

    /// Answers GET and HEAD of `path` with the [`health`](crate::health) of the database,
    /// without calling the inner service, which gets all other methods and paths (a path with a
    /// trailing slash is another path).
    ///
    /// `path` is the path that the layer gets, without the query: inside a nested axum router,
    /// without the prefix. On Lambda it matches with or without the gateway's stage. A missing
    /// leading slash is added.
    ///
    /// ```no_run
    /// # fn main_(database: antifreeze::Database) {
    /// let layer = antifreeze::DatabaseLayer::new(database).health_check("/health/db");
    /// # }
    /// ```
    pub fn health_check(mut self, path: impl AsRef<str>) -> Self {
        let path = path.as_ref().trim_start_matches('/');
        self.settings.health_check = Some(format!("/{path}").into());
        self
    }
}

impl<S> Layer<S> for DatabaseLayer {
    type Service = DatabaseService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        DatabaseService::new(inner, self.settings.clone())
    }
}

impl fmt::Debug for DatabaseLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DatabaseLayer")
            .field("max_duration", &self.settings.max_duration)
            .field("health_check", &self.settings.health_check)
            .finish_non_exhaustive()
    }
}
