//! Cargo, started by what cargo has started.

use std::env;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::{Error, Result, error::OrSay};

/// What cargo tells a program of the package that it belongs to.
const OURS: [&str; 3] = ["CARGO_BIN_", "CARGO_MANIFEST_", "CARGO_PKG_"];

/// Takes that out of the environment of a `command`. A build script that looks at it, such
/// as ring's, would run again, and whatever stands on it be built anew: now, and once more
/// for whoever builds next.
pub fn forget_ours(command: &mut Command) -> &mut Command {
    for (name, _) in env::vars_os() {
        let text = name.to_string_lossy();
        if OURS.iter().any(|ours| text.starts_with(ours)) {
            command.env_remove(name);
        }
    }
    command
}

/// Runs `cargo build` and answers where the executable is.
///
/// # Errors
/// When cargo cannot be run or the build fails; what it says goes to stderr.
pub async fn build(arguments: &[&str]) -> Result<PathBuf> {
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    forget_ours(&mut command)
        .args([
            "build",
            "--quiet",
            "--message-format=json-render-diagnostics",
        ])
        .args(arguments)
        .stderr(Stdio::inherit());
    let output = tokio::process::Command::from(command)
        .output()
        .await
        .or_say(|| "cannot run cargo")?;
    if !output.status.success() {
        return Err(Error::new(format!(
            "cargo build {} failed",
            arguments.join(" ")
        )));
    }
    let messages = output.stdout.split(|&byte| byte == b'\n');
    let mut executables = messages.filter_map(|line| {
        let message: Value = serde_json::from_slice(line).ok()?;
        Some(PathBuf::from(message["executable"].as_str()?))
    });
    let built = executables.next_back();
    built.ok_or_else(|| Error::new(format!("cargo build {} made nothing", arguments.join(" "))))
}
