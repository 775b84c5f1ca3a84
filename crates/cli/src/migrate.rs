//! `antifreeze migrate`: migrations that cannot take the site down.
//!
//! The lock, the timeouts and the report are the library's; this reads arguments, prints
//! what happens as it happens, and stops on a signal as the library does.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use antifreeze_doctor::plain;
use antifreeze_migrate::{Around, Error, Event, Kind, Migrations, Report, State, Status};
use clap::{Args, Subcommand};
use serde_json::json;

use crate::outcome::{Failure, Outcome};
use crate::paint;
use crate::reach::{Reach, time};
use crate::signal;

#[derive(Args)]
pub struct Arguments {
    /// Where the files are, named as refinery names them: V1__name.sql
    #[arg(long, default_value = "migrations", global = true)]
    directory: PathBuf,
    /// How long a statement may wait for a lock before it gives way and is tried again
    #[arg(long, default_value = "2s", value_parser = time)]
    lock_timeout: Duration,
    /// How long a statement may take; 0 for as long as it wants
    #[arg(long, value_parser = time)]
    statement_timeout: Option<Duration>,
    /// How often a statement that gives way is tried
    #[arg(long)]
    attempts: Option<u32>,
    /// End sessions in the way that have been idle in a transaction for longer than this
    #[arg(long, value_parser = time, value_name = "AGE")]
    terminate_idle_in_transaction: Option<Duration>,
    /// Run nothing if the lint finds something
    #[arg(long, conflicts_with = "run")]
    refuse_findings: bool,
    /// Say what would be run, and change nothing
    #[arg(long, conflicts_with = "run")]
    dry_run: bool,
    /// Run another tool in our place, under our lock and timeouts: 'alembic upgrade head'
    #[arg(long, value_name = "COMMAND")]
    run: Option<String>,
    #[command(subcommand)]
    command: Option<Other>,
}

#[derive(Subcommand)]
enum Other {
    /// Says of each migration whether it was run
    Status,
    /// Writes all up to a version into the history without running them
    Baseline {
        /// The last of them
        version: i64,
    },
    /// Brings the history of one migration in line with its file without running it
    Resolve {
        /// Which one
        version: i64,
    },
}

impl Arguments {
    /// `--dry-run baseline 7` must not write, and nobody would want `--run X status`.
    fn are_for_one_thing(&self) -> Result<(), Failure> {
        let running = self.dry_run || self.refuse_findings || self.run.is_some();
        match self.command.is_some() && running {
            false => Ok(()),
            true => Err(Failure::new(
                "--dry-run, --refuse-findings and --run are for running migrations: status \
                 changes nothing anyway, baseline and resolve write the history",
            )),
        }
    }
}

pub async fn run(reach: &Reach, arguments: Arguments, json: bool) -> Result<Outcome, Failure> {
    arguments.are_for_one_thing()?;
    if reach.names_admin() {
        return Err(Failure::new(
            "--admin-url is not for migrate: what it makes would belong to the admin; name the \
             role that owns the tables in MIGRATION_DATABASE_URL",
        ));
    }
    let ways = reach.ways("migrate")?;
    let database = ways.database();
    // The report says it all to programs, at the end.
    let tell = move |event: &Event| {
        let line = plain(&event.to_string());
        match event {
            Event::NoSlot { .. } => paint::complain(&line),
            _ if json => {}
            _ => paint::print(&line),
        }
    };
    let stop = signal::stop();
    if let Some(line) = &arguments.run {
        let mut command = Command::new("sh");
        command.args(["-c", line]);
        let mut around = Around::new(database, command)
            .lock_timeout(arguments.lock_timeout)
            .slot_wait(reach.wait())
            .stop_when(stop)
            .on_event(tell);
        if reach.names_database() {
            around = around.ignore_environment();
        }
        if json {
            around = around.output_to_stderr();
        }
        if let Some(limit) = arguments.statement_timeout {
            around = around.statement_timeout(limit);
        }
        if let Some(attempts) = arguments.attempts {
            around = around.attempts(attempts);
        }
        if let Some(age) = arguments.terminate_idle_in_transaction {
            around = around.terminate_idle_in_transaction(age);
        }
        return told(around.run().await, json);
    }
    let migrations = match Migrations::from_dir(&arguments.directory) {
        Ok(migrations) => migrations,
        Err(error) => return told(Err(error), json),
    };
    let mut runner = migrations
        .runner(database)
        .lock_timeout(arguments.lock_timeout)
        .slot_wait(reach.wait())
        .stop_when(stop)
        .on_event(tell);
    if reach.names_database() {
        runner = runner.ignore_environment();
    }
    if let Some(limit) = arguments.statement_timeout {
        runner = runner.statement_timeout(limit);
    }
    if let Some(attempts) = arguments.attempts {
        runner = runner.attempts(attempts);
    }
    if let Some(age) = arguments.terminate_idle_in_transaction {
        runner = runner.terminate_idle_in_transaction(age);
    }
    if arguments.refuse_findings {
        runner = runner.refuse_findings();
    }
    match arguments.command {
        Some(Other::Status) => match runner.status().await {
            Ok(all) => Ok(status(&all, json)),
            Err(error) => told(Err(error), json),
        },
        Some(Other::Baseline { version }) => told(runner.baseline(version).await, json),
        Some(Other::Resolve { version }) => told(runner.resolve(version).await, json),
        None if arguments.dry_run => {
            let report = runner.dry_run().await;
            // What is pending is no finding: what the lint finds is.
            let found = report
                .as_ref()
                .is_ok_and(|report| !report.findings.is_empty());
            let outcome = told(report, json)?;
            Ok(if found { Outcome::Findings } else { outcome })
        }
        None => told(runner.run().await, json),
    }
}

fn status(all: &[Status], json: bool) -> Outcome {
    if json {
        paint::document(&json!({ "migrations": all }));
    } else {
        for one in all {
            let state = format!("{:?}", one.state).to_lowercase();
            let when = one.applied_on.as_deref().unwrap_or_default();
            paint::print(&plain(&format!("{state:<8} {} {when}", one.migration)));
        }
    }
    match all.iter().all(|one| one.state == State::Applied) {
        true => Outcome::Well,
        false => Outcome::Findings,
    }
}

/// A run that failed is a finding if it looked, and none if it could not.
fn told(done: Result<Report, Error>, json: bool) -> Result<Outcome, Failure> {
    let (report, error) = match &done {
        Ok(report) => (report, None),
        Err(error) => (error.report(), Some(error)),
    };
    if json {
        let kind = error.map(Error::kind);
        let line = error.map(ToString::to_string);
        paint::document(&json!({ "report": report, "error": line, "kind": kind }));
    } else if let Some(error) = error {
        paint::complain(&plain(&format!("error: {error}")));
        let mut source = std::error::Error::source(error);
        while let Some(cause) = source {
            paint::complain(&plain(&format!("  because: {cause}")));
            source = cause.source();
        }
    }
    let leaves = report.lock_lost || !report.invalid_indexes.is_empty();
    Ok(match error.map(Error::kind) {
        // It went well, and somebody has to see to what is left.
        None if leaves => Outcome::Findings,
        None => Outcome::Well,
        Some(Kind::Configuration | Kind::Connection | Kind::Files | Kind::Pooler) => {
            Outcome::Failed
        }
        Some(_) => Outcome::Findings,
    })
}
