//! Freezing any process by its pid, with SIGSTOP.
//!
//! These functions take milliseconds at most and may block that long. The pid is
//! the caller's responsibility: a backend from `pg_backend_pid()`, a child, an
//! [`Environment`](crate::lambda::Environment).

use std::{
    thread,
    time::{Duration, Instant},
};

use rustix::{
    io::Errno,
    process::{Pid, Signal},
};

use crate::{Error, Result};

/// A thread in the middle of a disk operation stops only once it is done.
const PATIENCE: Duration = Duration::from_secs(5);

/// Sends SIGSTOP and waits until every thread of the process is stopped.
///
/// # Errors
/// When there is no such process, or it has not stopped within five seconds.
pub fn freeze(pid: u32) -> Result<()> {
    signal(pid, Signal::STOP, "freeze")?;
    let limit = Instant::now() + PATIENCE;
    loop {
        match is_frozen(pid) {
            Some(true) => return Ok(()),
            None => {
                return Err(Error::new(format!(
                    "process {pid} ended while it was frozen"
                )));
            }
            Some(false) if Instant::now() > limit => {
                return Err(Error::new(format!(
                    "process {pid} has not stopped {PATIENCE:?} after SIGSTOP: is it waiting for a disk?"
                )));
            }
            Some(false) => thread::sleep(Duration::from_micros(100)),
        }
    }
}

/// Sends SIGCONT: the process goes on where it was.
///
/// # Errors
/// When there is no such process.
pub fn thaw(pid: u32) -> Result<()> {
    signal(pid, Signal::CONT, "thaw")
}

/// Sends SIGTERM. A frozen process sees it once it is thawed.
///
/// # Errors
/// When there is no such process.
pub fn terminate(pid: u32) -> Result<()> {
    signal(pid, Signal::TERM, "terminate")
}

/// Sends SIGKILL, which ends a frozen process as well.
///
/// # Errors
/// When there is no such process.
pub fn kill(pid: u32) -> Result<()> {
    signal(pid, Signal::KILL, "kill")
}

/// Whether every thread of the process is stopped; `None` when it has ended.
pub fn is_frozen(pid: u32) -> Option<bool> {
    let mut states = thread_states(pid)?;
    // A thread that has ended says nothing of the others.
    states.retain(|state| !matches!(state, 'Z' | 'X'));
    if states.is_empty() {
        return None;
    }
    Some(states.iter().all(|state| *state == 'T'))
}

/// The state letters of `proc_pid_stat(5)`, one for each thread.
#[cfg(target_os = "linux")]
fn thread_states(pid: u32) -> Option<Vec<char>> {
    let mut states = Vec::new();
    for thread in std::fs::read_dir(format!("/proc/{pid}/task")).ok()? {
        // A thread that ended meanwhile has no file any more, and no state.
        let Ok(stat) = std::fs::read_to_string(thread.ok()?.path().join("stat")) else {
            continue;
        };
        // The name before the state is in parentheses and may hold anything.
        let (_, rest) = stat.rsplit_once(')')?;
        states.push(rest.trim_start().chars().next()?);
    }
    Some(states)
}

/// The state letter of `ps(1)`: elsewhere than on Linux it speaks for the whole process.
#[cfg(not(target_os = "linux"))]
fn thread_states(pid: u32) -> Option<Vec<char>> {
    let output = std::process::Command::new("ps")
        .args(["-o", "state=", "-p", &pid.to_string()])
        .output()
        .ok()?;
    let state = String::from_utf8_lossy(&output.stdout)
        .trim()
        .chars()
        .next()?;
    Some(vec![state])
}

fn signal(pid: u32, signal: Signal, verb: &str) -> Result<()> {
    let target = i32::try_from(pid)
        .ok()
        .filter(|pid| *pid > 0)
        .and_then(Pid::from_raw)
        .ok_or_else(|| Error::new(format!("cannot {verb} {pid}: that is not a process id")))?;
    rustix::process::kill_process(target, signal).map_err(|errno| match errno {
        Errno::SRCH => Error::new(format!(
            "cannot {verb} process {pid}: it does not exist (any more)"
        )),
        errno => Error::because(format!("cannot {verb} process {pid}"), errno),
    })
}
