//! Commands for contributors: `cargo xtask quick` and `cargo xtask house`.

mod graph;
mod house;
mod quick;
mod source;

use std::path::Path;
use std::process::ExitCode;

const USAGE: &str = "usage: cargo xtask <command>

  quick   format, clippy, unit tests and the most telling server tests
  house   size of src/, floors and circles, providers' names, long files, test names";

fn main() -> ExitCode {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent();
    let root = root.expect("xtask stands in the workspace");
    match std::env::args().nth(1).as_deref() {
        Some("quick") => quick::run(root),
        Some("house") => house::run(root),
        _ => {
            eprintln!("{USAGE}");
            ExitCode::from(2)
        }
    }
}
