//! The command `antifreeze`: for the engineer on call.
//!
//! Each subcommand is a module; [`reach`] gets a session, [`outcome`] ends the process.

mod check;
mod doctor;
mod migrate;
mod outcome;
mod paint;
mod plan;
mod reach;
mod sessions;
mod signal;

use std::io;
use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};
use clap_complete::Shell;
use tracing::subscriber::{NoSubscriber, set_global_default};

use outcome::{Failure, Outcome};
use reach::Reach;

/// Finds out what is wrong between functions and their PostgreSQL, and helps in an outage.
///
/// The database is the one that the environment names (DATABASE_URL and its friends), as
/// it is for the function; docs/configuration.md has all of it.
///
/// It exits with 0 if all is well, 1 if something is to be done, 2 if it could not look.
#[derive(Parser)]
#[command(name = "antifreeze", version, max_term_width = 100)]
struct Arguments {
    #[command(flatten)]
    reach: Reach,
    /// For programs: JSON
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Looks at everything between here and the tables, step by step
    Doctor(doctor::Arguments),
    /// Shows who holds the server, and ends sessions
    Sessions(sessions::Arguments),
    /// Counts whether the server has room for what is to be deployed
    Plan(plan::Arguments),
    /// Prepares each statement of files, and says what does not exist or does not fit
    Check(check::Arguments),
    /// Runs migrations so that they cannot take the site down
    Migrate(migrate::Arguments),
    /// Writes what a shell needs to complete commands
    Completions {
        /// Which shell
        shell: Shell,
    },
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let Arguments {
        reach,
        json,
        command,
    } = Arguments::try_parse().unwrap_or_else(|error| misused(&error));
    // The command says what it finds in its own words. Without any subscriber, what endangers
    // a function would go to stderr.
    let _ = set_global_default(NoSubscriber::default());
    let done = match command {
        Command::Doctor(arguments) => doctor::run(&reach, arguments, json).await,
        Command::Sessions(arguments) => sessions::run(&reach, arguments, json).await,
        Command::Plan(arguments) => plan::run(&reach, arguments, json).await,
        Command::Check(arguments) => check::run(&reach, arguments, json).await,
        Command::Migrate(arguments) => migrate::run(&reach, arguments, json).await,
        Command::Completions { shell } => completions(shell),
    };
    outcome::exit(done, json)
}

/// Says what is wrong with the arguments. clap quotes it, and a URL may hold a password.
fn misused(error: &clap::Error) -> ! {
    let text = error.to_string().to_lowercase();
    if error.use_stderr() && (text.contains("://") || text.contains("password=")) {
        paint::complain(
            "a URL stands where none is expected: give it as --url env:NAME, file:PATH",
        );
        std::process::exit(2);
    }
    error.exit()
}

fn completions(shell: Shell) -> Result<Outcome, Failure> {
    let mut command = Arguments::command();
    clap_complete::generate(shell, &mut command, "antifreeze", &mut io::stdout());
    Ok(Outcome::Well)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_consistent() {
        Arguments::command().debug_assert();
    }
}
