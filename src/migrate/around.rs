//! Another tool's migrations, under our lock and time-outs.

use std::future::Future;
use std::process::{Command, ExitStatus};
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::error::{Error, Kind, Result};
use super::event::Event;
use super::held::{Held, under_lock};
use super::options::{Base, options};
use super::report::{Events, Report};
use super::settings::Settings;
use super::tool::Running;
use super::watch::{Watch, What};
use super::{index, lock};
use crate::Database;
use crate::backoff::Backoff;

/// A lock was not to be had, as the tool has said it.
const SQLSTATE: &str = "55P03";

/// Runs another tool's migrations under our lock and time-outs, tells who blocks it, and
/// runs it again if it failed over a lock that was not to be had.
///
/// ```no_run
/// # async fn main_() -> Result<(), Box<dyn std::error::Error>> {
/// # let database = antifreeze::Database::from_env()?;
/// let mut alembic = std::process::Command::new("alembic");
/// alembic.args(["upgrade", "head"]);
/// antifreeze::migrate::Around::new(&database, alembic).run().await?;
/// # Ok(())
/// # }
/// ```
///
/// The tool is told `lock_timeout` and `statement_timeout` by `PGOPTIONS`, which libpq
/// reads and whoever follows it (psycopg, diesel, sqlx, psql); one that does not needs them
/// in its URL or by ALTER ROLE, and [`Event::ToolHeedless`] says if it goes without. It
/// connects to where its own settings say, which must not be a pooler either: that would
/// refuse `PGOPTIONS`. What it writes is passed on to our own output, as it comes.
#[must_use = "it does nothing until it is run"]
pub struct Around {
    command: Command,
    base: Base,
    to_stderr: bool,
}

impl Around {
    /// Runs `command`. Its standard input is empty.
    pub fn new(database: &Database, command: Command) -> Self {
        Around {
            command,
            base: Base::new(database),
            to_stderr: false,
        }
    }

    options!();

    /// Passes on all that the tool writes to our standard error, so that nothing of it is
    /// in our own output.
    pub fn output_to_stderr(mut self) -> Self {
        self.to_stderr = true;
        self
    }

    /// Runs the tool until it succeeds, or fails over something else than a lock.
    ///
    /// # Errors
    ///
    /// [`Kind::Tool`] if it failed, [`Kind::Blocked`] if a lock was not to be had as often
    /// as it was tried, or those of [`Runner::run`](super::Runner::run).
    pub async fn run(mut self) -> Result<Report> {
        let connector = self.base.connector()?;
        let mut tool = Tool::new(self.command, &self.base.settings);
        tool.to_stderr = self.to_stderr;
        under_lock(self.base, connector, async |held| tool.run(held).await).await
    }
}

struct Tool {
    command: tokio::process::Command,
    /// Its name, in lines.
    name: String,
    /// Its sessions' name, if it takes one.
    application: String,
    /// What it is given as `PGOPTIONS`.
    options: String,
    to_stderr: bool,
}

impl Tool {
    fn new(command: Command, settings: &Settings) -> Self {
        let name = std::path::Path::new(command.get_program());
        let name = name
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        let variable = |wanted: &str| {
            let mut own = command.get_envs();
            let own = own
                .find(|(name, _)| *name == wanted)
                .map(|(_, value)| value);
            match own {
                Some(value) => value.map(ToOwned::to_owned),
                None => std::env::var_os(wanted),
            }
        };
        let ours = format!(
            "-c lock_timeout={} -c statement_timeout={}",
            settings.lock_timeout.as_millis(),
            settings.statement_timeout.as_millis(),
        );
        // What the caller sets comes last, and wins.
        let options = match variable("PGOPTIONS") {
            Some(own) => format!("{ours} {}", own.to_string_lossy()),
            None => ours,
        };
        let application = match variable("PGAPPNAME") {
            Some(own) => own.to_string_lossy().into_owned(),
            None => format!("migrate:{name}"),
        };
        Tool {
            command: command.into(),
            name,
            application,
            options,
            to_stderr: false,
        }
    }

    async fn run(mut self, held: &mut Held<'_>) -> Result<()> {
        let settings = held.settings;
        // Killed, it leaves nothing that runs on.
        if held.own.checks() {
            self.options = format!("-c client_connection_check_interval=1000 {}", self.options);
        }
        let known = index::invalid(held.own.client()?, &[]).await?;
        let mut watch = Watch::open(
            held.connector,
            settings.consent,
            settings.lock_timeout,
            held.events,
        )
        .await;
        let ended = self.attempts(held, &mut watch).await;
        watch.close().await;
        if held.own.is_over() || !lock::is_ours(held.own.client()?).await? {
            held.events.tell(Event::LockLost);
        }
        if let Ok(client) = held.own.client() {
            for left in index::invalid(client, &known).await.unwrap_or_default() {
                held.events.tell(left.left());
            }
        }
        ended
    }

    async fn attempts(&mut self, held: &mut Held<'_>, watch: &mut Watch) -> Result<()> {
        let settings = held.settings;
        let began = Instant::now();
        let mut backoff = Backoff::new(settings.backoff[0], settings.backoff[1]);
        let mut attempt = 1;
        loop {
            held.events.tell(Event::ToolStarted {
                tool: self.name.clone(),
                attempt,
            });
            let (status, blocked) = self.once(held, watch).await?;
            if status.success() {
                return Ok(());
            }
            let delay = backoff.next().unwrap_or_default();
            let in_time = began.elapsed() + delay < settings.retry_for;
            if !blocked {
                return Err(Error::new(
                    Kind::Tool,
                    format!("{} failed ({status}): it has said why above", self.name),
                ));
            }
            if attempt >= settings.attempts || !in_time {
                let by = held.events.report.blocked_now();
                let by = by.map_or_else(String::new, |by| format!(" ({by})"));
                return Err(Error::new(
                    Kind::Blocked,
                    format!(
                        "{} did not get its lock within {:?} at any of {attempt} attempts{by}: end \
                         who blocks, or consent to it with `terminate_idle_in_transaction`",
                        self.name, settings.lock_timeout
                    ),
                ));
            }
            held.events.tell(Event::Retrying {
                migration: self.name.clone(),
                attempt,
                sqlstate: SQLSTATE.to_owned(),
                after: delay,
            });
            sleep(delay).await;
            attempt += 1;
        }
    }

    /// How it ended, and whether it spoke of a lock.
    async fn once(&mut self, held: &mut Held<'_>, watch: &mut Watch) -> Result<(ExitStatus, bool)> {
        let client = held.own.client()?;
        let row = client
            .query_one("select clock_timestamp()::text", &[])
            .await?;
        let since: String = row.try_get(0)?;
        self.command
            .env("PGOPTIONS", &self.options)
            .env("PGAPPNAME", &self.application);
        // Interrupted, it is waited for before the lock goes.
        let running = Running::spawn(&self.name, &mut self.command, self.to_stderr)?;
        let running = held.tool.insert(running);
        let ours = [Some(held.own.pid()), watch.pid()];
        let ours: Vec<i32> = ours.into_iter().flatten().collect();
        let limit = held.settings.lock_timeout;
        let ended = tokio::select! {
            biased;
            ended = running.ended() => ended,
            () = look(self, &ours, &since, limit, watch, held.events) => Err(Error::new(
                Kind::Connection,
                "the second connection was lost",
            )),
        };
        *held.tool = None;
        ended
    }
}

/// Tells who blocks the tool, for as long as it runs.
async fn look(
    tool: &Tool,
    ours: &[i32],
    since: &str,
    lock_timeout: Duration,
    watch: &mut Watch,
    events: &mut Events,
) {
    let mut seen = Vec::new();
    let mut told = None;
    loop {
        sleep(watch.pause()).await;
        let late = lock_timeout + lock_timeout / 2;
        let found = watch.waiting(ours, &tool.application, since, late).await;
        if let Some((pid, is_late)) = found {
            let what = What {
                migration: &tool.name,
                line: None,
            };
            watch.look(pid, what, &mut seen, events).await;
            if is_late && told != Some(pid) {
                told = Some(pid);
                events.tell(Event::ToolHeedless { pid });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_caller_sets_wins() {
        let mut command = Command::new("/usr/bin/tool");
        command
            .env("PGOPTIONS", "-c lock_timeout=7")
            .env("PGAPPNAME", "mine");
        let tool = Tool::new(command, &Settings::default());
        assert_eq!(tool.name, "tool");
        assert_eq!(tool.application, "mine");
        assert_eq!(
            tool.options,
            "-c lock_timeout=2000 -c statement_timeout=30000 -c lock_timeout=7"
        );
    }
}
