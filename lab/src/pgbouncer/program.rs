//! Finding PgBouncer on this machine.

use std::{
    env,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use crate::{Error, Result, error::OrSay};

/// The variable that says where the program is.
const VARIABLE: &str = "LAB_PGBOUNCER";

/// What `LAB_PGBOUNCER` names, else `pgbouncer` on the PATH or where Debian has it.
pub(super) fn find() -> Result<PathBuf> {
    if let Some(path) = env::var_os(VARIABLE).map(PathBuf::from) {
        return match path.is_file() {
            true => Ok(path),
            false => Err(Error::new(format!(
                "{VARIABLE} is {}, and there is no such file: let it name the program \
                 pgbouncer",
                path.display()
            ))),
        };
    }
    let path = env::var_os("PATH").unwrap_or_default();
    // Not on everybody's PATH.
    let system = ["/usr/sbin", "/usr/local/sbin"].map(PathBuf::from);
    env::split_paths(&path)
        .chain(system)
        .map(|directory| directory.join("pgbouncer"))
        .find(|path| path.is_file())
        .ok_or_else(|| {
            Error::new(
                "there is no PgBouncer here: install it (`apt-get install pgbouncer`), or let \
                 LAB_PGBOUNCER name the program",
            )
        })
}

/// As the program tells it: `PgBouncer 1.18.0`.
pub(super) fn version(path: &Path) -> Result<String> {
    let output = Command::new(path)
        .arg("--version")
        .stdin(Stdio::null())
        .output()
        .or_say(|| format!("could not run {}", path.display()))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let version = text.split_whitespace().nth(1);
    version.map(str::to_owned).ok_or_else(|| {
        Error::new(format!(
            "{} --version says no version: is it PgBouncer?",
            path.display()
        ))
    })
}

/// Runs it in the foreground, with nothing of our environment that would change what
/// it does.
pub(super) fn command(path: &Path, settings: &Path, directory: &Path) -> Command {
    let mut command = Command::new(path);
    command
        .arg(settings)
        .env_clear()
        .envs(env::var_os("PATH").map(|path| ("PATH", path)))
        .env("LC_ALL", "C")
        .current_dir(directory);
    command
}
