//! The life of a cluster's server: start, ready, halt. Everything here blocks.

use std::{
    fs::{self, File, OpenOptions},
    process::{Child, ExitStatus},
    sync::PoisonError,
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal};

use super::cluster::Cluster;
use crate::{Error, Result, error::OrSay, net};

/// Crash recovery of a busy cluster takes a while; anything longer is a failure.
const START_LIMIT: Duration = Duration::from_secs(30);
/// A fast shutdown waits for backends to roll back.
const FAST_LIMIT: Duration = Duration::from_secs(10);
/// In an immediate one the postmaster kills what has not ended after 5 seconds.
const IMMEDIATE_LIMIT: Duration = Duration::from_secs(8);

/// Between two looks at something that only a look can tell.
const LOOK: Duration = Duration::from_millis(2);

impl Cluster {
    /// Somebody else may take a free port before the server does: then another one.
    pub(super) fn start_on_free_port(&mut self) -> Result<()> {
        let mut tries = 0;
        loop {
            self.port = net::free_port()?;
            tries += 1;
            match self.launch() {
                Err(_) if tries < 5 && self.log().contains("could not bind") => {
                    fs::remove_file(self.log_path()).or_say(|| "could not remove the log")?;
                }
                result => return result,
            }
        }
    }

    /// Starts the server, which must not be running, and waits until it is ready.
    pub(super) fn launch(&self) -> Result<()> {
        let log = self
            .open_log()
            .or_say(|| "could not open the server's log")?;
        let (out, err) = log;
        let child = self
            .command("postgres")
            .arg("-D")
            .arg(self.data())
            .args(["-p", &self.port.to_string()])
            .stdout(out)
            .stderr(err)
            .spawn()
            .or_say(|| "could not run postgres")?;
        let mut server = self.server.lock().unwrap_or_else(PoisonError::into_inner);
        let child = server.insert(child);
        let limit = Instant::now() + START_LIMIT;
        while !self.is_ready(child.id()) {
            if let Some(status) = child.try_wait().or_say(|| "could not wait for postgres")? {
                *server = None;
                return Err(self.failure(&format!("postgres ended ({status}) at its start")));
            }
            if Instant::now() > limit {
                return Err(self.failure(&format!("postgres was not ready after {START_LIMIT:?}")));
            }
            thread::sleep(LOOK);
        }
        Ok(())
    }

    fn open_log(&self) -> std::io::Result<(File, File)> {
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.log_path())?;
        let second = log.try_clone()?;
        Ok((log, second))
    }

    /// As `pg_ctl start` sees it: the pid file names our server, and its eighth
    /// line says that it accepts connections.
    fn is_ready(&self, pid: u32) -> bool {
        let Ok(text) = fs::read_to_string(self.data().join("postmaster.pid")) else {
            return false;
        };
        let mut lines = text.lines();
        lines.next() == Some(pid.to_string().as_str())
            && lines.nth(6).is_some_and(|status| status.trim() == "ready")
    }

    fn failure(&self, what: &str) -> Error {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        let end = &lines[lines.len().saturating_sub(5)..];
        Error::new(format!("{what}; the end of its log: {}", end.join(" | ")))
    }

    /// Ends the server, if it runs: `fast` rolls back and writes everything to
    /// disk, otherwise it crashes in good order.
    pub(super) fn halt(&self, fast: bool) -> Result<()> {
        let mut server = self.server.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(child) = server.as_mut() else {
            return Ok(());
        };
        let signals = [
            (Signal::INT, if fast { FAST_LIMIT } else { Duration::ZERO }),
            (Signal::QUIT, IMMEDIATE_LIMIT),
            (Signal::KILL, Duration::from_secs(2)),
        ];
        let pid = Pid::from_child(child);
        for (signal, limit) in signals {
            if limit.is_zero() {
                continue;
            }
            // A postmaster that a test has frozen must hear it.
            for signal in [signal, Signal::CONT] {
                let _ = rustix::process::kill_process(pid, signal);
            }
            if wait(child, limit)
                .or_say(|| "could not wait for postgres")?
                .is_some()
            {
                *server = None;
                return Ok(());
            }
        }
        Err(Error::new(format!(
            "postgres (process {pid}) did not end, not even with SIGKILL"
        )))
    }
}

fn wait(child: &mut Child, limit: Duration) -> std::io::Result<Option<ExitStatus>> {
    let limit = Instant::now() + limit;
    loop {
        let status = child.try_wait()?;
        if status.is_some() || Instant::now() > limit {
            return Ok(status);
        }
        thread::sleep(LOOK);
    }
}
