//! Serves the health report over HTTP.

use std::convert::Infallible;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use serde::Serialize;
use tower_service::Service;

use super::arrival;
use super::settings::LayerSettings;
use crate::database::Database;
use crate::health::{Health, Status};

/// Answers every GET and HEAD with the [`health`](crate::health) of a database, whatever the path,
/// and other methods with 405.
///
/// ```no_run
/// # #[cfg(feature = "axum")] mod function {
/// use antifreeze::layer::HealthService;
/// use antifreeze::{Database, DatabaseLayer};
/// use axum::Router;
/// use axum::routing::get;
///
/// fn router(database: Database) -> Router {
///     Router::new()
///         .route("/partners", get(async || "none"))
///         .layer(DatabaseLayer::new(database.clone()))
///         .route_service("/health/db", HealthService::new(database))
/// }
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct HealthService {
    database: Database,
}

/// The answer of a [`HealthService`].
#[must_use = "futures do nothing unless they are awaited"]
pub struct HealthFuture {
    answer: Pin<Box<dyn Future<Output = Response<String>> + Send>>,
}

impl HealthService {
    /// Creates a service that reports the health of `database`.
    pub fn new(database: Database) -> Self {
        HealthService { database }
    }
}

impl<B> Service<Request<B>> for HealthService {
    type Response = Response<String>;
    type Error = Infallible;
    type Future = HealthFuture;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> HealthFuture {
        if is_read(request.method()) {
            HealthFuture::new(&self.database, request.method(), request.headers())
        } else {
            HealthFuture {
                answer: Box::pin(std::future::ready(not_allowed())),
            }
        }
    }
}

impl LayerSettings {
    /// Returns the answer if the request is for the health report.
    pub(crate) fn health_of<B>(&self, request: &Request<B>) -> Option<HealthFuture> {
        let path = self.health_check.as_deref()?;
        let asked = is_read(request.method()) && arrival::is_at(request, path);
        asked.then(|| HealthFuture::new(&self.database, request.method(), request.headers()))
    }
}

impl HealthFuture {
    fn new(database: &Database, method: &Method, headers: &HeaderMap) -> Self {
        let detailed = database.monitor().trusts(headers);
        let head = method == Method::HEAD;
        let health = database.health();
        HealthFuture {
            answer: Box::pin(async move { answer(&health.await, detailed, head) }),
        }
    }

    /// Keeps `guard` until the answer is ready.
    #[cfg(feature = "vercel")]
    pub(crate) fn guarded(self, guard: impl Send + 'static) -> Self {
        let answer = async move {
            let answer = self.answer.await;
            drop(guard);
            answer
        };
        HealthFuture {
            answer: Box::pin(answer),
        }
    }
}

impl Future for HealthFuture {
    type Output = Result<Response<String>, Infallible>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.answer.as_mut().poll(cx).map(Ok)
    }
}

impl fmt::Debug for HealthFuture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HealthFuture")
    }
}

fn is_read(method: &Method) -> bool {
    method == Method::GET || method == Method::HEAD
}

/// The public part of the report.
#[derive(Serialize)]
struct Brief {
    status: Status,
}

fn answer(health: &Health, detailed: bool, head: bool) -> Response<String> {
    let body = match detailed {
        _ if head => Ok(String::new()),
        true => serde_json::to_string(health),
        false => serde_json::to_string(&Brief {
            status: health.status,
        }),
    };
    // Serializing cannot fail: all keys are strings.
    let mut response = Response::new(body.unwrap_or_default());
    *response.status_mut() = health.status_code();
    let headers = response.headers_mut();
    let json = HeaderValue::from_static("application/json");
    headers.insert(header::CONTENT_TYPE, json);
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

fn not_allowed() -> Response<String> {
    let mut response = Response::new(String::new());
    *response.status_mut() = StatusCode::METHOD_NOT_ALLOWED;
    let allowed = HeaderValue::from_static("GET, HEAD");
    response.headers_mut().insert(header::ALLOW, allowed);
    response
}
