//! The tools that Lambda's functions are deployed with.

use std::env;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use lab::tools;

use crate::common::elsewhere;

/// A program that a Python package brings.
pub struct Tool(&'static str);

pub const CARGO_LAMBDA: Tool = Tool("cargo-lambda");
pub const SAM: Tool = Tool("sam");
pub const CFN_LINT: Tool = Tool("cfn-lint");

impl Tool {
    /// A command that finds the other tools as well.
    pub fn command(&self) -> Command {
        let mut command = Command::new(tools::tool(self.0));
        let path = env::join_paths(tools::folders()).expect("a PATH");
        elsewhere(&mut command)
            .env("PATH", path)
            .env("SAM_CLI_TELEMETRY", "0")
            .current_dir(workspace())
            .stdin(Stdio::null());
        command
    }
}

/// AWS's Runtime Interface Emulator, which the package of SAM brings.
pub fn emulator() -> PathBuf {
    let name = match env::consts::ARCH {
        "aarch64" => "aws-lambda-rie-arm64",
        _ => "aws-lambda-rie-x86_64",
    };
    let sam = tools::tool(SAM.0);
    let libraries = sam.ancestors().nth(2).expect("a prefix").join("lib");
    let python = std::fs::read_dir(&libraries)
        .into_iter()
        .flatten()
        .flatten();
    let mut places = python.map(|version| {
        let package = version.path().join("site-packages/samcli/local/rapid");
        package.join(name)
    });
    places.find(|path| path.is_file()).unwrap_or_else(|| {
        panic!(
            "there is no {name} beside {}: run .ci/tools, which installs it",
            sam.display()
        )
    })
}

/// The root of the project.
pub fn workspace() -> &'static Path {
    let lab = Path::new(env!("CARGO_MANIFEST_DIR"));
    lab.parent().expect("the lab is in the workspace")
}

/// Where cargo builds, as it did this test.
pub fn target() -> PathBuf {
    let this = env::current_exe().expect("a path");
    let target = this.ancestors().nth(3).expect("target/debug/deps");
    target.to_owned()
}
