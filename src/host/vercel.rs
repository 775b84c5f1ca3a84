//! Requests of Vercel's runtime.

use std::fmt;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use http::{Method, Response};
use http_body_util::BodyExt;
use pin_project_lite::pin_project;
use tokio::sync::oneshot;
use tower_service::Service;
use vercel_runtime::{AppState, Error, Request, ResponseBody};

use crate::deadline::Deadline;
use crate::layer::{Body, Call, DatabaseService, ResponseFuture, problem};
use crate::lifecycle::Linger;

/// How long Vercel runs a function unless `maxDuration` says otherwise ("Configuring
/// Maximum Duration for Vercel Functions", with fluid compute).
const MAX_DURATION: Duration = Duration::from_secs(300);

impl<S> Service<(AppState, Request)> for DatabaseService<S>
where
    S: Service<(AppState, Request), Response = Response<ResponseBody>, Error = Error>,
{
    type Response = Response<ResponseBody>;
    type Error = Error;
    type Future = VercelFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, (state, mut request): (AppState, Request)) -> Self::Future {
        let deadline = Deadline::after(self.settings.max_duration.unwrap_or(MAX_DURATION));
        let database = &self.settings.database;
        if let Some(health) = self.settings.health_of(&request) {
            let guard = waited_for(&state, database.linger(deadline));
            return VercelFuture {
                response: ResponseFuture::health(health.guarded(guard)),
            };
        }
        let is_head = request.method() == Method::HEAD;
        let id = request.headers().get("x-vercel-id");
        let id = id.and_then(|id| id.to_str().ok()).unwrap_or_default();
        let id = id.to_owned();
        let (settings, judge) = (&self.settings, self.settings.clone());
        let call = Call::new(settings, judge, (deadline, &id), |invocation| {
            if let Some(invocation) = invocation {
                invocation.guard(waited_for(&state, database.linger(deadline)));
                request.extensions_mut().insert(invocation.clone());
            }
            self.inner.call((state, request))
        });
        VercelFuture {
            response: ResponseFuture::new(call, is_head),
        }
    }
}

/// Returns a guard: the host sends `end`, and exits after a SIGTERM, only after it was dropped and
/// the wait after it has ended.
fn waited_for(state: &AppState, linger: Option<Linger>) -> impl Send + use<> {
    let (guard, dropped) = oneshot::channel::<()>();
    state.wait_until(async move {
        let _ = dropped.await;
        if let Some(linger) = linger {
            linger.end().await;
        }
    });
    guard
}

pin_project! {
    /// The response to a request on Vercel, once everything that the call used is at
    /// rest. A panic of the handler is a 500: the runtime would only hang up.
    #[must_use = "futures do nothing unless they are awaited"]
    pub struct VercelFuture<F: Future> {
        #[pin]
        response: ResponseFuture<F>,
    }
}

impl<F> Future for VercelFuture<F>
where
    F: Future<Output = Result<Response<ResponseBody>, Error>>,
{
    type Output = Result<Response<ResponseBody>, Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let response = self.project().response;
        let polled = catch_unwind(AssertUnwindSafe(|| response.poll(cx)));
        Poll::Ready(match polled {
            Ok(polled) => ready!(polled).map(|response| response.map(into_response_body)),
            // The panic hook has printed it already.
            Err(_) => Ok(problem::panicked().map(ResponseBody::from)),
        })
    }
}

fn into_response_body(body: Body<ResponseBody>) -> ResponseBody {
    body.into_whole()
        .unwrap_or_else(|body| ResponseBody(body.boxed()))
}

impl<F: Future> fmt::Debug for VercelFuture<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("VercelFuture")
    }
}
