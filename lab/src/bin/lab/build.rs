//! Builds what is to be run.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use lab::{Error, OrSay, Result};
use serde_json::Value;

/// Runs `cargo build` and answers where the executable is.
///
/// # Errors
/// When cargo cannot be run or the build fails; what it says goes to stderr.
pub async fn build(arguments: &[&str]) -> Result<PathBuf> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    lab::cargo::forget_ours(&mut command)
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
