//! Where the tools are.

use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// A Python package and the program that it brings.
pub struct Tool {
    name: &'static str,
    package: &'static str,
}

pub const CARGO_LAMBDA: Tool = Tool {
    name: "cargo-lambda",
    package: "cargo-lambda==1.9.2",
};
pub const SAM: Tool = Tool {
    name: "sam",
    package: "aws-sam-cli==1.170.0",
};
pub const CFN_LINT: Tool = Tool {
    name: "cfn-lint",
    package: "cfn-lint==1.58.0",
};

impl Tool {
    /// The program, in `LAB_TOOLS`, where `.ci/tools` puts it, or on the PATH.
    pub fn path(&self) -> PathBuf {
        let found = folders().map(|folder| folder.join(self.name));
        found
            .into_iter()
            .find(|path| path.is_file())
            .unwrap_or_else(|| {
                panic!(
                    "there is no `{}` here: run .ci/tools, or `pip install {}` into a virtual \
                 environment and set LAB_TOOLS to its bin directory",
                    self.name, self.package
                )
            })
    }

    /// A command that finds the other tools as well.
    pub fn command(&self) -> Command {
        let mut command = Command::new(self.path());
        let path = env::join_paths(folders()).expect("a PATH");
        // What cargo told this test of its package: build scripts that look at these would
        // be run again, and everything after them.
        for (name, _) in env::vars_os() {
            let package = ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_BIN_"];
            if package
                .iter()
                .any(|prefix| name.to_string_lossy().starts_with(prefix))
            {
                command.env_remove(name);
            }
        }
        command
            .env("PATH", path)
            .env("SAM_CLI_TELEMETRY", "0")
            .env("CARGO_TARGET_DIR", target())
            .current_dir(workspace())
            .stdin(Stdio::null());
        command
    }
}

fn folders() -> impl Iterator<Item = PathBuf> + Clone {
    let own = env::var_os("LAB_TOOLS").map(PathBuf::from);
    let cache = env::var_os("XDG_CACHE_HOME")
        .filter(|path| !path.is_empty())
        .map(PathBuf::from)
        .or_else(|| Some(Path::new(&env::var_os("HOME")?).join(".cache")));
    let installed = cache.map(|cache| cache.join("antifreeze-ci/python/bin"));
    let path: OsString = env::var_os("PATH").unwrap_or_default();
    let path: Vec<PathBuf> = env::split_paths(&path).collect();
    own.into_iter().chain(installed).chain(path)
}

/// AWS's Runtime Interface Emulator, which the package of SAM brings.
pub fn emulator() -> PathBuf {
    let name = match env::consts::ARCH {
        "aarch64" => "aws-lambda-rie-arm64",
        _ => "aws-lambda-rie-x86_64",
    };
    let sam = SAM.path();
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
            "there is no {name} beside {}: run .ci/tools, or `pip install {}` into a virtual \
             environment and set LAB_TOOLS to its bin directory",
            sam.display(),
            SAM.package
        )
    })
}

/// Runs it to its end, and answers what it wrote.
pub fn run(command: &mut Command) -> String {
    let output = command.output().expect("it starts");
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text).into_owned();
    assert!(
        output.status.success(),
        "{command:?}: {}\n{text}",
        output.status
    );
    text
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
