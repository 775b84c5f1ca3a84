//! What a function should be like.

use std::{path::PathBuf, time::Duration};

use super::Function;
use crate::{Error, Result, error::OrSay};

/// What Lambda gives an environment to shut down if it has internal extensions.
/// <https://docs.aws.amazon.com/lambda/latest/dg/lambda-runtime-environment.html>
const GRACE: Duration = Duration::from_millis(500);

/// When an environment is stopped, with SIGSTOP.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum FreezeAt {
    /// As Lambda does: once the runtime and every extension wait for what comes next.
    #[default]
    Next,
    /// As a harsher host would: once the whole response or error has arrived,
    /// before that is acknowledged.
    Response,
    /// Never, as a server would.
    Never,
}

/// What [`Function::builder`] collects.
#[derive(Clone, Debug)]
#[must_use = "a builder does nothing until it is started"]
pub struct Builder {
    pub(super) executable: PathBuf,
    pub(super) name: String,
    pub(super) variables: Vec<(String, String)>,
    pub(super) timeout: Duration,
    pub(super) overtime: Duration,
    pub(super) grace: Duration,
    pub(super) freeze_at: FreezeAt,
    pub(super) concurrency: usize,
    pub(super) snap_start: bool,
    pub(super) memory: u32,
    pub(super) echo: bool,
}

impl Builder {
    pub(super) fn new(executable: PathBuf) -> Self {
        let name = executable
            .file_stem()
            .map(|name| name.to_string_lossy().into_owned());
        Self {
            executable,
            name: name.unwrap_or_else(|| "function".to_owned()),
            variables: Vec::new(),
            timeout: Duration::from_secs(3),
            overtime: Duration::ZERO,
            grace: GRACE,
            freeze_at: FreezeAt::default(),
            concurrency: 1,
            snap_start: false,
            memory: 128,
            echo: false,
        }
    }

    /// The function's name; otherwise the executable's.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// An environment variable. Beside these a function sees what Lambda sets and
    /// PATH, and nothing else of ours; `TMPDIR` is a directory of its environment.
    pub fn env(mut self, name: impl Into<String>, value: impl ToString) -> Self {
        self.variables.push((name.into(), value.to_string()));
        self
    }

    /// How long an invocation may take; 3 seconds, as on Lambda, unless set.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// How much longer than it is told an invocation may take before it is killed; not
    /// at all unless set. For tests of what happens at a deadline and not of the margin,
    /// which a busy machine takes away.
    pub fn overtime(mut self, overtime: Duration) -> Self {
        self.overtime = overtime;
        self
    }

    /// How long an environment with extensions has from SIGTERM to SIGKILL; 500 ms, as on
    /// Lambda, unless set.
    pub fn grace(mut self, grace: Duration) -> Self {
        self.grace = grace;
        self
    }

    /// When to freeze; [`FreezeAt::Next`] unless set.
    pub fn freeze_at(mut self, freeze_at: FreezeAt) -> Self {
        self.freeze_at = freeze_at;
        self
    }

    /// How many invocations an environment serves at once, as on Lambda Managed
    /// Instances: sets `AWS_LAMBDA_MAX_CONCURRENCY`. Such an environment counts as
    /// idle, and is frozen, once that many calls wait for the next event, so the
    /// function must really make them.
    pub fn concurrency(mut self, concurrency: usize) -> Self {
        self.concurrency = concurrency;
        self
    }

    /// Whether the function is started with SnapStart: initialized, frozen where its
    /// snapshot would be taken, and restored by its first invocation. Its clocks and
    /// its memory are what they were; a restored copy would share them.
    pub fn snap_start(mut self, on: bool) -> Self {
        self.snap_start = on;
        self
    }

    /// The memory that the function is told it has, in megabytes; 128 unless set.
    pub fn memory(mut self, megabytes: u32) -> Self {
        self.memory = megabytes;
        self
    }

    /// Whether the output of the environments also goes to our own stderr.
    pub fn echo(mut self, echo: bool) -> Self {
        self.echo = echo;
        self
    }

    /// Makes the function ready. No environment is started yet: the first
    /// invocation does that, or [`Function::cold_start`].
    ///
    /// # Errors
    /// When there is no such executable.
    pub async fn start(mut self) -> Result<Function> {
        self.executable = self
            .executable
            .canonicalize()
            .or_say(|| format!("there is no executable {}", self.executable.display()))?;
        if self.concurrency == 0 {
            return Err(Error::new(
                "a concurrency of 0 serves nobody: it must be at least 1",
            ));
        }
        Function::new(self)
    }
}
