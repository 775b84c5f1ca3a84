//! The command `antifreeze`: parses the arguments and runs a subcommand.
//!
//! Each subcommand is a module. [`target`] opens the session, [`outcome`] decides the exit
//! code, [`output`] prints.

mod check;
mod doctor;
mod env_file;
mod migrate;
mod outcome;
mod output;
mod plan;
mod sessions;
mod signal;
mod silent;
mod target;
mod wrap;

use std::io;
use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};
use clap_complete::Shell;
use tracing::subscriber::set_global_default;

use outcome::{Failure, Outcome};
use silent::Silent;
use target::Target;

/// Diagnoses and repairs the connection between functions and their PostgreSQL server.
///
/// Connects to the database that the environment names (DATABASE_URL and others), as the
/// function does; docs/configuration.md lists all variables.
///
/// Exits with 0 on success, 1 if there are findings, 2 if the command failed.
#[derive(Parser)]
#[command(name = "antifreeze", version, max_term_width = 100)]
struct Arguments {
    #[command(flatten)]
    target: Target,
    /// Print JSON
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Check each step from the configuration to the locks
    Doctor(doctor::Arguments),
    /// Show the sessions of the server, and end some of them
    Sessions(sessions::Arguments),
    /// Calculate whether the server has enough connection slots for a deployment
    Plan(plan::Arguments),
    /// Prepare each statement of SQL files, and report those that do not fit the database
    Check(check::Arguments),
    /// Run migrations with a lock timeout and retries
    Migrate(migrate::Arguments),
    /// Print the completion script of a shell
    Completions {
        /// The shell
        shell: Shell,
    },
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let Arguments {
        mut target,
        json,
        command,
    } = Arguments::try_parse().unwrap_or_else(|error| exit_with_usage_error(&error));
    // The command reports its findings itself.
    let _ = set_global_default(Silent);
    // Completions need no database.
    if !matches!(command, Command::Completions { .. })
        && let Err(failure) = target.read_files()
    {
        return outcome::exit(Err(failure), json);
    }
    let done = match command {
        Command::Doctor(arguments) => doctor::run(&target, arguments, json).await,
        Command::Sessions(arguments) => sessions::run(&target, arguments, json).await,
        Command::Plan(arguments) => plan::run(&target, arguments, json).await,
        Command::Check(arguments) => check::run(&target, arguments, json).await,
        Command::Migrate(arguments) => migrate::run(&target, arguments, json).await,
        Command::Completions { shell } => completions(shell),
    };
    outcome::exit(done, json)
}

/// Prints clap's error about the arguments and exits. clap quotes the argument, which is
/// replaced here if it is a URL: it may contain a password.
fn exit_with_usage_error(error: &clap::Error) -> ! {
    let text = error.to_string().to_lowercase();
    if error.use_stderr() && (text.contains("://") || text.contains("password=")) {
        output::eprint(
            "error: unexpected URL among the arguments: pass it as --url env:NAME or --url \
             file:PATH",
        );
        std::process::exit(2);
    }
    error.exit()
}

fn completions(shell: Shell) -> Result<Outcome, Failure> {
    let mut command = Arguments::command();
    clap_complete::generate(shell, &mut command, "antifreeze", &mut io::stdout());
    Ok(Outcome::Success)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_consistent() {
        Arguments::command().debug_assert();
    }
}
