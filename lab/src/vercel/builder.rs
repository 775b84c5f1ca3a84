//! What a deployment should be like.

use std::{path::PathBuf, time::Duration};

use super::Deployment;
use crate::{Result, error::OrSay};

/// What [`Deployment::builder`] collects.
#[derive(Clone, Debug)]
#[must_use = "a builder does nothing until it is started"]
pub struct Builder {
    pub(super) executable: PathBuf,
    pub(super) variables: Vec<(String, String)>,
    pub(super) freeze: bool,
    pub(super) maximum: Duration,
    pub(super) echo: bool,
}

impl Builder {
    pub(super) fn new(executable: PathBuf) -> Self {
        Self {
            executable,
            variables: Vec::new(),
            freeze: true,
            maximum: Duration::from_secs(10),
            echo: false,
        }
    }

    /// An environment variable. Beside these the process sees what the host sets
    /// and PATH, and nothing else of ours; `TMPDIR` is a directory of its own.
    pub fn env(mut self, name: impl Into<String>, value: impl ToString) -> Self {
        self.variables.push((name.into(), value.to_string()));
        self
    }

    /// Whether the process is frozen while no request is under way; it is, unless
    /// set.
    pub fn freeze(mut self, freeze: bool) -> Self {
        self.freeze = freeze;
        self
    }

    /// How long a request may take, with what goes on behind its answer; 10 seconds
    /// unless set. The process is not told.
    pub fn max_duration(mut self, maximum: Duration) -> Self {
        self.maximum = maximum;
        self
    }

    /// Whether the output of the process also goes to our own stderr.
    pub fn echo(mut self, echo: bool) -> Self {
        self.echo = echo;
        self
    }

    /// Starts the process and waits until it serves; then it is frozen.
    ///
    /// # Errors
    /// When there is no such executable, or it ends, or does not come up in time:
    /// the error holds what it wrote.
    pub async fn start(mut self) -> Result<Deployment> {
        self.executable = self
            .executable
            .canonicalize()
            .or_say(|| format!("there is no executable {}", self.executable.display()))?;
        Deployment::new(self).await
    }
}
