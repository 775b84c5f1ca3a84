//! Another tool's process, and what it says.

use std::io::Write;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::io::Errno;
use rustix::process::{Pid, Signal, kill_process_group, test_kill_process_group};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::{Child, Command};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use super::error::{Error, Kind, Result};

/// What a tool says when its lock was not to be had: the SQLSTATE, the server's words in
/// English, and what some make of it.
const LOCK_TIMEOUT: [&str; 3] = ["55P03", "due to lock timeout", "LockNotAvailable"];

/// How often it is looked whether one that was told to end has.
const LOOK: Duration = Duration::from_millis(20);

/// How long one that was killed may take.
const KILLED: Duration = Duration::from_secs(1);

/// A tool that runs, with all that it has started. Dropped, it is told to end, and nobody
/// waits for it.
pub(super) struct Running {
    child: Child,
    group: Option<Pid>,
    /// What it writes is passed on, until it ends: each says whether it spoke of a lock.
    output: [JoinHandle<bool>; 2],
}

impl Running {
    pub(super) fn spawn(name: &str, command: &mut Command, to_stderr: bool) -> Result<Running> {
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        // A shell does not pass a signal on to what it runs: it is sent to all of them.
        #[cfg(unix)]
        command.process_group(0);
        let mut child = command.spawn().map_err(|error| {
            let message = format!(
                "{} cannot be started: is it installed, and on the PATH?",
                name
            );
            Error::new(Kind::Tool, message).with_source(error)
        })?;
        let to: Box<dyn Write + Send> = match to_stderr {
            true => Box::new(std::io::stderr()),
            false => Box::new(std::io::stdout()),
        };
        let output = [
            tokio::spawn(pass_on(child.stdout.take(), to)),
            tokio::spawn(pass_on(child.stderr.take(), std::io::stderr())),
        ];
        let group = child.id().and_then(|id| i32::try_from(id).ok());
        Ok(Running {
            group: group.and_then(Pid::from_raw),
            child,
            output,
        })
    }

    /// How it ended, and whether it spoke of a lock that was not to be had.
    pub(super) async fn ended(&mut self) -> Result<(ExitStatus, bool)> {
        let failed = |error: std::io::Error| {
            Error::new(Kind::Tool, "the tool cannot be waited for").with_source(error)
        };
        let [out, err] = &mut self.output;
        let (out, err, status) = tokio::join!(out, err, self.child.wait());
        self.group = None;
        let spoke = out.unwrap_or_default() || err.unwrap_or_default();
        Ok((status.map_err(failed)?, spoke))
    }

    /// Tells all of it to end, waits for that, and kills what is left after `grace`. What it
    /// writes in the end is still passed on.
    pub(super) async fn end(mut self, grace: Duration) {
        let Some(group) = self.group.take() else {
            return;
        };
        for (signal, limit) in [(Signal::TERM, grace), (Signal::KILL, KILLED)] {
            let _ = kill_process_group(group, signal);
            if timeout(limit, self.is_gone(group)).await.is_ok() {
                break;
            }
        }
        // Whoever has left the group may have its output still.
        let passed_on = async {
            while !self.output.iter().all(JoinHandle::is_finished) {
                sleep(LOOK / 10).await;
            }
        };
        let _ = timeout(LOOK, passed_on).await;
    }

    async fn is_gone(&mut self, group: Pid) {
        // Until it is waited for, one that has ended counts.
        let _ = self.child.wait().await;
        while test_kill_process_group(group) != Err(Errno::SRCH) {
            sleep(LOOK).await;
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(group) = self.group {
            let _ = kill_process_group(group, Signal::TERM);
        }
        for output in &self.output {
            output.abort();
        }
    }
}

/// Whether it speaks of a lock that was not to be had.
async fn pass_on(from: Option<impl AsyncRead + Unpin>, mut to: impl Write) -> bool {
    let Some(mut from) = from else { return false };
    let mut seen = Seen::default();
    let mut chunk = [0; 8 * 1024];
    while let Ok(read @ 1..) = from.read(&mut chunk).await {
        let _ = to.write_all(&chunk[..read]).and_then(|()| to.flush());
        seen.take(&chunk[..read]);
    }
    seen.found
}

/// Looks for words in what comes in pieces.
#[derive(Default)]
struct Seen {
    /// The end of what came before.
    rest: Vec<u8>,
    found: bool,
}

impl Seen {
    fn take(&mut self, chunk: &[u8]) {
        self.rest.extend_from_slice(chunk);
        let has = |words: &&str| {
            self.rest
                .windows(words.len())
                .any(|at| at == words.as_bytes())
        };
        self.found |= LOCK_TIMEOUT.iter().any(has);
        let longest = LOCK_TIMEOUT
            .iter()
            .map(|words| words.len())
            .max()
            .unwrap_or_default();
        let keep = self.rest.len().saturating_sub(longest);
        self.rest.drain(..keep);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_found_across_pieces() {
        let found = |pieces: &[&str]| {
            let mut seen = Seen::default();
            pieces.iter().for_each(|piece| seen.take(piece.as_bytes()));
            seen.found
        };
        assert!(found(&[
            "ERROR:  canceling statement due to lock timeout\n"
        ]));
        assert!(found(&[
            "ERROR: canceling statement due to lo",
            "ck",
            " timeout"
        ]));
        assert!(found(&["(SQLSTATE 55P", "03)"]));
        assert!(!found(&[
            "ERROR: canceling statement due to statement timeout",
            ""
        ]));
    }
}
