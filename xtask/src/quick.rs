//! The quick loop: what most mistakes fail, in under two minutes once it is built.

use std::path::Path;
use std::process::{Command, ExitCode};
use std::time::Instant;

/// One command of the workspace for all tests: with other packages or features, cargo
/// would build everything again.
const STEPS: &[&str] = &[
    "fmt --all --check",
    "clippy --workspace --lib --bins --all-features -- -D warnings",
    "test --workspace --all-features --lib --test wire --test endings --test transaction --test round_trips",
];

pub fn run(root: &Path) -> ExitCode {
    let began = Instant::now();
    for step in STEPS {
        println!("== cargo {step} ({} s)", began.elapsed().as_secs());
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let status = Command::new(cargo)
            .args(step.split(' '))
            .current_dir(root)
            .status();
        match status {
            Ok(status) if status.success() => {}
            Ok(status) => {
                eprintln!("cargo {step}: {status}");
                return ExitCode::FAILURE;
            }
            Err(error) => {
                eprintln!("cargo {step}: cannot be started: {error}");
                return ExitCode::FAILURE;
            }
        }
    }
    println!("== done ({} s)", began.elapsed().as_secs());
    ExitCode::SUCCESS
}
