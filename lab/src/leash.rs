//! What the lab starts must end with it, even when the test process is killed
//! with SIGKILL or keeps it in a `static` that is never dropped.
//!
//! A tiny `sh` waits on a pipe whose other end only this process holds. When
//! the pipe closes, for whatever reason, the shell cleans up. It leads a
//! process group, which all that it cares for joins: one signal reaches
//! everything, stopped processes too, without any pid to go stale. A group of
//! its own also keeps the terminal's Ctrl-C away from it.

use std::{
    os::unix::process::CommandExt,
    path::Path,
    process::{Child, Command, Stdio},
};

use crate::{Result, error::OrSay};

/// The kernel sends SIGHUP to a group with stopped members once its parent has
/// gone: the shell must survive that, and what it sends to the group itself.
const WAIT: &str = "trap '' HUP INT QUIT TERM\nwhile read -r _; do :; done\n";

/// Removes the directory (`$1`), and ends whatever is left in the group, the shell itself
/// included.
pub(crate) const KILL: &str = "rm -rf \"$1\"\nkill -KILL 0\n";

/// Ends a PostgreSQL server and removes its directory (`$1`). The server takes
/// its pid file away when it has ended; if it cannot end, because a backend is
/// stopped for example, its files go first and SIGKILL comes last.
pub(crate) const STOP_POSTGRES: &str = "\
kill -CONT 0
kill -QUIT 0
tries=0
while [ -e \"$1/data/postmaster.pid\" ] && [ $tries -lt 70 ]; do
    sleep 0.1
    tries=$((tries + 1))
done
rm -rf \"$1\"
kill -KILL 0
";

#[derive(Debug)]
pub(crate) struct Leash {
    shell: Child,
}

impl Leash {
    /// Starts the shell; `script` runs once this process, or this value, is gone.
    /// `directory` becomes its `$1`.
    pub(crate) fn new(script: &str, directory: &Path) -> Result<Self> {
        // Rust opens the pipe close-on-exec: no other child can hold it open.
        let shell = Command::new("sh")
            .arg("-c")
            .arg(format!("{WAIT}{script}"))
            .arg("lab-leash")
            .arg(directory)
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .or_say(|| "could not start `sh`, which cleans up after the lab")?;
        Ok(Self { shell })
    }

    /// Makes `command` join the group.
    pub(crate) fn hold(&self, command: &mut Command) {
        command.process_group(self.shell.id() as i32);
    }
}

impl Drop for Leash {
    fn drop(&mut self) {
        drop(self.shell.stdin.take());
        let _ = self.shell.wait();
    }
}
