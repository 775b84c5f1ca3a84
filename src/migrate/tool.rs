//! Another tool's process, and what it says.

use std::io::Write;
use std::process::{ExitStatus, Stdio};

use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::{Child, Command};

use super::error::{Error, Kind, Result};

/// What a tool says when its lock was not to be had: the SQLSTATE, the server's words in
/// English, and what some make of it.
const LOCK_TIMEOUT: [&str; 3] = ["55P03", "due to lock timeout", "LockNotAvailable"];

/// A tool that runs, with all that it has started. Dropped, it is ended.
pub(super) struct Running {
    child: Child,
    group: Option<rustix::process::Pid>,
}

impl Running {
    pub(super) fn spawn(name: &str, command: &mut Command) -> Result<Running> {
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        // A shell does not pass a signal on to what it runs: it is sent to all of them.
        #[cfg(unix)]
        command.process_group(0);
        let child = command.spawn().map_err(|error| {
            let message = format!(
                "{} cannot be started: is it installed, and on the PATH?",
                name
            );
            Error::new(Kind::Tool, message).with_source(error)
        })?;
        let group = child.id().and_then(|id| i32::try_from(id).ok());
        Ok(Running {
            group: group.and_then(rustix::process::Pid::from_raw),
            child,
        })
    }

    /// How it ended, and whether it spoke of a lock that was not to be had.
    pub(super) async fn ended(&mut self, to_stderr: bool) -> Result<(ExitStatus, bool)> {
        let failed = |error: std::io::Error| {
            Error::new(Kind::Tool, "the tool cannot be waited for").with_source(error)
        };
        let to: Box<dyn Write + Send> = match to_stderr {
            true => Box::new(std::io::stderr()),
            false => Box::new(std::io::stdout()),
        };
        let stdout = self.child.stdout.take();
        let stderr = self.child.stderr.take();
        let (out, err, status) = tokio::join!(
            pass_on(stdout, to),
            pass_on(stderr, std::io::stderr()),
            self.child.wait(),
        );
        self.group = None;
        Ok((status.map_err(failed)?, out || err))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(group) = self.group {
            let _ = rustix::process::kill_process_group(group, rustix::process::Signal::TERM);
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
