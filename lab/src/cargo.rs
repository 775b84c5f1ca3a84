//! Cargo, started by what cargo has started.

use std::env;
use std::process::Command;

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
