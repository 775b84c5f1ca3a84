//! `antifreeze migrate`: runs migrations with a lock timeout and retries.
//!
//! The library does the work. This module parses the arguments, prints events as they
//! happen, and passes on signals.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use antifreeze_doctor::printable;
use antifreeze_migrate::{Error, ErrorKind, Event, Migrations, Report, State, Status, ToolRunner};
use clap::{Args, Subcommand};
use serde_json::json;

use crate::outcome::{Failure, Outcome};
use crate::output;
use crate::signal;
use crate::target::{Target, time};

#[derive(Args)]
pub struct Arguments {
    /// The directory of the migrations, with file names as refinery uses them: V1__name.sql
    #[arg(long, default_value = "migrations", global = true)]
    directory: PathBuf,
    /// How long a statement may wait for a lock before it is cancelled and retried
    #[arg(long, default_value = "2s", value_parser = time)]
    lock_timeout: Duration,
    /// How long a statement may take; 0 for no limit
    #[arg(long, value_parser = time)]
    statement_timeout: Option<Duration>,
    /// How often a statement that times out waiting for a lock is tried
    #[arg(long)]
    attempts: Option<u32>,
    /// End blocking sessions that have been idle in a transaction for longer than this
    #[arg(long, value_parser = time, value_name = "AGE")]
    terminate_idle_in_transaction: Option<Duration>,
    /// Run nothing if the lint reports a finding
    #[arg(long, conflicts_with = "run")]
    refuse_findings: bool,
    /// Print the pending migrations and the lint's findings, and change nothing
    #[arg(long, conflicts_with = "run")]
    dry_run: bool,
    /// Run another migration tool under the same lock and timeouts: 'alembic upgrade head'
    #[arg(long, value_name = "COMMAND")]
    run: Option<String>,
    #[command(subcommand)]
    command: Option<HistoryCommand>,
}

#[derive(Subcommand)]
enum HistoryCommand {
    /// Print whether each migration was applied
    Status,
    /// Record all migrations up to a version as applied, without running them
    Baseline {
        /// The last version to record
        version: i64,
    },
    /// Update the history of one migration to match its file, without running it
    Resolve {
        /// The version of the migration
        version: i64,
    },
}

impl Arguments {
    /// Rejects options that the subcommand would ignore: `--dry-run baseline 7` would write.
    fn validate(&self) -> Result<(), Failure> {
        let running = self.dry_run || self.refuse_findings || self.run.is_some();
        if self.command.is_some() && running {
            return Err(Failure::new(
                "--dry-run, --refuse-findings and --run cannot be used with status, baseline and \
                 resolve: they apply to running migrations only",
            ));
        }
        Ok(())
    }
}

pub async fn run(target: &Target, arguments: Arguments, json: bool) -> Result<Outcome, Failure> {
    arguments.validate()?;
    if target.names_admin() {
        return Err(Failure::new(
            "--admin-url cannot be used with migrate: new tables would belong to the admin role; \
             set MIGRATION_DATABASE_URL to a URL with the role that owns the tables",
        ));
    }
    let routes = target.routes("migrate")?;
    let database = routes.database();
    // With --json, the report at the end has everything.
    let on_event = move |event: &Event| {
        let line = printable(&event.to_string());
        match event {
            Event::NoSlot { .. } => output::eprint(&line),
            _ if json => {}
            _ => output::print(&line),
        }
    };
    let stop = signal::stop();
    if let Some(line) = &arguments.run {
        let mut command = Command::new("sh");
        command.args(["-c", line]);
        let mut runner = ToolRunner::new(database, command)
            .lock_timeout(arguments.lock_timeout)
            .slot_wait(target.wait())
            .stop_when(stop)
            .on_event(on_event);
        if target.names_database() {
            runner = runner.ignore_environment();
        }
        if json {
            runner = runner.output_to_stderr();
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
        return finish(runner.run().await, json);
    }
    let migrations = match Migrations::from_dir(&arguments.directory) {
        Ok(migrations) => migrations,
        Err(error) => return finish(Err(error), json),
    };
    let mut runner = migrations
        .runner(database)
        .lock_timeout(arguments.lock_timeout)
        .slot_wait(target.wait())
        .stop_when(stop)
        .on_event(on_event);
    if target.names_database() {
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
        Some(HistoryCommand::Status) => match runner.status().await {
            Ok(all) => Ok(status(&all, json)),
            Err(error) => finish(Err(error), json),
        },
        Some(HistoryCommand::Baseline { version }) => finish(runner.baseline(version).await, json),
        Some(HistoryCommand::Resolve { version }) => finish(runner.resolve(version).await, json),
        None if arguments.dry_run => {
            let report = runner.dry_run().await;
            // Pending migrations are not findings; what the lint reports is.
            let found = report
                .as_ref()
                .is_ok_and(|report| !report.findings.is_empty());
            let outcome = finish(report, json)?;
            Ok(if found { Outcome::Findings } else { outcome })
        }
        None => finish(runner.run().await, json),
    }
}

fn status(all: &[Status], json: bool) -> Outcome {
    if json {
        output::print_json(&json!({ "migrations": all }));
    } else {
        for status in all {
            let state = format!("{:?}", status.state).to_lowercase();
            let when = status.applied_on.as_deref().unwrap_or_default();
            output::print(&printable(&format!(
                "{state:<8} {} {when}",
                status.migration
            )));
        }
    }
    if all.iter().all(|status| status.state == State::Applied) {
        Outcome::Success
    } else {
        Outcome::Findings
    }
}

/// Prints the report and the error, and decides the outcome: a run that reached the database
/// and failed is a finding, one that did not is a failure.
fn finish(done: Result<Report, Error>, json: bool) -> Result<Outcome, Failure> {
    let (report, error) = match &done {
        Ok(report) => (report, None),
        Err(error) => (error.report(), Some(error)),
    };
    if json {
        let kind = error.map(Error::kind);
        let line = error.map(ToString::to_string);
        output::print_json(&json!({ "report": report, "error": line, "kind": kind }));
    } else if let Some(error) = error {
        output::eprint(&printable(&format!("error: {error}")));
        let mut source = std::error::Error::source(error);
        while let Some(cause) = source {
            output::eprint(&printable(&format!("  caused by: {cause}")));
            source = cause.source();
        }
    }
    let needs_action = report.lock_lost || !report.invalid_indexes.is_empty();
    Ok(match error.map(Error::kind) {
        None if needs_action => Outcome::Findings,
        None => Outcome::Success,
        Some(
            ErrorKind::Configuration | ErrorKind::Connection | ErrorKind::Files | ErrorKind::Pooler,
        ) => Outcome::Failed,
        Some(_) => Outcome::Findings,
    })
}
