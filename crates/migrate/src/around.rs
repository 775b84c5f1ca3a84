//! Another tool's migrations, under our lock and timeouts.

use std::convert::Infallible;
use std::future::Future;
use std::pin::pin;
use std::process::{Command, ExitStatus};
use std::time::Duration;

use antifreeze::Database;
use antifreeze::internal::Backoff;
use tokio::time::{Instant, sleep};

use super::error::{Error, Kind, Result};
use super::event::Event;
use super::held::{Held, under_lock};
use super::limits::Limits;
use super::options::{Base, options};
use super::report::{Events, Report};
use super::settings::Settings;
use super::tool::{Limit, Running};
use super::watch::{Watch, What, reported};
use super::{index, lock};

/// A lock was not to be had, as the tool has said it.
const SQLSTATE: &str = "55P03";

/// Runs another tool's migrations under our lock and timeouts, tells who blocks it, and
/// runs it again if it failed over a lock that was not to be had.
///
/// ```no_run
/// # async fn main_() -> Result<(), Box<dyn std::error::Error>> {
/// # let database = antifreeze::Database::from_env()?;
/// let mut alembic = std::process::Command::new("alembic");
/// alembic.args(["upgrade", "head"]);
/// antifreeze_migrate::Around::new(&database, alembic).run().await?;
/// # Ok(())
/// # }
/// ```
///
/// The tool is told `lock_timeout` and `statement_timeout` by `PGOPTIONS`, which libpq
/// reads and whoever follows it (psycopg, diesel, sqlx, psql); one that does not needs them
/// in its URL or by ALTER ROLE, and [`Event::ToolHeedless`] says if it goes without. It
/// connects to where its own settings say, which must not be a pooler either: that would
/// refuse `PGOPTIONS`. What it writes is passed on to our own output, as it comes; what it
/// leaves in the background ends with it.
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
    /// as it was tried, or the tool went on without it, whatever its exit status;
    /// [`Kind::Timeout`] if `statement_timeout` ended a statement, likewise; or those of
    /// [`Runner::run`](super::Runner::run).
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
        let known = index::invalid(held.own.client(), &[]).await?;
        let mut watch = Watch::open(
            held.connector,
            settings.consent,
            settings.lock_timeout,
            held.events,
        )
        .await;
        let ended = self.attempts(held, &mut watch).await;
        watch.close().await;
        if held.own.is_over() || !lock::is_ours(held.own.client()).await? {
            held.events.tell(Event::LockLost);
        }
        let left = index::invalid(held.own.client(), &known).await;
        for left in left.unwrap_or_default() {
            held.events.tell(left.left());
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
            let (status, limit) = self.once(held, watch).await?;
            let blocked = match (status.success(), limit) {
                (true, None) => return Ok(()),
                (true, Some(limit)) => return Err(self.went_on(limit)),
                (false, Some(Limit::Statement)) => return Err(self.took_long(status)),
                (false, limit) => limit.is_some(),
            };
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

    /// It says that it succeeded. What it did may not be done twice, so it is not run again.
    fn went_on(&self, limit: Limit) -> Error {
        let kind = match limit {
            Limit::Lock => Kind::Blocked,
            Limit::Statement => Kind::Timeout,
        };
        let message = format!(
            "{} went on after {} had ended a statement, and exited as if it had succeeded: what it \
             did is incomplete, and it is not run again; look for what is missing, and let it stop \
             at the first error (psql: `-v ON_ERROR_STOP=1`, and `-1` for one transaction)",
            self.name,
            limit.name()
        );
        Error::new(kind, message)
    }

    fn took_long(&self, status: ExitStatus) -> Error {
        let message = format!(
            "{} failed ({status}): a statement took longer than statement_timeout allows; do it in \
             smaller parts, or raise `statement_timeout`",
            self.name
        );
        Error::new(Kind::Timeout, message)
    }

    /// How it ended, and the limit of ours that ended a statement.
    async fn once(
        &mut self,
        held: &mut Held<'_>,
        watch: &mut Watch,
    ) -> Result<(ExitStatus, Option<Limit>)> {
        let client = held.own.client();
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
        let mut limits = Limits::new(held.settings);
        let limit = held.settings.lock_timeout;
        let ending = watch.ending();
        let ended = {
            let looking = look(self, &ours, &since, limit, watch, &mut limits, held.events);
            let mut looking = pin!(looking);
            let ended = tokio::select! {
                biased;
                ended = running.ended() => ended,
                never = looking.as_mut() => match never {},
            };
            reported(&ending, looking).await;
            ended
        };
        *held.tool = None;
        let (status, said) = ended?;
        // Its last statement may have ended since.
        watch
            .limits(&mut limits, &self.application, &ours, &since)
            .await;
        Ok((status, said.or(limits.ended)))
    }
}

/// Tells who blocks the tool, and sees which statements our limits end, for as long as it runs.
async fn look(
    tool: &Tool,
    ours: &[i32],
    since: &str,
    lock_timeout: Duration,
    watch: &mut Watch,
    limits: &mut Limits,
    events: &mut Events,
) -> Infallible {
    let mut seen = Vec::new();
    let mut told = None;
    loop {
        let began = Instant::now();
        // Near a limit it is looked for that alone.
        let mut soon = watch.limits(limits, &tool.application, ours, since).await;
        while let Some(next) = soon.filter(|&next| began.elapsed() + next < watch.pause()) {
            sleep(next).await;
            soon = watch.limits(limits, &tool.application, ours, since).await;
        }
        sleep(watch.pause().saturating_sub(began.elapsed())).await;
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
    fn callers_settings_win() {
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
