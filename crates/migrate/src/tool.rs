//! Another tool's process, and what it says.

use std::io::Write;
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::{Child, Command};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use super::error::{Error, Kind, Result};

/// What a tool's output says of our limits: the server's words in English; and what only one
/// that failed is believed, since it may be quoted: the SQLSTATE, and what some make of it.
const WORDS: [(u8, &str); 4] = [
    (LOCK, "due to lock timeout"),
    (STATEMENT, "due to statement timeout"),
    (PERHAPS, "55P03"),
    (PERHAPS, "LockNotAvailable"),
];
const LOCK: u8 = 1;
const STATEMENT: u8 = 2;
const PERHAPS: u8 = 4;

/// How long what a tool leaves behind may go on before it is told to end.
const LEFT: Duration = Duration::from_millis(500);

/// How long one that is told to end may take before it is killed, at most.
pub(super) const GRACE: Duration = Duration::from_secs(5);

/// How often it is looked whether one that was told to end has.
const LOOK: Duration = Duration::from_millis(20);

/// How long one that was killed may take.
const KILLED: Duration = Duration::from_secs(1);

/// A tool that runs, with all that it has started. Dropped, it is told to end, and nobody
/// waits for it.
pub(super) struct Running {
    child: Child,
    group: Option<Group>,
    /// What it writes is passed on.
    output: [JoinHandle<()>; 2],
    heard: Arc<Heard>,
}

/// What is known of the output.
#[derive(Default)]
struct Heard {
    said: AtomicU8,
    /// How many pieces came.
    pieces: AtomicUsize,
}

/// Which of our limits ended a statement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Limit {
    Lock,
    Statement,
}

impl Limit {
    /// The setting.
    pub(super) fn name(self) -> &'static str {
        match self {
            Limit::Lock => "lock_timeout",
            Limit::Statement => "statement_timeout",
        }
    }
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
        let heard = Arc::<Heard>::default();
        let [out, err] = [(); 2].map(|()| Arc::clone(&heard));
        let output = [
            tokio::spawn(pass_on(child.stdout.take(), to, out)),
            tokio::spawn(pass_on(child.stderr.take(), std::io::stderr(), err)),
        ];
        Ok(Running {
            group: Group::of(&child),
            child,
            output,
            heard,
        })
    }

    /// How it ended, and the limit that its output says to have ended a statement. What it has
    /// left in the background ends with it: it must not outlive the lock.
    pub(super) async fn ended(&mut self) -> Result<(ExitStatus, Option<Limit>)> {
        let status = self.child.wait().await.map_err(|error| {
            Error::new(Kind::Tool, "the tool cannot be waited for").with_source(error)
        })?;
        let all = async {
            if let Some(group) = self.group {
                self.is_gone(group).await;
            }
            self.passed_on().await;
        };
        if timeout(LEFT, all).await.is_err() {
            self.end_all(GRACE).await;
        }
        self.group = None;
        let said = self.heard.said.load(Ordering::Relaxed);
        let limit = if said & LOCK > 0 || said & PERHAPS > 0 && !status.success() {
            Some(Limit::Lock)
        } else {
            (said & STATEMENT > 0).then_some(Limit::Statement)
        };
        Ok((status, limit))
    }

    /// Tells all of it to end, waits for that, and kills what is left after `grace`. What it
    /// writes in the end is still passed on.
    pub(super) async fn end(mut self, grace: Duration) {
        self.end_all(grace).await;
        self.group = None;
    }

    async fn end_all(&mut self, grace: Duration) {
        let Some(group) = self.group else { return };
        for (signal, limit) in [(Signal::End, grace), (Signal::Kill, KILLED)] {
            group.send(signal, &mut self.child);
            if timeout(limit, self.is_gone(group)).await.is_ok() {
                break;
            }
        }
        // Whoever has left the group may have its output still: what is there is passed on.
        let heard = Arc::clone(&self.heard);
        let mut pieces = usize::MAX;
        while pieces != heard.pieces.load(Ordering::Relaxed) {
            pieces = heard.pieces.load(Ordering::Relaxed);
            let _ = timeout(LOOK, self.passed_on()).await;
        }
    }

    async fn passed_on(&self) {
        while !self.output.iter().all(JoinHandle::is_finished) {
            sleep(LOOK / 10).await;
        }
    }

    async fn is_gone(&mut self, group: Group) {
        // Until it is waited for, one that has ended counts.
        let _ = self.child.wait().await;
        while !group.is_gone() {
            sleep(LOOK).await;
        }
    }
}

impl Drop for Running {
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

/// The process group of a tool: all that it has started.
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

/// Windows has no process groups: the tool alone is ended, and nothing can be told to end.
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

/// Passes on what it writes, and listens.
async fn pass_on(from: Option<impl AsyncRead + Unpin>, mut to: impl Write, heard: Arc<Heard>) {
    let Some(mut from) = from else { return };
    let mut seen = Seen::default();
    let mut chunk = [0; 8 * 1024];
    while let Ok(read @ 1..) = from.read(&mut chunk).await {
        let _ = to.write_all(&chunk[..read]).and_then(|()| to.flush());
        let said = seen.take(&chunk[..read]);
        heard.said.fetch_or(said, Ordering::Relaxed);
        heard.pieces.fetch_add(1, Ordering::Relaxed);
    }
}

/// Looks for words in what comes in pieces.
#[derive(Default)]
struct Seen {
    /// The end of what came before.
    rest: Vec<u8>,
}

impl Seen {
    /// Which of the [`WORDS`] this piece completes.
    fn take(&mut self, chunk: &[u8]) -> u8 {
        self.rest.extend_from_slice(chunk);
        let has = |words: &str| {
            let mut places = self.rest.windows(words.len());
            places.any(|at| at == words.as_bytes())
        };
        let said = WORDS.iter().filter(|(_, words)| has(words));
        let said = said.fold(0, |said, (which, _)| said | which);
        let longest = WORDS.iter().map(|(_, words)| words.len()).max();
        let keep = self.rest.len().saturating_sub(longest.unwrap_or_default());
        self.rest.drain(..keep);
        said
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_found_across_pieces() {
        let found = |pieces: &[&str]| {
            let mut seen = Seen::default();
            let all = pieces.iter().map(|piece| seen.take(piece.as_bytes()));
            all.fold(0, |all, said| all | said)
        };
        assert_eq!(
            found(&["ERROR:  canceling statement due to lock timeout\n"]),
            LOCK
        );
        assert_eq!(
            found(&["ERROR: canceling statement due to lo", "ck", " timeout"]),
            LOCK
        );
        assert_eq!(found(&["(SQLSTATE 55P", "03)"]), PERHAPS);
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
