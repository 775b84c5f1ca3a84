//! The tower layer.

pub(crate) mod arrival;
mod body;
mod future;
mod health;
mod joined;
pub(crate) mod problem;
mod service;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use http::{Response, StatusCode};
use tower_layer::Layer;

pub use body::Body;
pub use future::ResponseFuture;
pub use health::{HealthFuture, HealthService};
pub(crate) use joined::Joined;
pub use service::DatabaseService;

use crate::database::Database;
use crate::deadline::Deadline;
use crate::error::Result;
use crate::invocation::Invocation;

/// Makes every call of a service an [`Invocation`]: when its response leaves, every
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
///   does, connections are closed at once, but nobody waits for the server.)
/// - The handler does not block its thread for ever.
/// - `panic = "unwind"`, the default.
/// - Handlers return an `http::Response`: with lambda_http, not a bare `String` or
///   `Value`.
#[derive(Clone)]
pub struct DatabaseLayer {
    settings: Settings,
}

/// What the layer hands to its services.
#[derive(Clone)]
pub(crate) struct Settings {
    pub(crate) database: Database,
    pub(crate) max_duration: Option<Duration>,
    health_check: Option<Arc<str>>,
    commit_when: Option<Arc<dyn Fn(StatusCode) -> bool + Send + Sync>>,
}

/// What a layer inside another made of a response.
#[derive(Debug, Clone, Copy)]
struct Judged {
    commits: bool,
}

impl DatabaseLayer {
    /// A layer for the connections of `database`. For several databases, a layer
    /// each; a layer inside another for the same database joins that: its calls belong to
    /// the outer one's invocation. Its `max_duration` counts for them as well, the tighter
    /// one first, and where it has a `commit_when` of its own, that judges its responses in
    /// the outer one's place.
    pub fn new(database: Database) -> Self {
        DatabaseLayer {
            settings: Settings {
                database,
                max_duration: None,
                health_check: None,
                commit_when: None,
            },
        }
    }

    /// How long a call may take at most; when that is reached the handler is dropped,
    /// its statements are cancelled and the caller gets a 504.
    ///
    /// Default: on Lambda, with the feature `lambda`, what the host says (and 29 s behind API
    /// Gateway, which waits no longer); on Vercel 300 s, its own default; elsewhere no limit.
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

impl Settings {
    /// Whether `response` commits: as a layer inside this one has said, or as this one does.
    pub(crate) fn commits<B>(&self, response: &Response<B>) -> bool {
        let status = response.status();
        match (response.extensions().get::<Judged>(), &self.commit_when) {
            (Some(judged), _) => judged.commits,
            (None, Some(commit_when)) => commit_when(status),
            (None, None) => status.is_success() || status.is_redirection(),
        }
    }

    /// Notes on a response what this layer, inside another, makes of it. A response that
    /// takes its place on the way out is another.
    fn judge<B>(&self, response: &mut Response<B>) {
        if self.commit_when.is_some() {
            let commits = self.commits(response);
            response.extensions_mut().insert(Judged { commits });
        }
    }

    /// Begins an invocation that may take until `deadline`, and no longer than
    /// configured. Fails if it is turned away at the door.
    pub(crate) fn begin(&self, deadline: Deadline, request_id: &str) -> Result<Invocation> {
        let deadline = match self.max_duration {
            Some(max_duration) => deadline.capped(max_duration),
            None => deadline,
        };
        let invocation = Invocation::new(self.database.clone(), deadline, request_id);
        match invocation.turned_away() {
            Some(error) => Err(error),
            None => Ok(invocation),
        }
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
