//! Runs another migration tool under the lock and timeouts of a runner.

use std::convert::Infallible;
use std::future::Future;
use std::pin::pin;
use std::process::{Command, ExitStatus};
use std::time::Duration;

use antifreeze::Database;
use antifreeze::internal::Backoff;
use tokio::time::{Instant, sleep};

use super::error::{Error, ErrorKind, Result};
use super::event::Event;
use super::limits::Limits;
use super::locked::{Locked, with_lock};
use super::monitor::{Location, Monitor, reported};
use super::options::{Options, options};
use super::report::{Events, Report};
use super::run_settings::RunSettings;
use super::tool_process::{Limit, ToolProcess};
use super::{index, lock};

/// `lock_not_available`.
const SQLSTATE: &str = "55P03";

/// Runs another migration tool under the lock and timeouts of a [`Runner`](super::Runner),
/// reports the sessions that block it, and runs it again after a lock timeout.
///
/// ```no_run
/// # async fn main_() -> Result<(), Box<dyn std::error::Error>> {
/// # let database = antifreeze::Database::from_env()?;
/// let mut alembic = std::process::Command::new("alembic");
/// alembic.args(["upgrade", "head"]);
/// antifreeze_migrate::ToolRunner::new(&database, alembic).run().await?;
/// # Ok(())
/// # }
/// ```
///
/// The tool receives `lock_timeout` and `statement_timeout` in `PGOPTIONS`, which libpq and
/// drivers that follow it read (psycopg, diesel, sqlx, psql). For other tools, set them in
/// the URL or with ALTER ROLE; [`Event::ToolIgnoresOptions`] reports a tool that runs
/// without. The tool connects with its own settings, which must not lead to a pooler: a
/// pooler refuses `PGOPTIONS`. Its output is passed on as it comes. Processes that it leaves
/// in the background are ended with it.
#[must_use = "the tool does not start until `run` is called"]
pub struct ToolRunner {
    command: Command,
    base: Options,
    to_stderr: bool,
}

impl ToolRunner {
    /// Creates a runner of `command`. The command's standard input is empty.
    pub fn new(database: &Database, command: Command) -> Self {
        ToolRunner {
            command,
            base: Options::new(database),
            to_stderr: false,
        }
    }

    options!();

    /// Passes all output of the tool on to the standard error of this process, and none to its
    /// standard output.
    pub fn output_to_stderr(mut self) -> Self {
        self.to_stderr = true;
        self
    }

    /// Runs the tool until it succeeds, or fails for another reason than a lock timeout.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Tool`] if the tool failed; [`ErrorKind::Blocked`] if every attempt ended with a lock
    /// timeout, or the tool continued after one, whatever its exit status; [`ErrorKind::Timeout`]
    /// if `statement_timeout` ended a statement, whatever the exit status; otherwise those of
    /// [`Runner::run`](super::Runner::run).
    pub async fn run(mut self) -> Result<Report> {
        let connector = self.base.connector()?;
        let mut tool = Tool::new(self.command, &self.base.settings);
        tool.to_stderr = self.to_stderr;
        with_lock(self.base, connector, async |locked| tool.run(locked).await).await
    }
}

struct Tool {
    command: tokio::process::Command,
    /// The name of the tool in messages.
    name: String,
    /// The `application_name` of its sessions, if it reads `PGAPPNAME`.
    application: String,
    /// The value of `PGOPTIONS`.
    options: String,
    to_stderr: bool,
}

impl Tool {
    fn new(command: Command, settings: &RunSettings) -> Self {
        let name = std::path::Path::new(command.get_program());
        let name = name
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        let variable = |wanted: &str| {
            let mut set = command.get_envs();
            let set = set
                .find(|(name, _)| *name == wanted)
                .map(|(_, value)| value);
            match set {
                Some(value) => value.map(ToOwned::to_owned),
                None => std::env::var_os(wanted),
            }
        };
        let timeouts = format!(
            "-c lock_timeout={} -c statement_timeout={}",
            settings.lock_timeout.as_millis(),
            settings.statement_timeout.as_millis(),
        );
        // The caller's options come last and take precedence.
        let options = match variable("PGOPTIONS") {
            Some(options) => format!("{timeouts} {}", options.to_string_lossy()),
            None => timeouts,
        };
        let application = match variable("PGAPPNAME") {
            Some(name) => name.to_string_lossy().into_owned(),
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

    async fn run(mut self, locked: &mut Locked<'_>) -> Result<()> {
        let settings = locked.settings;
        // The server then ends its statement when the tool is killed.
        if locked.session.checks_client() {
            self.options = format!("-c client_connection_check_interval=1000 {}", self.options);
        }
        let known = index::invalid(locked.session.client(), &[]).await?;
        let mut monitor = Monitor::open(
            locked.connector,
            settings.terminate_age,
            settings.lock_timeout,
            locked.events,
        )
        .await;
        let ended = self.attempts(locked, &mut monitor).await;
        monitor.close().await;
        if locked.session.is_closed() || !lock::is_held(locked.session.client()).await? {
            locked.events.emit(Event::LockLost);
        }
        let left = index::invalid(locked.session.client(), &known).await;
        for left in left.unwrap_or_default() {
            locked.events.emit(left.event());
        }
        ended
    }

    async fn attempts(&mut self, locked: &mut Locked<'_>, monitor: &mut Monitor) -> Result<()> {
        let settings = locked.settings;
        let began = Instant::now();
        let mut backoff = Backoff::new(settings.backoff[0], settings.backoff[1]);
        let mut attempt = 1;
        loop {
            locked.events.emit(Event::ToolStarted {
                tool: self.name.clone(),
                attempt,
            });
            let (status, limit) = self.attempt(locked, monitor).await?;
            let blocked = match (status.success(), limit) {
                (true, None) => return Ok(()),
                (true, Some(limit)) => return Err(self.continued(limit)),
                (false, Some(Limit::Statement)) => return Err(self.timed_out(status)),
                (false, limit) => limit.is_some(),
            };
            let delay = backoff.next().unwrap_or_default();
            let in_time = began.elapsed() + delay < settings.retry_for;
            if !blocked {
                return Err(Error::new(
                    ErrorKind::Tool,
                    format!("{} failed ({status}): see its output above", self.name),
                ));
            }
            if attempt >= settings.attempts || !in_time {
                let by = locked.events.report.blocked_now();
                let by = by.map_or_else(String::new, |by| format!(" ({by})"));
                return Err(Error::new(
                    ErrorKind::Blocked,
                    format!(
                        "{} timed out after {:?} while waiting for a lock, in each of {attempt} \
                         attempts{by}: end the blocking session, or set \
                         `terminate_idle_in_transaction`",
                        self.name, settings.lock_timeout
                    ),
                ));
            }
            locked.events.emit(Event::Retrying {
                migration: self.name.clone(),
                attempt,
                sqlstate: SQLSTATE.to_owned(),
                after: delay,
            });
            sleep(delay).await;
            attempt += 1;
        }
    }

    /// The error of a tool that continued after a timeout and exited with success. It is not
    /// run again, since its statements may not be repeatable.
    fn continued(&self, limit: Limit) -> Error {
        let kind = match limit {
            Limit::Lock => ErrorKind::Blocked,
            Limit::Statement => ErrorKind::Timeout,
        };
        let message = format!(
            "{} continued after {} had ended a statement, and exited with success: its work is \
             incomplete, and it is not run again; check what is missing, and make it stop at the \
             first error (psql: `-v ON_ERROR_STOP=1`, and `-1` for one transaction)",
            self.name,
            limit.name()
        );
        Error::new(kind, message)
    }

    fn timed_out(&self, status: ExitStatus) -> Error {
        let message = format!(
            "{} failed ({status}): a statement exceeded statement_timeout; split it into smaller \
             parts, or raise `statement_timeout`",
            self.name
        );
        Error::new(ErrorKind::Timeout, message)
    }

    /// Runs the tool once; returns its exit status and the timeout that ended a statement.
    async fn attempt(
        &mut self,
        locked: &mut Locked<'_>,
        monitor: &mut Monitor,
    ) -> Result<(ExitStatus, Option<Limit>)> {
        let client = locked.session.client();
        let row = client
            .query_one("select clock_timestamp()::text", &[])
            .await?;
        let since: String = row.try_get(0)?;
        self.command
            .env("PGOPTIONS", &self.options)
            .env("PGAPPNAME", &self.application);
        // If interrupted, the tool is ended before the lock is released.
        let running = ToolProcess::spawn(&self.name, &mut self.command, self.to_stderr)?;
        let running = locked.tool.insert(running);
        let excluded = [Some(locked.session.pid()), monitor.pid()];
        let excluded: Vec<i32> = excluded.into_iter().flatten().collect();
        let mut limits = Limits::new(locked.settings);
        let limit = locked.settings.lock_timeout;
        let ending = monitor.ending();
        let ended = {
            let observing = observe(
                self,
                &excluded,
                &since,
                limit,
                monitor,
                &mut limits,
                locked.events,
            );
            let mut observing = pin!(observing);
            let ended = tokio::select! {
                biased;
                ended = running.ended() => ended,
                never = observing.as_mut() => match never {},
            };
            reported(&ending, observing).await;
            ended
        };
        *locked.tool = None;
        let (status, printed) = ended?;
        // Its last statement may have ended since the last check.
        monitor
            .limits(&mut limits, &self.application, &excluded, &since)
            .await;
        let if_failed = limits.if_failed.filter(|_| !status.success());
        Ok((status, printed.or(limits.ended).or(if_failed)))
    }
}

/// Reports sessions that block the tool, and detects statements that a timeout ends, for as
/// long as the tool runs.
async fn observe(
    tool: &Tool,
    excluded: &[i32],
    since: &str,
    lock_timeout: Duration,
    monitor: &mut Monitor,
    limits: &mut Limits,
    events: &mut Events,
) -> Infallible {
    let mut seen = Vec::new();
    let mut reported = None;
    loop {
        let began = Instant::now();
        // Close to a timeout, only that is checked.
        let mut soon = monitor
            .limits(limits, &tool.application, excluded, since)
            .await;
        while let Some(next) = soon.filter(|&next| began.elapsed() + next < monitor.pause()) {
            sleep(next).await;
            soon = monitor
                .limits(limits, &tool.application, excluded, since)
                .await;
        }
        sleep(monitor.pause().saturating_sub(began.elapsed())).await;
        let late = lock_timeout + lock_timeout / 2;
        let found = monitor
            .waiting(excluded, &tool.application, since, late)
            .await;
        if let Some((pid, is_late, is_tools)) = found {
            let location = Location {
                migration: &tool.name,
                line: None,
            };
            // For another's lock nobody is ended.
            monitor
                .check(pid, location, is_tools, &mut seen, events)
                .await;
            if is_late && reported != Some(pid) {
                reported = Some(pid);
                events.emit(Event::ToolIgnoresOptions { pid });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_of_the_caller_take_precedence() {
        let mut command = Command::new("/usr/bin/tool");
        command
            .env("PGOPTIONS", "-c lock_timeout=7")
            .env("PGAPPNAME", "mine");
        let tool = Tool::new(command, &RunSettings::default());
        assert_eq!(tool.name, "tool");
        assert_eq!(tool.application, "mine");
        assert_eq!(
            tool.options,
            "-c lock_timeout=2000 -c statement_timeout=30000 -c lock_timeout=7"
        );
    }
}
