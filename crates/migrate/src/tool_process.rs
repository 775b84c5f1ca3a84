//! Runs the process of a tool, passes its output on, and searches it for timeouts.

use std::io::Write;
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::{Child, Command};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use super::error::{Error, ErrorKind, Result};

/// The words in a tool's output that indicate a timeout: the server's English messages, and
/// (only if the tool failed, since they may be quoted elsewhere) the SQLSTATE and its name.
const WORDS: [(u8, &str); 4] = [
    (LOCK, "due to lock timeout"),
    (STATEMENT, "due to statement timeout"),
    (IF_FAILED, "55P03"),
    (IF_FAILED, "LockNotAvailable"),
];
const LOCK: u8 = 1;
const STATEMENT: u8 = 2;
const IF_FAILED: u8 = 4;

/// How long the tool's background processes may continue before they receive SIGTERM.
const BACKGROUND_TIMEOUT: Duration = Duration::from_millis(500);

/// How long a process may take to end after SIGTERM before it is killed.
pub(super) const GRACE: Duration = Duration::from_secs(5);

/// How often to check whether the processes have ended.
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// How long to wait for a killed process.
const KILL_TIMEOUT: Duration = Duration::from_secs(1);

/// The process of a tool, with its child processes. If dropped, they receive SIGTERM.
pub(super) struct ToolProcess {
    child: Child,
    group: Option<Group>,
    /// The tasks that pass the output on.
    output: [JoinHandle<()>; 2],
    output_state: Arc<OutputState>,
}

/// Location the output has contained so far.
#[derive(Default)]
struct OutputState {
    words: AtomicU8,
    /// The number of chunks read.
    chunks: AtomicUsize,
}

/// The timeout that ended a statement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Limit {
    Lock,
    Statement,
}

impl Limit {
    /// Returns the name of the setting.
    pub(super) fn name(self) -> &'static str {
        match self {
            Limit::Lock => "lock_timeout",
            Limit::Statement => "statement_timeout",
        }
    }
}

impl ToolProcess {
    pub(super) fn spawn(name: &str, command: &mut Command, to_stderr: bool) -> Result<ToolProcess> {
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        // A shell does not pass signals on: they are sent to the whole process group.
        #[cfg(unix)]
        command.process_group(0);
        let mut child = command.spawn().map_err(|error| {
            let message = format!(
                "cannot start {}: check that it is installed and on the PATH",
                name
            );
            Error::new(ErrorKind::Tool, message).with_source(error)
        })?;
        let to: Box<dyn Write + Send> = if to_stderr {
            Box::new(std::io::stderr())
        } else {
            Box::new(std::io::stdout())
        };
        let output_state = Arc::<OutputState>::default();
        let [out, err] = [(); 2].map(|()| Arc::clone(&output_state));
        let output = [
            tokio::spawn(pass_on(child.stdout.take(), to, out)),
            tokio::spawn(pass_on(child.stderr.take(), std::io::stderr(), err)),
        ];
        Ok(ToolProcess {
            group: Group::of(&child),
            child,
            output,
            output_state,
        })
    }

    /// Waits for the tool; returns its exit status and the timeout that its output mentions.
    /// Ends its background processes, which must not outlive the lock.
    pub(super) async fn ended(&mut self) -> Result<(ExitStatus, Option<Limit>)> {
        let status = self.child.wait().await.map_err(|error| {
            Error::new(ErrorKind::Tool, "cannot wait for the tool").with_source(error)
        })?;
        let all = async {
            if let Some(group) = self.group {
                self.is_gone(group).await;
            }
            self.passed_on().await;
        };
        if timeout(BACKGROUND_TIMEOUT, all).await.is_err() {
            self.end_all(GRACE).await;
        }
        self.group = None;
        let words = self.output_state.words.load(Ordering::Relaxed);
        let limit = if words & LOCK > 0 || words & IF_FAILED > 0 && !status.success() {
            Some(Limit::Lock)
        } else {
            (words & STATEMENT > 0).then_some(Limit::Statement)
        };
        Ok((status, limit))
    }

    /// Sends SIGTERM to all processes, waits, and kills those left after `grace`. Their last
    /// output is still passed on.
    pub(super) async fn end(mut self, grace: Duration) {
        self.end_all(grace).await;
        self.group = None;
    }

    async fn end_all(&mut self, grace: Duration) {
        let Some(group) = self.group else { return };
        for (signal, limit) in [(Signal::End, grace), (Signal::Kill, KILL_TIMEOUT)] {
            group.send(signal, &mut self.child);
            if timeout(limit, self.is_gone(group)).await.is_ok() {
                break;
            }
        }
        // A process that has left the group may keep the pipe open: pass on what is in it.
        let output_state = Arc::clone(&self.output_state);
        let mut chunks = usize::MAX;
        while chunks != output_state.chunks.load(Ordering::Relaxed) {
            chunks = output_state.chunks.load(Ordering::Relaxed);
            let _ = timeout(POLL_INTERVAL, self.passed_on()).await;
        }
    }

    async fn passed_on(&self) {
        while !self.output.iter().all(JoinHandle::is_finished) {
            sleep(POLL_INTERVAL / 10).await;
        }
    }

    async fn is_gone(&mut self, group: Group) {
        // A process that has ended remains in the group until it is waited for.
        let _ = self.child.wait().await;
        while !group.is_gone() {
            sleep(POLL_INTERVAL).await;
        }
    }
}

impl Drop for ToolProcess {
    fn drop(&mut self) {
        if let Some(group) = self.group {
            group.send(Signal::End, &mut self.child);
        }
        for output in &self.output {
            output.abort();
        }
    }
}

enum Signal {
    End,
    Kill,
}

/// The process group of a tool: the tool and its child processes.
#[cfg(unix)]
#[derive(Clone, Copy)]
struct Group(rustix::process::Pid);

#[cfg(unix)]
impl Group {
    fn of(child: &Child) -> Option<Group> {
        let id = i32::try_from(child.id()?).ok()?;
        rustix::process::Pid::from_raw(id).map(Group)
    }

    fn send(self, signal: Signal, _: &mut Child) {
        use rustix::process::{Signal as Unix, kill_process_group};
        let signal = match signal {
            Signal::End => Unix::TERM,
            Signal::Kill => Unix::KILL,
        };
        let _ = kill_process_group(self.0, signal);
    }

    fn is_gone(self) -> bool {
        rustix::process::test_kill_process_group(self.0) == Err(rustix::io::Errno::SRCH)
    }
}

/// Windows has neither process groups nor SIGTERM: only the tool itself is killed.
#[cfg(not(unix))]
#[derive(Clone, Copy)]
struct Group;

#[cfg(not(unix))]
impl Group {
    fn of(child: &Child) -> Option<Group> {
        child.id().map(|_| Group)
    }

    fn send(self, _: Signal, child: &mut Child) {
        let _ = child.start_kill();
    }

    fn is_gone(self) -> bool {
        true
    }
}

/// Passes the output on, and searches it for [`WORDS`].
async fn pass_on(
    from: Option<impl AsyncRead + Unpin>,
    mut to: impl Write,
    output_state: Arc<OutputState>,
) {
    let Some(mut from) = from else { return };
    let mut seen = WordSearch::default();
    let mut chunk = [0; 8 * 1024];
    while let Ok(read @ 1..) = from.read(&mut chunk).await {
        let _ = to.write_all(&chunk[..read]).and_then(|()| to.flush());
        let words = seen.take(&chunk[..read]);
        output_state.words.fetch_or(words, Ordering::Relaxed);
        output_state.chunks.fetch_add(1, Ordering::Relaxed);
    }
}

/// Searches for words in text that arrives in chunks.
#[derive(Default)]
struct WordSearch {
    /// The end of the previous chunk.
    rest: Vec<u8>,
}

impl WordSearch {
    /// Returns which of the [`WORDS`] this chunk completes.
    fn take(&mut self, chunk: &[u8]) -> u8 {
        self.rest.extend_from_slice(chunk);
        let has = |words: &str| {
            let mut places = self.rest.windows(words.len());
            places.any(|at| at == words.as_bytes())
        };
        let found = WORDS.iter().filter(|(_, words)| has(words));
        let found = found.fold(0, |found, (flag, _)| found | flag);
        let longest = WORDS.iter().map(|(_, words)| words.len()).max();
        let keep = self.rest.len().saturating_sub(longest.unwrap_or_default());
        self.rest.drain(..keep);
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_found_across_chunks() {
        let found = |pieces: &[&str]| {
            let mut seen = WordSearch::default();
            let all = pieces.iter().map(|piece| seen.take(piece.as_bytes()));
            all.fold(0, |all, found| all | found)
        };
        assert_eq!(
            found(&["ERROR:  canceling statement due to lock timeout\n"]),
            LOCK
        );
        assert_eq!(
            found(&["ERROR: canceling statement due to lo", "ck", " timeout"]),
            LOCK
        );
        assert_eq!(found(&["(SQLSTATE 55P", "03)"]), IF_FAILED);
        assert_eq!(
            found(&["ERROR: canceling statement due to statement timeout", ""]),
            STATEMENT
        );
        assert_eq!(
            found(&["ERROR: canceling statement due to user request"]),
            0
        );
    }
}
