//! The tools that people deploy with, as `.ci/tools` installs them.

use std::{env, path::PathBuf, process::Command};

/// The program, in `LAB_TOOLS`, where `.ci/tools` puts it, or on the PATH.
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

/// This very cargo, for a project elsewhere: without what a build of ours has put into
/// the environment, and into the same target folder, so that dependencies are built once.
pub fn elsewhere(command: &mut Command) -> &mut Command {
    for (name, _) in env::vars_os() {
        let ours = name.to_str().is_some_and(|name| {
            name.starts_with("VERCEL")
                || name.starts_with("CARGO_PKG_")
                || name.starts_with("CARGO_BIN_")
                || name.starts_with("CARGO_MANIFEST_")
        });
        if ours {
            command.env_remove(name);
        }
    }
    let target = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).parent();
    command.env("CARGO_TARGET_DIR", target.expect("a target folder"))
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
