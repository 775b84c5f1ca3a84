//! A child process that can be frozen, that tells what happens to it, and that
//! is killed when this value is dropped.

use std::{
    io::{self, Read, Write},
    os::unix::process::ExitStatusExt,
    process::{Command, ExitStatus, Stdio},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, mpsc},
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, WaitIdStatus};
use tokio::sync::watch;

use crate::{Error, Result, error::OrSay};

/// What the kernel last said about the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    Running,
    /// Every thread is stopped.
    Frozen,
    Ended(ExitStatus),
}

/// How a process ended after it was asked to.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Exit {
    /// Its exit status.
    pub status: ExitStatus,
    /// Whether SIGTERM was sent.
    pub terminated: bool,
    /// Whether SIGKILL was sent: at once, or because its time was up.
    pub killed: bool,
    /// From the first signal until it had ended.
    pub took: Duration,
}

pub(crate) struct Program {
    shared: Arc<Shared>,
}

struct Shared {
    pid: Pid,
    /// Guards every signal: the pid is ours for as long as this says false,
    /// since the child is reaped under the same lock.
    ended: Mutex<bool>,
    end: Condvar,
    state: watch::Sender<State>,
    /// How often it was thawed.
    thaws: watch::Sender<u64>,
    log: watch::Sender<Vec<u8>>,
}

impl Program {
    /// Starts it. Its output, both streams in their order, goes to the log, and
    /// to our own stderr as well when `echo` is set.
    pub(crate) fn start(command: &mut Command, echo: bool) -> Result<Self> {
        let name = command.get_program().to_string_lossy().into_owned();
        let (reader, writer) = io::pipe().or_say(|| "could not make a pipe")?;
        let second = writer.try_clone().or_say(|| "could not make a pipe")?;
        let child = command
            .stdin(Stdio::null())
            .stdout(writer)
            .stderr(second)
            .spawn()
            .or_say(|| format!("could not start {name}"))?;
        // The command holds our copies of the writing ends, and would keep the pipe open.
        command.stdout(Stdio::null()).stderr(Stdio::null());
        let pid = Pid::from_child(&child);
        let shared = Arc::new(Shared {
            pid,
            ended: Mutex::new(false),
            end: Condvar::new(),
            state: watch::Sender::new(State::Running),
            thaws: watch::Sender::new(0),
            log: watch::Sender::new(Vec::new()),
        });
        let (drained, all_read) = mpsc::channel();
        let reading = shared.clone();
        thread::spawn(move || reading.read(reader, echo, drained));
        let watching = shared.clone();
        thread::spawn(move || watching.watch(all_read));
        Ok(Self { shared })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.shared.pid.as_raw_nonzero().get() as u32
    }

    pub(crate) fn state(&self) -> State {
        *self.shared.state.borrow()
    }

    pub(crate) fn has_ended(&self) -> bool {
        matches!(self.state(), State::Ended(_))
    }

    /// Sends SIGSTOP; [`frozen`](Program::frozen) says when it has had its effect.
    pub(crate) fn freeze(&self) {
        self.shared.signal(Signal::STOP);
    }

    /// After a freeze: waits until it has had its effect, or was undone, which the
    /// count of thaws tells since then.
    pub(crate) async fn frozen_or_thawed(&self, thaws: u64) {
        let mut count = self.shared.thaws.subscribe();
        tokio::select! {
            _ = self.frozen() => {}
            _ = count.wait_for(|count| *count != thaws) => {}
        }
    }

    pub(crate) fn thaws(&self) -> u64 {
        *self.shared.thaws.borrow()
    }

    /// Sends SIGCONT; from here on the process does not count as frozen.
    pub(crate) fn thaw(&self) {
        let ended = self.shared.ended();
        if !*ended {
            let _ = rustix::process::kill_process(self.shared.pid, Signal::CONT);
            self.shared.state.send_if_modified(|state| {
                let frozen = *state == State::Frozen;
                if frozen {
                    *state = State::Running;
                }
                frozen
            });
            self.shared.thaws.send_modify(|count| *count += 1);
        }
    }

    pub(crate) fn kill(&self) {
        self.shared.signal(Signal::KILL);
    }

    /// Waits until every thread is stopped.
    pub(crate) async fn frozen(&self) -> Result<()> {
        let state = self.wait_for(|state| *state != State::Running).await;
        match state {
            State::Ended(status) => Err(Error::new(format!(
                "the process ended ({status}) instead of being frozen"
            ))),
            _ => Ok(()),
        }
    }

    pub(crate) async fn ended(&self) -> ExitStatus {
        loop {
            if let State::Ended(status) = self
                .wait_for(|state| matches!(state, State::Ended(_)))
                .await
            {
                return status;
            }
        }
    }

    async fn wait_for(&self, condition: impl FnMut(&State) -> bool) -> State {
        let mut state = self.shared.state.subscribe();
        match state.wait_for(condition).await {
            Ok(state) => *state,
            // Not reached: `self` holds the sender.
            Err(_) => self.state(),
        }
    }

    /// Thaws it, sends SIGTERM if `grace` gives it time to react, and SIGKILL
    /// when that is over.
    pub(crate) async fn stop(&self, grace: Option<Duration>) -> Exit {
        let started = Instant::now();
        self.thaw();
        let mut killed = false;
        if let Some(grace) = grace {
            self.shared.signal(Signal::TERM);
            killed = tokio::time::timeout(grace, self.ended()).await.is_err();
        }
        if killed || grace.is_none() {
            killed = true;
            self.kill();
        }
        let status = self.ended().await;
        Exit {
            status,
            terminated: grace.is_some(),
            killed,
            took: started.elapsed(),
        }
    }

    pub(crate) fn log(&self) -> String {
        String::from_utf8_lossy(&self.shared.log.borrow()).into_owned()
    }

    /// Waits until the log holds a line with `text`, to its end, or the process has ended.
    pub(crate) async fn logged(&self, text: &str) -> Result<()> {
        let mut log = self.shared.log.subscribe();
        let found = |log: &Vec<u8>| {
            let log = String::from_utf8_lossy(log);
            log.find(text).is_some_and(|at| log[at..].contains('\n'))
        };
        tokio::select! {
            biased;
            _ = log.wait_for(found) => Ok(()),
            status = self.ended() => {
                if found(&self.shared.log.borrow()) {
                    return Ok(());
                }
                Err(Error::new(format!("the process ended ({status}) without logging {text:?}")))
            }
        }
    }

    /// Adds to the log what came another way than through its output.
    pub(crate) fn write_log(&self, text: &[u8]) {
        self.shared
            .log
            .send_modify(|log| log.extend_from_slice(text));
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        self.kill();
        let mut ended = self.shared.ended();
        while !*ended {
            // SIGKILL takes effect in milliseconds; a limit all the same, as a
            // process can hang in the kernel, and a drop must not hang with it.
            let (guard, timeout) = self
                .shared
                .end
                .wait_timeout(ended, Duration::from_secs(5))
                .unwrap_or_else(PoisonError::into_inner);
            ended = guard;
            if timeout.timed_out() {
                return;
            }
        }
    }
}

impl Shared {
    fn ended(&self) -> MutexGuard<'_, bool> {
        self.ended.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn signal(&self, signal: Signal) {
        let ended = self.ended();
        if !*ended {
            let _ = rustix::process::kill_process(self.pid, signal);
        }
    }

    /// Follows the child until it has ended. The kernel announces a stop once the
    /// last thread has stopped.
    fn watch(&self, all_read: mpsc::Receiver<()>) {
        let news = WaitIdOptions::EXITED | WaitIdOptions::STOPPED | WaitIdOptions::CONTINUED;
        loop {
            // Look without taking, since this waits and must not hold the lock.
            match rustix::process::waitid(WaitId::Pid(self.pid), news | WaitIdOptions::NOWAIT) {
                Ok(Some(status)) if status.exited() || status.killed() || status.dumped() => {
                    // A grandchild may hold the pipe open for longer.
                    let _ = all_read.recv_timeout(Duration::from_secs(2));
                }
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                // Not reached: nobody else waits for this child.
                Err(_) => return self.end(&mut self.ended(), ExitStatus::from_raw(0)),
            }
            let mut ended = self.ended();
            match rustix::process::waitid(WaitId::Pid(self.pid), news | WaitIdOptions::NOHANG) {
                // A stop that a thaw has already undone is not reported any more.
                Ok(Some(status)) if status.stopped() => {
                    self.state.send_replace(State::Frozen);
                }
                Ok(Some(status)) if status.continued() => {
                    self.state.send_replace(State::Running);
                }
                Ok(Some(status)) => return self.end(&mut ended, exit_status(&status)),
                Ok(None) | Err(_) => {}
            }
        }
    }

    fn end(&self, ended: &mut bool, status: ExitStatus) {
        *ended = true;
        self.end.notify_all();
        self.state.send_replace(State::Ended(status));
    }

    fn read(&self, mut output: io::PipeReader, echo: bool, drained: mpsc::Sender<()>) {
        let mut buffer = vec![0; 16 * 1024];
        loop {
            match output.read(&mut buffer) {
                Ok(0) => break,
                Ok(length) => {
                    let text = &buffer[..length];
                    if echo {
                        let _ = io::stderr().write_all(text);
                    }
                    self.log.send_modify(|log| log.extend_from_slice(text));
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => break,
            }
        }
        let _ = drained.send(());
    }
}

/// In the encoding of `wait(2)`: the exit code in the second byte, or a signal in the first.
fn exit_status(status: &WaitIdStatus) -> ExitStatus {
    let raw = match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => (code & 0xff) << 8,
        (None, Some(signal)) => signal,
        (None, None) => 0,
    };
    ExitStatus::from_raw(raw)
}
