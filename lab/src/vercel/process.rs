//! The function's process: its start, its requests, and its freezes.

use std::{
    os::unix::net::UnixListener,
    path::Path,
    process::Command,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{Request, Response};
use tempfile::TempDir;
use tokio::{
    sync::oneshot,
    time::{sleep, timeout},
};

use super::{Builder, Outcome, exchange, ipc::Messages};
use crate::{
    Error, Exit, Result,
    error::OrSay,
    leash::{self, Leash},
    net,
    program::Program,
};

/// For what is read of a process that has ended.
const SOON: Duration = Duration::from_secs(1);

/// How long the process may take until it serves.
const START_LIMIT: Duration = Duration::from_secs(10);

pub(super) struct Process {
    pub(super) program: Program,
    builder: Builder,
    pub(super) messages: Messages,
    port: u16,
    requests: Mutex<Requests>,
    _leash: Leash,
    _directory: TempDir,
}

#[derive(Default)]
struct Requests {
    last: u64,
    under_way: usize,
    /// SIGTERM was sent: it is not frozen again.
    ending: bool,
}

impl Process {
    /// Starts it; the listener is for its side channel.
    pub(super) fn start(builder: Builder) -> Result<(Self, UnixListener)> {
        let directory = tempfile::Builder::new()
            .prefix("lab-vercel-")
            .tempdir()
            .or_say(|| "could not make a directory for temporary files")?;
        let path = directory.path().join("ipc");
        let listener = UnixListener::bind(&path)
            .and_then(|listener| listener.set_nonblocking(true).map(|()| listener))
            .or_say(|| format!("could not listen on {}", path.display()))?;
        let leash = Leash::new(leash::KILL, directory.path())?;
        let port = net::free_port()?;
        let mut command = command(&builder, directory.path(), &path, port);
        leash.hold(&mut command);
        let process = Self {
            program: Program::start(&mut command, builder.echo)?,
            builder,
            messages: Messages::default(),
            port,
            requests: Mutex::default(),
            _leash: leash,
            _directory: directory,
        };
        Ok((process, listener))
    }

    pub(super) async fn started(&self) -> Result<()> {
        let mut port = self.messages.port.subscribe();
        let what = tokio::select! {
            biased;
            _ = port.wait_for(Option::is_some) => {
                if self.requests().under_way == 0 && self.builder.freeze {
                    self.program.freeze();
                }
                return Ok(());
            }
            status = self.program.ended() => format!("ended ({status})"),
            () = sleep(START_LIMIT) => format!("did not serve within {START_LIMIT:?}"),
        };
        let name = self.builder.executable.display();
        Err(Error::new(format!(
            "{name} {what}; it wrote: {}",
            self.program.log().trim()
        )))
    }

    fn requests(&self) -> MutexGuard<'_, Requests> {
        self.requests.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hands the response to `early` as well, before the end of the request.
    pub(super) async fn request(
        &self,
        request: Request<Bytes>,
        early: Option<oneshot::Sender<Response<Bytes>>>,
    ) -> Result<Outcome> {
        let request_id = self.begin();
        let result = self.run(request, request_id, early).await;
        self.finish(request_id);
        result
    }

    /// Signals are sent inside the lock: freezing and thawing cannot overtake.
    fn begin(&self) -> u64 {
        let mut requests = self.requests();
        requests.last += 1;
        requests.under_way += 1;
        self.program.thaw();
        requests.last
    }

    fn finish(&self, request_id: u64) {
        self.messages.forget(request_id);
        let mut requests = self.requests();
        requests.under_way -= 1;
        if requests.under_way == 0 && self.builder.freeze && !requests.ending {
            self.program.freeze();
        }
    }

    /// Sends SIGTERM, and lets the requests that are under way end.
    pub(super) async fn terminate(&self, grace: Duration) -> Exit {
        self.requests().ending = true;
        self.program.stop(Some(grace)).await
    }

    async fn run(
        &self,
        request: Request<Bytes>,
        request_id: u64,
        early: Option<oneshot::Sender<Response<Bytes>>>,
    ) -> Result<Outcome> {
        let invocation_id = format!("{:016x}", net::random());
        let request = exchange::prepare(request, &invocation_id, request_id)?;
        let mut end = self.messages.expect_end(request_id);
        let started = Instant::now();
        let limit = self.builder.maximum;
        let response = match timeout(limit, exchange::exchange(self.port, request)).await {
            Ok(response) => response,
            Err(_) => Err(Error::new(format!("no response within {limit:?}"))),
        };
        let responded = started.elapsed();
        if let (Ok(response), Some(early)) = (&response, early) {
            let _ = early.send(response.clone());
        }
        let mut ended = None;
        // Without a response there will be no end either.
        if response.is_ok() {
            ended = tokio::select! {
                biased;
                end = &mut end => end.ok(),
                // It may have said so before, and that is still being read.
                _ = self.program.ended() => timeout(SOON, end).await.ok().and_then(Result::ok),
                () = sleep(limit.saturating_sub(responded)) => None,
            };
        }
        let ended = ended.map(|end| end - started);
        Ok(Outcome {
            response,
            started,
            responded,
            ended,
            request_id,
        })
    }
}

/// The command that starts the process, with what Vercel sets and nothing of the
/// tester's shell.
fn command(builder: &Builder, temporary: &Path, socket: &Path, port: u16) -> Command {
    let mut command = Command::new(&builder.executable);
    command.env_clear();
    command.envs(std::env::var_os("PATH").map(|path| ("PATH", path)));
    command
        .env("TMPDIR", temporary)
        .env("VERCEL", "1")
        .env("VERCEL_ENV", "production")
        .env("VERCEL_REGION", "lab1")
        .env("VERCEL_URL", "lab.vercel.app")
        .env("VERCEL_IPC_PATH", socket)
        .env("VERCEL_DEV_PORT", port.to_string())
        .env("TZ", ":UTC");
    if let Some(directory) = builder.executable.parent() {
        command.current_dir(directory);
    }
    command.envs(builder.variables.iter().map(|(name, value)| (name, value)));
    command
}
