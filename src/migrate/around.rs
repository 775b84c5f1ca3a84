//! Another tool's migrations, under our lock and time-outs.

use std::future::Future;
use std::io::Write;
use std::process::{Command, ExitStatus, Stdio};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::{Child, Command as Async};
use tokio::time::{Instant, sleep};

use super::error::{Error, Kind, Result};
use super::event::Event;
use super::report::{Events, Report};
use super::run::{Base, Held, settings, under_lock};
use super::settings::Settings;
use super::watch::{Watch, What};
use super::{index, lock};
use crate::Database;
use crate::backoff::Backoff;

/// What a tool says when its lock was not to be had: the SQLSTATE, the server's words in
/// English, and what some make of it.
const LOCK_TIMEOUT: [&str; 3] = ["55P03", "due to lock timeout", "LockNotAvailable"];

/// The SQLSTATE of the same.
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
}

impl Around {
    /// Runs `command`. Its standard input is empty.
    pub fn new(database: &Database, command: Command) -> Self {
        Around {
            command,
            base: Base::new(database),
        }
    }

    settings!();

    /// Runs the tool until it succeeds, or fails over something else than a lock.
    ///
    /// # Errors
    ///
    /// [`Kind::Tool`] if it failed, [`Kind::Blocked`] if a lock was not to be had as often
    /// as it was tried, or those of [`Runner::run`](super::Runner::run).
    pub async fn run(mut self) -> Result<Report> {
        let connector = self.base.connector()?;
        let tool = Tool::new(self.command, &self.base.settings);
        under_lock(self.base, connector, async |held| tool.run(held).await).await
    }
}

struct Tool {
    command: Async,
    /// Its name, in lines.
    name: String,
    /// Its sessions' name, if it takes one.
    application: String,
    /// What it is given as `PGOPTIONS`.
    options: String,
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
        }
    }

    async fn run(mut self, held: &mut Held<'_>) -> Result<()> {
        let settings = held.settings;
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
        let mut running = Running::spawn(self)?;
        let ours = [Some(held.own.pid()), watch.pid()];
        let ours: Vec<i32> = ours.into_iter().flatten().collect();
        let limit = held.settings.lock_timeout;
        tokio::select! {
            biased;
            ended = running.ended() => ended,
            () = look(self, &ours, &since, limit, watch, held.events) => Err(Error::new(
                Kind::Connection,
                "the second connection was lost",
            )),
        }
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

/// A tool that runs, with all that it has started. Dropped, it is ended.
struct Running {
    child: Child,
    group: Option<rustix::process::Pid>,
}

impl Running {
    fn spawn(tool: &mut Tool) -> Result<Running> {
        let command = &mut tool.command;
        command
            .env("PGOPTIONS", &tool.options)
            .env("PGAPPNAME", &tool.application)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        // A shell does not pass a signal on to what it runs: it is sent to all of them.
        #[cfg(unix)]
        command.process_group(0);
        let child = command.spawn().map_err(|error| {
            let message = format!(
                "{} cannot be started: is it installed, and on the PATH?",
                tool.name
            );
            Error::new(Kind::Tool, message).with_source(error)
        })?;
        let group = child.id().and_then(|id| i32::try_from(id).ok());
        Ok(Running {
            group: group.and_then(rustix::process::Pid::from_raw),
            child,
        })
    }

    async fn ended(&mut self) -> Result<(ExitStatus, bool)> {
        let failed = |error: std::io::Error| {
            Error::new(Kind::Tool, "the tool cannot be waited for").with_source(error)
        };
        let stdout = self.child.stdout.take();
        let stderr = self.child.stderr.take();
        let (out, err, status) = tokio::join!(
            pass_on(stdout, std::io::stdout()),
            pass_on(stderr, std::io::stderr()),
            self.child.wait(),
        );
        self.group = None;
        Ok((status.map_err(failed)?, out || err))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(group) = self.group {
            let _ = rustix::process::kill_process_group(group, rustix::process::Signal::TERM);
        }
    }
}

/// Whether it speaks of a lock that was not to be had.
async fn pass_on(from: Option<impl AsyncRead + Unpin>, mut to: impl Write) -> bool {
    let Some(mut from) = from else { return false };
    let mut seen = Seen::default();
    let mut chunk = [0; 8 * 1024];
    while let Ok(read @ 1..) = from.read(&mut chunk).await {
        let _ = to.write_all(&chunk[..read]).and_then(|()| to.flush());
        seen.take(&chunk[..read]);
    }
    seen.found
}

/// Looks for words in what comes in pieces.
#[derive(Default)]
struct Seen {
    /// The end of what came before.
    rest: Vec<u8>,
    found: bool,
}

impl Seen {
    fn take(&mut self, chunk: &[u8]) {
        self.rest.extend_from_slice(chunk);
        let has = |words: &&str| {
            self.rest
                .windows(words.len())
                .any(|at| at == words.as_bytes())
        };
        self.found |= LOCK_TIMEOUT.iter().any(has);
        let longest = LOCK_TIMEOUT
            .iter()
            .map(|words| words.len())
            .max()
            .unwrap_or_default();
        let keep = self.rest.len().saturating_sub(longest);
        self.rest.drain(..keep);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_found_across_pieces() {
        let found = |pieces: &[&str]| {
            let mut seen = Seen::default();
            pieces.iter().for_each(|piece| seen.take(piece.as_bytes()));
            seen.found
        };
        assert!(found(&[
            "ERROR:  canceling statement due to lock timeout\n"
        ]));
        assert!(found(&[
            "ERROR: canceling statement due to lo",
            "ck",
            " timeout"
        ]));
        assert!(found(&["(SQLSTATE 55P", "03)"]));
        assert!(!found(&[
            "ERROR: canceling statement due to statement timeout",
            ""
        ]));
    }

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
