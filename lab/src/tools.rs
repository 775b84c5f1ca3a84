//! The tools that people deploy with, as `.ci/tools` installs them.

use std::env;
use std::path::PathBuf;
use std::process::Command;

/// Finds a program: in the folder that `LAB_TOOLS` names, where `.ci/tools` puts it, or on the PATH.
pub fn tool(name: &str) -> PathBuf {
    folders()
        .map(|folder| folder.join(name))
        .find(|program| program.is_file())
        .unwrap_or_else(|| {
            panic!(
                "there is no `{name}` here: run .ci/tools, which installs it, or set LAB_TOOLS to \
                 the folder that has it"
            )
        })
}

/// Finds the folder `node_modules` with the packages of npm.
pub fn node_modules() -> PathBuf {
    folders()
        .map(|folder| folder.join("../node/node_modules"))
        .find(|modules| modules.is_dir())
        .expect("npm's packages are not here: run .ci/tools, which installs them")
}

/// Where the tools are looked for.
pub fn folders() -> impl Iterator<Item = PathBuf> {
    let cache = env::var_os("XDG_CACHE_HOME")
        .filter(|value| !value.is_empty())
        .map(PathBuf::from)
        .or_else(|| env::home_dir().map(|home| home.join(".cache")));
    let cache = cache.map(|cache| cache.join("antifreeze-ci"));
    let installed = cache.map(|cache| [cache.join("bin"), cache.join("python/bin")]);
    let path = env::var_os("PATH").unwrap_or_default();
    let path: Vec<PathBuf> = env::split_paths(&path).collect();
    env::var_os("LAB_TOOLS")
        .map(PathBuf::from)
        .into_iter()
        .chain(installed.into_iter().flatten())
        .chain(path)
}

/// Runs a command to its end, and fails with what it wrote if it failed.
#[track_caller]
pub fn run(command: &mut Command) -> String {
    let output = command
        .output()
        .unwrap_or_else(|error| panic!("could not run {command:?}: {error}"));
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text).into_owned();
    assert!(
        output.status.success(),
        "{command:?}: {}\n{text}",
        output.status
    );
    text
}
