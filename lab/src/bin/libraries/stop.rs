//! The earliest freeze that can be thought of: when the handler has returned, before
//! the runtime has even seen the response.

use std::future::Future;
use std::panic::{AssertUnwindSafe, resume_unwind};
use std::pin::Pin;
use std::task::{Context, Poll};

use futures_util::FutureExt;
use tower::Service;

use crate::variable;

/// Says what the service has answered, and then stops the whole process, if `STOP` is
/// set.
pub struct StopsWhenReturned<S>(pub S);

impl<S, R> Service<R> for StopsWhenReturned<S>
where
    S: Service<R>,
    S::Future: Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<S::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: R) -> Self::Future {
        let answer = self.0.call(request);
        Box::pin(async move {
            let answer = AssertUnwindSafe(answer).catch_unwind().await;
            match &answer {
                Ok(Ok(_)) => println!("returned: an answer"),
                Ok(Err(_)) | Err(_) => println!("returned: an error"),
            }
            if !variable("STOP").is_empty() {
                let _ = rustix::process::kill_process(
                    rustix::process::getpid(),
                    rustix::process::Signal::STOP,
                );
            }
            answer.unwrap_or_else(|panic| resume_unwind(panic))
        })
    }
}
