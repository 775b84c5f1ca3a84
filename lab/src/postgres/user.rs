//! PostgreSQL refuses to run as root: as root, the lab runs it as somebody else.

use std::{
    env, fs,
    os::unix::{
        fs::{MetadataExt, PermissionsExt},
        process::CommandExt,
    },
    path::{Path, PathBuf},
    process::Command,
};

use crate::{Error, Result, error::OrSay};

/// Who runs the server.
#[derive(Clone, Copy, Debug)]
pub(crate) enum User {
    /// Whoever runs the tests.
    Ourselves,
    Other {
        uid: u32,
        gid: u32,
    },
}

impl User {
    /// Ourselves, unless that is root: then `postgres`, or `nobody` where there is none.
    pub(crate) fn find() -> Result<Self> {
        if !rustix::process::geteuid().is_root() {
            return Ok(User::Ourselves);
        }
        let users = fs::read_to_string("/etc/passwd").or_say(|| "could not read /etc/passwd")?;
        ["postgres", "nobody"].iter().find_map(|name| entry(&users, name)).ok_or_else(|| {
            Error::new(
                "PostgreSQL does not run as root, and there is no user `postgres` or `nobody` to \
                 run it as: add one, or run the tests as another user",
            )
        })
    }

    /// Makes `command` run as this user.
    pub(crate) fn apply(self, command: &mut Command) {
        if let User::Other { uid, gid } = self {
            command.uid(uid).gid(gid);
        }
    }

    /// Gives `path` to this user.
    pub(crate) fn own(self, path: &Path) -> Result<()> {
        match self {
            User::Ourselves => Ok(()),
            User::Other { uid, gid } => std::os::unix::fs::chown(path, Some(uid), Some(gid))
                .or_say(|| format!("could not give {} to user {uid}", path.display())),
        }
    }

    /// Whether this user may enter `directory`, as far as its modes say.
    pub(crate) fn reaches(self, directory: &Path) -> bool {
        let User::Other { uid, gid } = self else {
            return true;
        };
        directory.ancestors().all(|part| {
            fs::metadata(part).is_ok_and(|metadata| {
                let bit = if metadata.uid() == uid {
                    0o100
                } else if metadata.gid() == gid {
                    0o010
                } else {
                    0o001
                };
                metadata.permissions().mode() & bit != 0
            })
        })
    }

    /// Where directories for this user can be made: in memory if there is room, as
    /// a cluster is made, and a database in it, several times as fast there; unless
    /// TMPDIR says otherwise.
    pub(crate) fn temporary_directory(self) -> Result<PathBuf> {
        let memory = PathBuf::from("/dev/shm");
        let in_memory = env::var_os("TMPDIR").is_none() && has_room(&memory);
        let candidates = [
            in_memory.then_some(memory),
            Some(env::temp_dir()),
            Some(PathBuf::from("/tmp")),
        ];
        candidates
            .into_iter()
            .flatten()
            .find(|directory| directory.is_dir() && self.reaches(directory))
            .ok_or_else(|| {
                Error::new(format!(
                    "the user that runs PostgreSQL cannot enter {}: set TMPDIR to a directory \
                     that everybody may enter",
                    env::temp_dir().display()
                ))
            })
    }
}

/// Whether there is a gigabyte left: containers often have 64 MB of shared memory,
/// which is what one cluster takes.
fn has_room(directory: &Path) -> bool {
    rustix::fs::statvfs(directory).is_ok_and(|space| space.f_bavail * space.f_frsize > 1 << 30)
}

/// `name:password:uid:gid:...`
fn entry(users: &str, name: &str) -> Option<User> {
    let line = users
        .lines()
        .find(|line| line.split(':').next() == Some(name))?;
    let mut fields = line.split(':').skip(2);
    Some(User::Other {
        uid: fields.next()?.parse().ok()?,
        gid: fields.next()?.parse().ok()?,
    })
}
