//! What antifreeze costs, beside what a user would take instead, in one run.
//!
//! ```sh
//! cargo run --release -p lab --example measure -- all
//! cargo run --release -p lab --example measure -- trips --json trips.json
//! cargo run --release -p lab --example measure -- all --quick
//! ```
//!
//! docs/benchmarks.md says what each command measures and how. Counts are exact; times are
//! medians over rounds in which every candidate has its turn, as ratios within a round.

mod connect;
mod fleet;
mod peers;
mod report;
mod rows;
mod servers;
mod start;
mod subjects;
mod trips;
mod warm;
mod worker;
mod workers;

use std::alloc::System;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use lab::statistics;
use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};

use crate::report::Report;
use crate::worker::Work;

/// What can go wrong in a measurement.
type BoxError = Box<dyn std::error::Error + Send + Sync>;
type Result<T, E = BoxError> = std::result::Result<T, E>;

/// Counts the allocations of the whole process, for [`worker`].
#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// Measures antifreeze and its peers side by side.
#[derive(Parser)]
#[command(name = "measure")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    options: Options,
}

#[derive(Args)]
struct Options {
    /// Few runs, and no link of 100 ms: whether everything works, not how fast it is
    #[arg(long, global = true)]
    quick: bool,
    /// Only what a busy machine hardly changes: counts, sizes and CPU time
    #[arg(long, global = true)]
    counts: bool,
    /// The round trip of a link, in milliseconds, over which connecting is timed; may be given
    /// several times
    #[arg(long, global = true, value_name = "MS")]
    link: Vec<u64>,
    /// Where all figures go as JSON
    #[arg(long, global = true, value_name = "FILE")]
    json: Option<PathBuf>,
}

#[derive(Subcommand)]
enum Command {
    /// Round trips of a new connection, until it is ready and until its first row, and the
    /// time that they take over links of 20 and 100 ms
    Trips,
    /// Local time, client CPU and server CPU of a new connection
    Connect,
    /// A warm invocation with one statement: time, instructions, system calls, allocations,
    /// round trips, the sizes of its futures
    Warm,
    /// Wide rows and many rows: time and instructions
    Rows,
    /// 150 frozen processes on 22 slots, three bursts: time and refused connects; builds the
    /// function first
    Fleet,
    /// Program start until the first `/next`, and the size of the file; builds three
    /// functions for release first, which takes minutes
    Start,
    /// All of these; with --quick all but `start`, whose builds alone take longer
    All,
    /// One process of a measurement
    #[command(hide = true)]
    Worker(Work),
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let done = match arguments.command {
        Command::Worker(work) => worker::run(&work),
        command => measure(&command, &arguments.options),
    };
    lab::exit_code(done)
}

#[tokio::main(flavor = "current_thread")]
async fn measure(command: &Command, options: &Options) -> Result<()> {
    let mut report = Report::new("benchmarks.md", options.quick);
    let all = matches!(command, Command::All);
    if all || matches!(command, Command::Trips) {
        trips::run(&mut report, options).await?;
    }
    if all || matches!(command, Command::Connect) {
        connect::run(&mut report, options).await?;
    }
    if all || matches!(command, Command::Warm) {
        warm::run(&mut report, options).await?;
    }
    if all || matches!(command, Command::Rows) {
        rows::run(&mut report, options).await?;
    }
    if all || matches!(command, Command::Fleet) {
        fleet::run(&mut report, options).await?;
    }
    if matches!(command, Command::Start) || (all && !options.quick) {
        start::run(&mut report, options).await?;
    }
    report.finish(options.json.as_deref())
}
