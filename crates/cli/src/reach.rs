//! Which database, and how to get in.

use std::time::Duration;

use antifreeze::Session;
use antifreeze::{Config, Database, ErrorKind};
use antifreeze_doctor::{Ways, duration};
use clap::Args;

use crate::outcome::Failure;
use crate::paint;

/// Where the variable of `--admin-url` is looked for.
const ADMIN: &str = "ADMIN_DATABASE_URL";

#[derive(Args)]
pub struct Reach {
    /// Another database than the environment's: a URL without a password, env:NAME for a
    /// variable that holds one, or file:PATH; ADMIN_DATABASE_URL and MIGRATION_DATABASE_URL
    /// are not for it, and are left aside
    #[arg(long, global = true, value_name = "URL")]
    url: Option<String>,
    /// A way in for when every slot is taken, written as --url: a superuser, or a role with
    /// pg_use_reserved_connections [default: env:ADMIN_DATABASE_URL, if it is set, and there
    /// is no --url]
    #[arg(long, global = true, value_name = "URL")]
    admin_url: Option<String>,
    /// How long to try for a slot while every one is taken
    #[arg(long, global = true, default_value = "60s", value_parser = time)]
    wait: Duration,
}

/// A duration on the command line.
pub fn time(text: &str) -> Result<Duration, String> {
    duration(text).ok_or_else(|| "a duration is wanted: 300ms, 5s, 1h30m".to_owned())
}

impl Reach {
    /// The ways into the database, for a command by this name.
    pub fn ways(&self, command: &str) -> Result<Ways, Failure> {
        let config = match &self.url {
            Some(url) => Config::from_url(&resolve("--url", url)?)?,
            None => Config::from_env()?,
        };
        // So that those who look at the server know who it is.
        let name = format!("antifreeze {command}");
        let mut ways = Ways::new(config.application_name(&name))?.wait(self.wait);
        let admin = match &self.admin_url {
            Some(url) => Some((url.as_str(), resolve("--admin-url", url)?)),
            // The variable leads to the environment's server.
            None if self.names_database() => None,
            None => std::env::var(ADMIN).ok().map(|url| (ADMIN, url)),
        };
        if let Some((_, url)) = admin.filter(|(_, url)| !url.trim().is_empty()) {
            let admin = Config::from_url(&url)?.application_name(&name);
            ways = ways.or("the admin's URL", Database::new(admin)?);
        }
        Ok(ways)
    }

    /// How long to try for a slot.
    pub fn wait(&self) -> Duration {
        self.wait
    }

    /// Whether `--url` was given: no variable of the environment's database is for it.
    pub fn names_database(&self) -> bool {
        self.url.is_some()
    }

    /// Whether `--admin-url` was given.
    pub fn names_admin(&self) -> bool {
        self.admin_url.is_some()
    }

    /// A session, for as long as a command needs it; says meanwhile what it waits for.
    pub async fn open(&self, ways: &Ways) -> Result<Session, Failure> {
        let wait = self.wait;
        let mut full = |error: &antifreeze::Error| {
            paint::complain(&format!("no slot: {error}"));
            paint::complain(&format!("trying for {wait:?} to get one .."));
        };
        match ways.open(&mut full).await {
            Ok((session, way)) => {
                if !std::ptr::eq(way.database.settings(), ways.database().settings()) {
                    paint::complain(&format!("connected by {}", way.name));
                }
                Ok(session)
            }
            Err(error) if error.kind() == ErrorKind::TooManyConnections => {
                Err(Failure::from(error).with(format!(
                    "waited {wait:?} for a slot. What may still get in, given as --admin-url: a \
                     superuser (superuser_reserved_connections), from PostgreSQL 16 on a role \
                     with pg_use_reserved_connections, the other of a pooled and a direct endpoint"
                )))
            }
            Err(error) if error.is_unavailable() => match ways.open_other().await {
                Some((session, way)) => {
                    paint::complain(&error.to_string());
                    paint::complain(&format!("connected by {}", way.name));
                    Ok(session)
                }
                None => Err(error.into()),
            },
            Err(error) => Err(error.into()),
        }
    }
}

/// What stands behind `env:` and `file:`. A password among the arguments of a command is
/// seen by everybody on the machine.
fn resolve(argument: &str, url: &str) -> Result<String, Failure> {
    // A URL that was put behind it is not shown.
    let shown = match url.contains(['@', '=']) || url.contains("://") {
        true => argument.to_owned(),
        false => format!("{argument} {url}"),
    };
    let filled = |text: String, what: &str| match text.trim() {
        "" => Err(Failure::new(format!("{shown}: the {what} is empty"))),
        text => Ok(text.to_owned()),
    };
    if let Some(name) = url.strip_prefix("env:") {
        let text = std::env::var(name)
            .map_err(|_| Failure::new(format!("{shown}: the variable is not set")))?;
        return filled(text, "variable");
    }
    if let Some(path) = url.strip_prefix("file:") {
        let text = std::fs::read_to_string(path)
            .map_err(|error| Failure::new(format!("{shown}: it cannot be read")).with(error))?;
        return filled(text, "file");
    }
    let config =
        Config::from_url(url).map_err(|error| Failure::new(format!("{argument}: {error}")))?;
    if config.has_password() {
        return Err(Failure::new(format!(
            "{argument} holds a password, and everybody on this machine can see the arguments of a \
             command: put the URL into a variable and give {argument} env:NAME, or into a file and \
             give {argument} file:PATH"
        )));
    }
    Ok(url.to_owned())
}
