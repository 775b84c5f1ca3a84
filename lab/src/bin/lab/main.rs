//! The lab's command: `cargo run -p lab -- demo`.

mod compare;
mod demo;
mod fleet;
mod prove;
mod record;
mod step;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Real things to show antifreeze with: a throwaway PostgreSQL, and a Lambda that
/// freezes.
#[derive(Parser)]
#[command(name = "lab", version, about)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Serves examples/lambda_http.rs, freezes it after each request and shows what the
    /// server sees meanwhile, with the layer and without
    Demo {
        /// Serve both, for curl and in a browser, until Ctrl-C
        #[arg(long)]
        serve: bool,
        /// The port of the page; the functions have the next two
        #[arg(long, default_value_t = 9000, requires = "serve")]
        port: u16,
    },
    /// Counts how often tokio-postgres, deadpool, sqlx, Diesel and antifreeze leave a session
    /// stuck when the process is frozen
    Compare {
        /// How often each case is tried
        #[arg(long, default_value_t = 10)]
        runs: usize,
        /// Only as Lambda freezes it: when the runtime asks for the next event
        #[arg(long)]
        next: bool,
    },
    /// Asks a function that you deployed for each ending, and shows what it leaves on the
    /// server; docs/prove.md
    #[command(disable_help_flag = true)]
    Prove {
        /// --help lists them
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
    /// Compares antifreeze with its peers: frozen processes before a small server, in bursts,
    /// outages and cold starts; takes a quarter of an hour
    Fleet(fleet::Options),
    /// Records what tokio-postgres and a server say to each other, for the tests of the
    /// wire and as seeds of its fuzz target
    Record {
        /// Where the recordings go
        #[arg(long, default_value = "tests/recordings")]
        recordings: PathBuf,
        /// Where the seeds go
        #[arg(long, default_value = "fuzz/seeds/traffic")]
        seeds: PathBuf,
    },
}

#[tokio::main]
async fn main() -> ExitCode {
    let done = match Arguments::parse().command {
        Command::Demo { serve, port } => demo::run(serve.then_some(port)).await,
        Command::Compare { runs, next } => compare::run(runs, next).await,
        Command::Prove { arguments } => {
            // As the program itself: 1 says that something was left open.
            lab::exit_code(prove::run(&arguments).await.map_err(Into::into));
            return ExitCode::from(2);
        }
        Command::Fleet(options) => fleet::run(options).await,
        Command::Record { recordings, seeds } => record::run(&recordings, &seeds).await,
    };
    lab::exit_code(done.map_err(Into::into))
}
