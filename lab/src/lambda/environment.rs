//! An execution environment: one process of the function, and what it is doing.

use std::{
    fmt,
    path::Path,
    process::ExitStatus,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    time::{Duration, Instant},
};

use serde_json::Value;
use tokio::{
    runtime::Handle,
    sync::{oneshot, watch},
};

use super::{
    Answer, Builder, FreezeAt, api,
    state::{Event, Phase, State},
    variables,
};
use crate::{
    Exit, Result,
    error::OrSay,
    leash::Leash,
    net,
    program::{self, Program},
};

/// One process of a function. A handle: clones are the same environment.
#[derive(Clone)]
pub struct Environment {
    pub(super) inner: Arc<Inner>,
}

pub(super) struct Inner {
    id: String,
    pub(super) builder: Arc<Builder>,
    pub(super) program: Program,
    state: Mutex<State>,
    /// Phase and homecomings, whenever they may have changed.
    pub(super) progress: watch::Sender<(Phase, u64)>,
    pub(super) init_error: OnceLock<Answer>,
    started: Instant,
    initialized: OnceLock<Duration>,
    pub(super) runtime: Handle,
}

impl Environment {
    /// Starts the process; `claimed` if an invocation waits for it already.
    pub(super) fn start(
        number: usize,
        builder: &Arc<Builder>,
        leash: &Leash,
        directory: &Path,
        runtime: &Handle,
        claimed: bool,
    ) -> Result<Self> {
        let id = format!("{}-{number}", builder.name);
        let listener = net::listen()?;
        let address = listener
            .local_addr()
            .or_say(|| "a listener without an address")?;
        // On Lambda, /tmp belongs to one environment.
        let temporary = directory.join(number.to_string());
        std::fs::create_dir(&temporary)
            .or_say(|| format!("could not make {}", temporary.display()))?;
        let mut command = variables::command(builder, &id, &temporary, address);
        leash.hold(&mut command);
        let mut state = State::new(builder.freeze_at, builder.concurrency);
        if claimed {
            state.claim();
        }
        let inner = Arc::new(Inner {
            id,
            builder: builder.clone(),
            started: Instant::now(),
            program: Program::start(&mut command, builder.echo)?,
            state: Mutex::new(state),
            progress: watch::Sender::new((Phase::Init, 0)),
            init_error: OnceLock::new(),
            initialized: OnceLock::new(),
            runtime: runtime.clone(),
        });
        listener
            .set_nonblocking(true)
            .or_say(|| "could not listen")?;
        let serving = inner.clone();
        runtime.spawn(async move {
            let Ok(listener) = tokio::net::TcpListener::from_std(listener) else {
                return;
            };
            tokio::select! {
                _ = axum::serve(listener, api::router(serving.clone())) => {}
                _ = serving.program.ended() => {}
            }
            serving.change(State::end);
        });
        Ok(Self { inner })
    }

    /// The environment's name, which is its log stream's too.
    pub fn id(&self) -> &str {
        &self.inner.id
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.inner.program.pid()
    }

    /// Whether every thread of the process is stopped.
    pub fn is_frozen(&self) -> bool {
        self.inner.program.state() == program::State::Frozen
    }

    /// Waits until every thread of the process is stopped.
    ///
    /// # Errors
    /// When it has ended instead.
    pub async fn frozen(&self) -> Result<()> {
        self.inner.program.frozen().await
    }

    /// Sends SIGSTOP by hand; see [`frozen`](Environment::frozen).
    pub fn freeze(&self) {
        self.inner.program.freeze();
    }

    /// Sends SIGCONT by hand; the next event does so by itself.
    pub fn thaw(&self) {
        self.inner.program.thaw();
    }

    /// Whether the process is there, frozen or not.
    pub fn is_alive(&self) -> bool {
        !self.inner.program.has_ended()
    }

    /// Waits until the process has ended, for whatever reason.
    pub async fn ended(&self) -> ExitStatus {
        self.inner.program.ended().await
    }

    /// What the process has written, to either of its streams. What it wrote just
    /// before it answered may take a moment to arrive: see [`logged`](Self::logged).
    pub fn log(&self) -> String {
        self.inner.program.log()
    }

    /// Waits until the log holds `text`.
    ///
    /// # Errors
    /// When the process ends before.
    pub async fn logged(&self, text: &str) -> Result<()> {
        self.inner.program.logged(text).await
    }

    /// How long the init phase took; `None` while it lasts, or when it failed.
    pub fn init_duration(&self) -> Option<Duration> {
        self.inner.initialized.get().copied()
    }

    /// Shuts the environment down as Lambda does: thaws it; with an extension, sends
    /// SIGTERM, and SIGKILL after 500 ms; without, SIGKILL at once. (The two seconds
    /// that external extensions get are not for the function's process.)
    pub async fn shutdown(&self) -> Exit {
        let inner = self.inner.clone();
        let work = self
            .inner
            .runtime
            .spawn(async move { inner.shut_down().await });
        match work.await {
            Ok(exit) => exit,
            // The function was dropped meanwhile, which kills.
            Err(_) => self.inner.program.stop(None).await,
        }
    }
}

impl fmt::Debug for Environment {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Environment")
            .field("id", &self.id())
            .field("pid", &self.pid())
            .field("state", &self.inner.program.state())
            .finish_non_exhaustive()
    }
}

/// What the Runtime API tells, and what the function's owner wants.
impl Inner {
    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the state, freezes if that is what follows, and tells everybody.
    /// Signals are sent inside the lock: freezing and thawing cannot overtake.
    pub(super) fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let mut state = self.state();
        let result = change(&mut state);
        if matches!(state.phase, Phase::Snapshot | Phase::Ready) {
            self.initialized.get_or_init(|| self.started.elapsed());
        }
        if state.should_freeze() {
            self.program.freeze();
        }
        self.progress
            .send_replace((state.phase, state.homecomings()));
        result
    }

    pub(super) fn function_name(&self) -> &str {
        &self.builder.name
    }

    pub(super) fn next(&self) -> oneshot::Receiver<Event> {
        self.change(State::next)
    }

    pub(super) fn restore_next(&self) -> oneshot::Receiver<()> {
        self.change(State::restore_next)
    }

    /// Takes an answer; false if there was no such question.
    pub(super) async fn answer(&self, request_id: &str, answer: Answer) -> bool {
        let (known, harsh, thaws) = self.change(|state| {
            let known = state.answer(request_id, answer);
            let harsh = self.builder.freeze_at == FreezeAt::Response && state.should_freeze();
            (known, harsh, self.program.thaws())
        });
        if harsh {
            // So that the acknowledgement finds it stopped, unless the next event
            // has thawed it already.
            self.program.frozen_or_thawed(thaws).await;
        }
        known
    }

    pub(super) fn init_failed(&self, failure: Answer) {
        let _ = self.init_error.set(failure);
    }

    /// Only during the init phase.
    pub(super) fn register(&self, identifier: String, events: &[&str]) -> bool {
        self.change(|state| {
            let open = state.phase == Phase::Init;
            if open {
                state.register(identifier, events);
            }
            open
        })
    }

    pub(super) fn extension_next(&self, identifier: &str) -> Option<oneshot::Receiver<Value>> {
        self.change(|state| state.extension_next(identifier))
    }

    pub(super) fn note(&self, text: &str) {
        self.program.write_log(format!("{text}\n").as_bytes());
    }

    pub(super) fn kill(&self) {
        self.program.kill();
    }
}
