//! A Lambda that really freezes: it runs an executable built with `lambda_runtime`
//! or `lambda_http` as Lambda would, and stops the process in between with SIGSTOP.
//!
//! An invocation goes to an idle environment, or to one that is on its way back
//! from its last, or starts a new one. Each is a process with a Runtime API and an
//! Extensions API of its own. It is frozen when the runtime and every extension wait
//! for what comes next ([`FreezeAt`] knows harsher hosts), thawed with the next event,
//! and killed when it does not answer in time. Processes that it starts itself are
//! not frozen with it. Dropping the [`Function`] kills all.
//!
//! ```no_run
//! use lab::lambda::{Answer, Function};
//!
//! # async fn example() -> lab::Result<()> {
//! let function = Function::builder("target/debug/shop")
//!     .env("DATABASE_URL", "postgres://...")
//!     .start()
//!     .await?;
//! let request = http::Request::get("/partners").body("").unwrap();
//! let (response, outcome) = function.request(request).await?;
//! assert_eq!(response.status(), 200);
//! outcome.environment.frozen().await?;
//! // ... what has the frozen process left in the database? ...
//! for exit in function.shutdown().await {
//!     println!("{} after {:?}", exit.status, exit.took);
//! }
//! # Ok(())
//! # }
//! ```

mod api;
mod builder;
mod environment;
pub mod http;
mod invocation;
mod outcome;
mod state;
mod variables;

use std::{
    fmt,
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum::{body::Body, extract::State, response::IntoResponse};
use bytes::Bytes;
use http_body_util::BodyExt;
use tempfile::TempDir;
use tokio::{net::TcpListener, runtime::Handle};

pub use self::{
    builder::{Builder, FreezeAt},
    environment::Environment,
    outcome::{Answer, Outcome, Payload},
};
use crate::{
    Error, Exit, Result,
    background::Background,
    error::OrSay,
    leash::{self, Leash},
};

/// A function and its environments; see the [module](self). A handle: clones are
/// the same function, which ends with the last of them.
#[derive(Clone)]
pub struct Function {
    owner: Arc<Owner>,
}

/// What ends with the last handle.
struct Owner {
    fleet: Arc<Fleet>,
    background: Background,
}

/// The environments. Work in the background holds on to this, not to the owner.
struct Fleet {
    builder: Arc<Builder>,
    runtime: Handle,
    leash: Leash,
    /// What the environments have as /tmp.
    directory: TempDir,
    environments: Mutex<Vec<Environment>>,
    started: AtomicUsize,
}

impl Function {
    /// A function whose code is this executable.
    pub fn builder(executable: impl Into<PathBuf>) -> Builder {
        Builder::new(executable.into())
    }

    fn new(builder: Builder) -> Result<Self> {
        let background = Background::start("lab-lambda")?;
        let directory = tempfile::Builder::new()
            .prefix("lab-lambda-")
            .tempdir()
            .or_say(|| "could not make a directory for temporary files")?;
        let fleet = Fleet {
            builder: Arc::new(builder),
            runtime: background.handle().clone(),
            leash: Leash::new(leash::KILL, directory.path())?,
            directory,
            environments: Mutex::default(),
            started: AtomicUsize::new(0),
        };
        Ok(Self {
            owner: Arc::new(Owner {
                fleet: Arc::new(fleet),
                background,
            }),
        })
    }

    /// Invokes the function. The invocation goes on if this future is dropped.
    ///
    /// # Errors
    /// When an environment could not be started; everything else is an [`Answer`].
    pub async fn invoke(&self, payload: impl Into<Payload>) -> Result<Outcome> {
        self.invoke_within(payload, self.owner.fleet.builder.timeout)
            .await
    }

    /// Invokes the function with a timeout of its own, which is in the deadline
    /// that the function is told.
    ///
    /// # Errors
    /// Those of [`invoke`](Function::invoke).
    pub async fn invoke_within(
        &self,
        payload: impl Into<Payload>,
        timeout: Duration,
    ) -> Result<Outcome> {
        let (fleet, payload) = (self.owner.fleet.clone(), payload.into());
        self.run(async move { fleet.invoke(payload, timeout).await })
            .await
    }

    /// Sends a request through the gateway; see [`http`].
    ///
    /// # Errors
    /// Those of [`invoke`](Function::invoke), and answers that are no response.
    pub async fn request<B: Into<Bytes>>(
        &self,
        request: ::http::Request<B>,
    ) -> Result<(::http::Response<Bytes>, Outcome)> {
        let outcome = self.invoke(http::event(&request.map(Into::into))).await?;
        Ok((http::response(&outcome.answer)?, outcome))
    }

    /// Serves the function to any HTTP client, until the future is dropped.
    ///
    /// # Errors
    /// When the listener fails.
    pub async fn serve(&self, listener: TcpListener) -> Result<()> {
        let router = axum::Router::new()
            .fallback(gateway)
            .with_state(self.clone());
        axum::serve(listener, router)
            .await
            .or_say(|| "could not serve the function")
    }

    /// Starts one more environment and waits for the end of its init phase; then
    /// it is frozen.
    ///
    /// # Errors
    /// When the init phase fails.
    pub async fn cold_start(&self) -> Result<Environment> {
        let fleet = self.owner.fleet.clone();
        self.run(async move {
            let environment = fleet.start_environment(false)?;
            match environment.inner.initialized().await {
                Ok(()) => Ok(environment),
                Err(answer) => Err(Error::new(format!(
                    "the init phase of {} failed: {answer:?}; its log: {}",
                    environment.id(),
                    environment.log().trim()
                ))),
            }
        })
        .await
    }

    /// The environments that are alive, the oldest first.
    pub fn environments(&self) -> Vec<Environment> {
        let mut environments = self.owner.fleet.environments().clone();
        environments.retain(Environment::is_alive);
        environments
    }

    /// Shuts every environment down; see [`Environment::shutdown`]. The next
    /// invocation starts a new one.
    pub async fn shutdown(&self) -> Vec<Exit> {
        let mut waiting = Vec::new();
        for environment in self.environments() {
            let inner = environment.inner.clone();
            waiting.push(
                self.owner
                    .background
                    .spawn(async move { inner.shut_down().await }),
            );
        }
        let mut exits = Vec::new();
        for exit in waiting {
            exits.extend(exit.await);
        }
        exits
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

impl Fleet {
    fn environments(&self) -> MutexGuard<'_, Vec<Environment>> {
        self.environments
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    async fn invoke(&self, payload: Payload, timeout: Duration) -> Result<Outcome> {
        loop {
            let (environment, cold) = self.claim()?;
            let outcome = environment
                .inner
                .invoke(payload.clone(), timeout, cold)
                .await;
            if let Some(outcome) = outcome {
                return Ok(outcome);
            }
        }
    }

    /// A place for an invocation: where it can start at once, where it soon can, or
    /// in a new environment.
    fn claim(&self) -> Result<(Environment, bool)> {
        {
            let mut environments = self.environments();
            environments.retain(Environment::is_alive);
            for idle in [true, false] {
                let mut claims = environments.iter();
                if let Some(environment) = claims.find(|one| one.inner.claim(idle)) {
                    return Ok((environment.clone(), false));
                }
            }
        }
        Ok((self.start_environment(true)?, true))
    }

    fn start_environment(&self, claimed: bool) -> Result<Environment> {
        let number = self.started.fetch_add(1, Ordering::Relaxed) + 1;
        let environment = Environment::start(
            number,
            &self.builder,
            &self.leash,
            self.directory.path(),
            &self.runtime,
            claimed,
        )?;
        self.environments().push(environment.clone());
        Ok(environment)
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        // By hand, since whoever still has an environment keeps it from being dropped.
        for environment in self.fleet.environments().drain(..) {
            environment.inner.kill();
        }
    }
}

impl fmt::Debug for Function {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Function")
            .field("name", &self.owner.fleet.builder.name)
            .field("environments", &self.environments())
            .finish_non_exhaustive()
    }
}

/// Any HTTP request, as an invocation.
async fn gateway(
    State(function): State<Function>,
    request: ::http::Request<Body>,
) -> axum::response::Response {
    let (parts, body) = request.into_parts();
    let answer = async {
        let body = body
            .collect()
            .await
            .or_say(|| "the request broke off")?
            .to_bytes();
        function
            .request(::http::Request::from_parts(parts, body))
            .await
    };
    match answer.await {
        Ok((response, _)) => response.map(Body::from),
        Err(error) => (::http::StatusCode::BAD_GATEWAY, format!("{error:?}\n")).into_response(),
    }
}
