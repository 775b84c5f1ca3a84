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
use settings::Settings;

/// Makes every call of a service an [`Invocation`](crate::Invocation): when its response leaves, every
/// database connection that it used is at rest, acknowledged by the server, or closed.
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
/// # What it asks for
///
/// - Nothing outside it drops its future: a `TimeoutLayer` belongs inside. (If one
///   does, connections are closed at once, but no task waits for the server.)
/// - The handler does not block its thread for ever.
/// - `panic = "unwind"`, the default.
/// - Handlers return an `http::Response`: with lambda_http, not a bare `String` or
///   `Value`.
///
/// # Inside a buffer
///
/// tower's `Buffer`, and whatever else has a task of its own call the service, takes the call
/// out of the invocation. What the body of an `async` handler asks for is found all the
/// same, since its future is polled by the caller; what is asked for in `call` itself is
/// [`NotInInvocation`](crate::ErrorKind::NotInInvocation). There take the [`Invocation`](crate::Invocation) out
/// of the request's extensions. A buffer outside the layer changes nothing.
#[derive(Clone)]
pub struct DatabaseLayer {
    settings: Settings,
}

impl DatabaseLayer {
    /// A layer for the connections of `database`. A layer inside another for the same
    /// database joins that: its calls belong to the outer one's invocation. Its
    /// `max_duration` counts for them as well, the tighter one first, and where it has a
    /// `commit_when` of its own, that judges its responses in the outer one's place.
    ///
    /// For several databases, a layer each. [`connection()`](crate::connection()),
    /// [`transaction()`](crate::transaction()) and the extractors mean the innermost one;
    /// [`Database::connection`] and [`Database::transaction`] say which. Their transactions
    /// are not one: the innermost commits first, and stays committed when an outer one fails
    /// to, and the caller gets that one's error.
    pub fn new(database: Database) -> Self {
        DatabaseLayer {
            settings: Settings::new(database),
        }
    }

    /// How long a call may take at most; when that is reached the handler is dropped,
    /// its statements are cancelled and the caller gets a 504.
    ///
    /// Default: on Lambda, with the feature `lambda`, what the host says (and 29 s behind API
    /// Gateway, which waits no longer); on Vercel 300 s, its own default; elsewhere no limit.
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

    /// Which responses commit the invocation's transaction. Default: 2xx and 3xx.
    pub fn commit_when(
        mut self,
        commit_when: impl Fn(StatusCode) -> bool + Send + Sync + 'static,
    ) -> Self {
        self.settings.commit_when = Some(Arc::new(commit_when));
        self
    }
}

impl DatabaseLayer {
    /// Answers GET and HEAD of `path` with the [`health`](crate::health) of the database,
    /// without calling the service inside. Other methods, and other paths be they longer by
    /// a slash, are left to it.
    ///
    /// `path` is as the layer sees it, without the query: inside an axum router that is
    /// nested, without the prefix. On Lambda it is with or without the gateway's stage. A
    /// slash in front is added where it is missing.
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
