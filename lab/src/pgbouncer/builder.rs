//! What a PgBouncer should be like.

use std::{fmt, time::Duration};

use tokio::time::timeout;

use super::{PgBouncer, files, program};
use crate::{
    Error, Result,
    error::OrSay,
    leash::{self, Leash},
    net,
    postgres::{Auth, Postgres, user::User},
    program::Program,
};

/// It takes some milliseconds; anything longer is a failure.
const START_LIMIT: Duration = Duration::from_secs(10);

/// For how long a client has a server (PgBouncer's `pool_mode`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Mode {
    /// For a transaction.
    #[default]
    Transaction,
    /// For as long as it is connected.
    Session,
}

/// What [`PgBouncer::builder`] collects.
#[derive(Debug)]
#[must_use = "a builder does nothing until it is started"]
pub struct Builder {
    pub(super) server: u16,
    pub(super) mode: Mode,
    pub(super) pool_size: usize,
    pub(super) auth: Auth,
    pub(super) users: Vec<(String, String)>,
    pub(super) settings: Vec<(String, String)>,
}

impl Builder {
    pub(super) fn new(server: u16) -> Self {
        Self {
            server,
            mode: Mode::default(),
            pool_size: 20,
            auth: Auth::default(),
            users: vec![("postgres".to_owned(), Postgres::PASSWORD.to_owned())],
            settings: Vec::new(),
        }
    }

    /// For how long a client has a server; [`Mode::Transaction`] otherwise.
    pub fn mode(mut self, mode: Mode) -> Self {
        self.mode = mode;
        self
    }

    /// How many servers there are for each pair of database and user; 20 otherwise.
    pub fn pool_size(mut self, servers: usize) -> Self {
        self.pool_size = servers;
        self
    }

    /// How clients prove who they are; [`Auth::Trust`] otherwise.
    pub fn auth(mut self, auth: Auth) -> Self {
        self.auth = auth;
        self
    }

    /// Another role for the auth file. The superuser `postgres` is there, with
    /// [`Postgres::PASSWORD`]; giving it here as well changes its password.
    pub fn user(mut self, name: impl Into<String>, password: impl Into<String>) -> Self {
        let (name, password) = (name.into(), password.into());
        self.users.retain(|(known, _)| *known != name);
        self.users.push((name, password));
        self
    }

    /// A line for the section `[pgbouncer]`, stronger than the lab's own.
    pub fn setting(mut self, name: impl Into<String>, value: impl ToString) -> Self {
        self.settings.push((name.into(), value.to_string()));
        self
    }

    /// Starts it and waits until it listens.
    ///
    /// # Errors
    /// When there is no PgBouncer on this machine, or it does not start: the error holds
    /// the end of its log.
    pub async fn start(self) -> Result<PgBouncer> {
        let user = User::find()?;
        let path = program::find()?;
        let version = program::version(&path)?;
        let parent = user.temporary_directory()?;
        let directory = tempfile::Builder::new()
            .prefix("lab-pgbouncer-")
            .tempdir_in(&parent)
            .or_say(|| format!("could not make a directory in {}", parent.display()))?;
        user.own(directory.path())?;
        let leash = Leash::new(leash::KILL, directory.path())?;
        let mut tries = 0;
        loop {
            tries += 1;
            let port = net::free_port()?;
            let settings = files::write(&self, port, directory.path(), user)?;
            let mut command = program::command(&path, &settings, directory.path());
            leash.hold(&mut command);
            user.apply(&mut command);
            let program = Program::start(&mut command, false)?;
            let up = program.logged("process up");
            match timeout(START_LIMIT, up).await {
                Ok(Ok(())) => {
                    return Ok(PgBouncer {
                        program,
                        _directory: directory,
                        _leash: leash,
                        port,
                        mode: self.mode,
                        version,
                    });
                }
                // Somebody else was faster to take the port.
                Ok(Err(_)) if tries < 5 && program.log().contains("in use") => {}
                Ok(Err(_)) => return Err(failure("ended at its start", &program)),
                Err(_) => return Err(failure("was not ready in time", &program)),
            }
        }
    }
}

fn failure(what: impl fmt::Display, program: &Program) -> Error {
    let log = program.log();
    let lines: Vec<&str> = log.lines().collect();
    let end = &lines[lines.len().saturating_sub(5)..];
    Error::new(format!(
        "pgbouncer {what}; the end of its log: {}",
        end.join(" | ")
    ))
}
