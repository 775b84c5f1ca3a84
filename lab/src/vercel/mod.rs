//! A Vercel host that really freezes: it runs an executable built with
//! `vercel_runtime`, one process that serves many requests at once.
//!
//! The process is stopped with SIGSTOP once every response is complete and every
//! request's `end` has come over the side channel (which `wait_until` holds back),
//! and goes on with the next request.
//!
//! ```no_run
//! use lab::vercel::Deployment;
//!
//! # async fn example() -> lab::Result<()> {
//! let deployment = Deployment::builder("target/debug/partners")
//!     .env("DATABASE_URL", "postgres://...")
//!     .start()
//!     .await?;
//! let outcome = deployment.request(http::Request::get("/api/partners").body("").unwrap()).await?;
//! assert_eq!(outcome.response?.status(), 200);
//! deployment.frozen().await?;
//! // ... what has the frozen process left in the database? ...
//! println!("{}", deployment.terminate().await.status);
//! # Ok(())
//! # }
//! ```

mod builder;
mod exchange;
mod ipc;
mod process;

use std::{
    fmt,
    path::PathBuf,
    process::ExitStatus,
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{body::Body, extract::State as Shared, response::IntoResponse};
use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::BodyExt;
use tokio::{net::TcpListener, sync::oneshot};

pub use self::builder::Builder;
use self::process::Process;
use crate::{
    Error, Exit, Result,
    background::Background,
    error::OrSay,
    program::{Program, State},
};

/// How long it may take to end after SIGTERM.
const GRACE: Duration = Duration::from_secs(10);

/// A running function; see the [module](self). A handle: clones are the same
/// process, which is killed with the last of them.
#[derive(Clone)]
pub struct Deployment {
    owner: Arc<Owner>,
}

/// What ends with the last handle.
struct Owner {
    process: Arc<Process>,
    background: Background,
}

/// How a request went.
#[derive(Debug)]
#[non_exhaustive]
pub struct Outcome {
    /// The response, or why there is none: a handler that panicked closes the
    /// connection.
    pub response: Result<Response<Bytes>>,
    /// When the request was sent.
    pub started: Instant,
    /// From there until the response was complete.
    pub responded: Duration,
    /// From there until the process said that the request had ended; `None` if it
    /// did not, which is so without a response.
    pub ended: Option<Duration>,
    /// The id that the process saw.
    pub request_id: u64,
}

impl Deployment {
    /// A deployment of this executable.
    pub fn builder(executable: impl Into<PathBuf>) -> Builder {
        Builder::new(executable.into())
    }

    async fn new(builder: Builder) -> Result<Self> {
        let background = Background::start("lab-vercel")?;
        let (process, listener) = Process::start(builder)?;
        let process = Arc::new(process);
        let reading = process.clone();
        background.spawn(async move {
            if let Ok(listener) = tokio::net::UnixListener::from_std(listener) {
                reading.messages.read(listener, &reading.program).await;
            }
        });
        let deployment = Self {
            owner: Arc::new(Owner {
                process: process.clone(),
                background,
            }),
        };
        deployment
            .run(async move { process.started().await })
            .await?;
        Ok(deployment)
    }

    /// Sends a request and waits for its response and its `end`. The request goes
    /// on if this future is dropped.
    ///
    /// # Errors
    /// When the request cannot be sent at all; a response that does not come is in
    /// the [`Outcome`].
    pub async fn request<B: Into<Bytes>>(&self, request: Request<B>) -> Result<Outcome> {
        let (process, request) = (self.owner.process.clone(), request.map(Into::into));
        self.run(async move { process.request(request, None).await })
            .await
    }

    /// Serves the function to any HTTP client, until the future is dropped.
    ///
    /// # Errors
    /// When the listener fails.
    pub async fn serve(&self, listener: TcpListener) -> Result<()> {
        let router = axum::Router::new().fallback(front).with_state(self.clone());
        axum::serve(listener, router)
            .await
            .or_say(|| "could not serve the function")
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.program().pid()
    }

    /// Whether every thread of the process is stopped.
    pub fn is_frozen(&self) -> bool {
        self.program().state() == State::Frozen
    }

    /// Waits until every thread of the process is stopped.
    ///
    /// # Errors
    /// When it has ended instead.
    pub async fn frozen(&self) -> Result<()> {
        self.program().frozen().await
    }

    /// Sends SIGSTOP by hand; see [`frozen`](Deployment::frozen).
    pub fn freeze(&self) {
        self.program().freeze();
    }

    /// Sends SIGCONT by hand; the next request does so by itself.
    pub fn thaw(&self) {
        self.program().thaw();
    }

    /// Whether the process is there, frozen or not.
    pub fn is_alive(&self) -> bool {
        !self.program().has_ended()
    }

    /// Waits until the process has ended, for whatever reason.
    pub async fn ended(&self) -> ExitStatus {
        self.program().ended().await
    }

    /// What the process has written, to either of its streams and over the side
    /// channel. What it wrote just before it answered may take a moment to arrive:
    /// see [`logged`](Self::logged).
    pub fn log(&self) -> String {
        self.program().log()
    }

    /// Waits until the log holds `text`.
    ///
    /// # Errors
    /// When the process ends before.
    pub async fn logged(&self, text: &str) -> Result<()> {
        self.program().logged(text).await
    }

    /// Thaws the process, sends SIGTERM, and SIGKILL if it has not ended within ten
    /// seconds.
    pub async fn terminate(&self) -> Exit {
        let process = self.owner.process.clone();
        let work = self
            .owner
            .background
            .spawn(async move { process.terminate(GRACE).await });
        match work.await {
            Ok(exit) => exit,
            // Not reached: the background ends with the last handle.
            Err(_) => self.program().stop(None).await,
        }
    }

    fn program(&self) -> &Program {
        &self.owner.process.program
    }

    async fn run<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T>> + Send + 'static,
    ) -> Result<T> {
        match self.owner.background.spawn(work).await {
            Ok(result) => result,
            Err(error) => Err(Error::because("the lab's own work broke off", error)),
        }
    }
}

/// Any HTTP request: the response leaves before the request's end. A 502 if there is none.
async fn front(
    Shared(deployment): Shared<Deployment>,
    request: Request<Body>,
) -> axum::response::Response {
    let (parts, body) = request.into_parts();
    let Ok(body) = body.collect().await else {
        return StatusCode::BAD_REQUEST.into_response();
    };
    let request = Request::from_parts(parts, body.to_bytes());
    let (early, response) = oneshot::channel();
    let process = deployment.owner.process.clone();
    let background = &deployment.owner.background;
    background.spawn(async move { process.request(request, Some(early)).await });
    match response.await {
        Ok(response) => response.map(Body::from),
        Err(_) => (StatusCode::BAD_GATEWAY, "no response\n").into_response(),
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        // Work in the background may still hold the process.
        self.process.program.kill();
    }
}

impl fmt::Debug for Deployment {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Deployment")
            .field("pid", &self.pid())
            .field("state", &self.program().state())
            .finish_non_exhaustive()
    }
}
