//! Selects the database and opens a session.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use antifreeze::internal;
use antifreeze::{Config, Database, ErrorKind, Session};
use antifreeze_doctor::{Routes, parse_duration};
use clap::Args;

use crate::outcome::Failure;
use crate::{env_file, output};

/// The variable that is read when `--admin-url` is not given.
const ADMIN: &str = "ADMIN_DATABASE_URL";

#[derive(Args)]
pub struct Target {
    /// The database, instead of the environment's: a URL without a password, env:NAME for a
    /// variable that contains a URL, or file:PATH; ADMIN_DATABASE_URL and
    /// MIGRATION_DATABASE_URL are ignored then
    #[arg(long, global = true, value_name = "URL")]
    url: Option<String>,
    /// An alternative for when every connection slot is taken, in the same form as --url: a
    /// superuser, or a role with pg_use_reserved_connections [default: env:ADMIN_DATABASE_URL,
    /// if it is set and --url is not given]
    #[arg(long, global = true, value_name = "URL")]
    admin_url: Option<String>,
    /// A file with variables, for when the environment names no database [default: .env.local
    /// and .env, unless --url is given]
    #[arg(long, global = true, value_name = "FILE")]
    env_file: Option<PathBuf>,
    /// The file of each variable that was read from one.
    #[arg(skip)]
    variables: BTreeMap<String, String>,
    /// How long to retry while every connection slot is taken
    #[arg(long, global = true, default_value = "60s", value_parser = time)]
    wait: Duration,
}

/// Parses a duration on the command line.
pub fn time(text: &str) -> Result<Duration, String> {
    parse_duration(text)
        .ok_or_else(|| "invalid duration: expected, for example, 300ms, 5s or 1h30m".to_owned())
}

impl Target {
    /// Reads the variables of files, before anything else does.
    pub fn read_files(&mut self) -> Result<(), Failure> {
        self.variables = env_file::load(self.env_file.as_deref(), self.url.is_some())?;
        Ok(())
    }

    /// Returns the file of each variable that was read from one.
    pub fn files(&self) -> &BTreeMap<String, String> {
        &self.variables
    }

    /// Says which variables are from files.
    fn name_files(&self) {
        let mut files: Vec<&String> = self.variables.values().collect();
        files.sort();
        files.dedup();
        for file in files {
            let names = self.variables.iter().filter(|(_, of)| *of == file);
            let names: Vec<&str> = names.map(|(name, _)| name.as_str()).collect();
            output::eprint(&format!("variables of {file}: {}", names.join(", ")));
        }
    }

    /// Returns the routes to the database, for a command by this name.
    pub fn routes(&self, command: &str) -> Result<Routes, Failure> {
        let config = match &self.url {
            Some(url) => Config::from_url(&resolve("--url", url)?)?,
            None => Config::from_env()?,
        };
        self.name_files();
        // Identifies the command in pg_stat_activity.
        let name = format!("antifreeze {command}");
        let mut routes = Routes::new(config.application_name(&name))?.wait(self.wait);
        let admin = match &self.admin_url {
            Some(url) => Some((url.as_str(), resolve("--admin-url", url)?)),
            // The variable is for the environment's server, not for that of --url.
            None if self.names_database() => None,
            None => internal::variable(ADMIN).map(|url| (ADMIN, url)),
        };
        if let Some((_, url)) = admin.filter(|(_, url)| !url.trim().is_empty()) {
            let admin = Config::from_url(&url)?.application_name(&name);
            routes = routes.or("the admin URL", Database::new(admin)?);
        }
        Ok(routes)
    }

    /// Returns how long to retry while every slot is taken.
    pub fn wait(&self) -> Duration {
        self.wait
    }

    /// Returns whether `--url` was given, so that the environment's variables do not apply.
    pub fn names_database(&self) -> bool {
        self.url.is_some()
    }

    /// Returns whether `--admin-url` was given.
    pub fn names_admin(&self) -> bool {
        self.admin_url.is_some()
    }

    /// Opens a session; prints what it waits for while every slot is taken.
    pub async fn open(&self, routes: &Routes) -> Result<Session, Failure> {
        self.open_telling(routes, &mut output::eprint).await
    }

    /// Opens a session as [`open`](Target::open) does, but passes what it would print to `tell`.
    pub async fn open_telling(
        &self,
        routes: &Routes,
        tell: &mut (dyn FnMut(&str) + Send),
    ) -> Result<Session, Failure> {
        let wait = self.wait;
        let mut on_full = |error: &antifreeze::Error| {
            tell(&format!("no connection slot is free: {error}"));
            tell(&format!("retrying for {wait:?} .."));
        };
        match routes.open(&mut on_full).await {
            Ok((session, route)) => {
                if !std::ptr::eq(route.database.settings(), routes.database().settings()) {
                    tell(&format!("connected by {}", route.name));
                }
                Ok(session)
            }
            Err(error) if error.kind() == ErrorKind::TooManyConnections => {
                Err(Failure::from(error).caused_by(format!(
                    "no connection slot became free within {wait:?}. Give --admin-url a URL that \
                     can still connect: a superuser (superuser_reserved_connections), a role with \
                     pg_use_reserved_connections (PostgreSQL 16 and newer), or the other of a \
                     pooled and a direct endpoint"
                )))
            }
            Err(error) if error.is_unavailable() => match routes.open_other().await {
                Some((session, route)) => {
                    tell(&error.to_string());
                    tell(&format!("connected by {}", route.name));
                    Ok(session)
                }
                None => Err(error.into()),
            },
            Err(error) => Err(error.into()),
        }
    }
}

/// Resolves `env:` and `file:`, and rejects a URL with a password: every user of the machine
/// can read the arguments of a command.
fn resolve(argument: &str, url: &str) -> Result<String, Failure> {
    // `env:` or `file:` may be followed by a URL by mistake: do not print it.
    let shown = if url.contains(['@', '=']) || url.contains("://") {
        argument.to_owned()
    } else {
        format!("{argument} {url}")
    };
    let non_empty = |text: String, what: &str| match text.trim() {
        "" => Err(Failure::new(format!("{shown}: the {what} is empty"))),
        text => Ok(text.to_owned()),
    };
    if let Some(name) = url.strip_prefix("env:") {
        let text = internal::variable(name)
            .ok_or_else(|| Failure::new(format!("{shown}: the variable is not set")))?;
        return non_empty(text, "variable");
    }
    if let Some(path) = url.strip_prefix("file:") {
        let text = std::fs::read_to_string(path).map_err(|error| {
            Failure::new(format!("{shown}: cannot read the file")).caused_by(error)
        })?;
        return non_empty(text, "file");
    }
    let config =
        Config::from_url(url).map_err(|error| Failure::new(format!("{argument}: {error}")))?;
    if config.has_password() {
        return Err(Failure::new(format!(
            "{argument} contains a password, and every user of this machine can see the arguments \
             of a command: put the URL into a variable and pass {argument} env:NAME, or into a \
             file and pass {argument} file:PATH"
        )));
    }
    Ok(url.to_owned())
}
