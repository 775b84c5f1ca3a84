//! antifreeze and its peers: really frozen processes before a small server.
//!
//! Every candidate goes through the same scenarios, one after the other, in each run in another
//! order. docs/benchmarks.md has what is measured and how.

mod candidates;
mod cell;
mod chart;
mod output;
mod page;
mod process;
mod sampler;
mod scenarios;
mod scene;
mod summary;
mod table;

use std::path::PathBuf;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use lab::cargo::build;
use lab::postgres::{Auth, Postgres};
use lab::{Error, Result, fleet, tools};

use crate::step::Step;
use candidates::{Candidate, Program};
use cell::Cell;
use output::{Machine, Report};
use scenarios::Scenario;
use scene::{Programs, Server};

/// The slots of the server: 25, of which 3 are for superusers, and one more for the session that
/// samples.
const CONNECTIONS: u32 = 26;

#[derive(clap::Args)]
pub struct Options {
    /// Three scenarios, once, with 30 instances: whether everything works, not how fast it is
    #[arg(long)]
    quick: bool,
    /// How often everything is measured
    #[arg(long, default_value_t = 3)]
    runs: usize,
    /// Only this scenario; may be given several times
    #[arg(long, value_name = "NAME")]
    scenario: Vec<String>,
    /// Only this candidate; may be given several times
    #[arg(long, value_name = "NAME")]
    candidate: Vec<String>,
    /// Where all figures go as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Where the report goes as a page
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// Writes docs/benchmarks/fleet.json, fleet.html and the pictures; takes a release build
    #[arg(long, conflicts_with = "quick")]
    save: bool,
    /// The function, built already
    #[arg(long, value_name = "FILE", hide = true)]
    function: Option<PathBuf>,
}

pub async fn run(options: Options) -> Result<()> {
    if options.save && cfg!(debug_assertions) {
        return Err(Error::new(
            "--save writes figures of a release build only: cargo run --release -p lab -- fleet --save",
        ));
    }
    let scenarios: &[Scenario] = match options.quick {
        true => &scenarios::QUICK,
        false => &scenarios::ALL,
    };
    let scenarios: Vec<Scenario> = scenarios
        .iter()
        .filter(|scenario| {
            let mut names = scenario.names().iter();
            options.scenario.is_empty() || names.any(|name| wanted(&options.scenario, name))
        })
        .copied()
        .collect();
    let node_modules = node_modules();
    let mut left_out = Vec::new();
    let candidates: Vec<&Candidate> = candidates::ALL
        .iter()
        .filter(|it| options.candidate.is_empty() || wanted(&options.candidate, it.name))
        .filter(|it| {
            let missing = it.program == Program::Node && node_modules.is_none();
            if missing {
                left_out.push(format!(
                    "{}: node or its packages are not here; .ci/tools installs them",
                    it.name
                ));
            }
            !missing
        })
        .collect();
    if scenarios.is_empty() || candidates.is_empty() {
        let names = scenarios::ALL.iter().flat_map(|it| it.names());
        let names = Vec::from_iter(names.copied()).join("; ");
        let those = candidates::ALL.map(|it| it.name).join("; ");
        return Err(Error::new(format!(
            "there is no such scenario or candidate. Scenarios: {names}. Candidates: {those}"
        )));
    }

    let mut machine = Machine::before(options.quick);
    let server = start_server(&options, node_modules).await?;
    machine.postgres = server.postgres.installation().version().to_owned();
    let (runs, instances) = match options.quick {
        true => (1, 30),
        false => (options.runs.max(1), 60),
    };
    let cells = measure(&server, &candidates, &scenarios, runs, instances).await?;
    machine.finish();
    let report = Report {
        machine,
        runs,
        instances,
        sizes: [&server.programs.rust, &server.programs.node].map(|file| output::size(file)),
        candidates,
        scenarios,
        cells,
        left_out,
    };
    report.write(
        options.json.as_deref(),
        options.html.as_deref(),
        options.save,
    )
}

fn wanted(asked: &[String], name: &str) -> bool {
    asked.iter().any(|asked| asked == name)
}

async fn start_server(options: &Options, node_modules: Option<PathBuf>) -> Result<Server> {
    let rust = match &options.function {
        Some(function) => function.clone(),
        None => {
            let _step = Step::new("building the function");
            let mut arguments = vec!["-p", "lab", "--bin", "visit", "--features", "functions"];
            if !cfg!(debug_assertions) {
                arguments.push("--release");
            }
            build(&arguments).await?
        }
    };
    let _step = Step::new("starting PostgreSQL");
    let postgres = Postgres::builder()
        // A debug build takes 50 ms to prove a password, which says nothing.
        .auth(if options.quick {
            Auth::Trust
        } else {
            Auth::Scram
        })
        .setting("max_connections", CONNECTIONS)
        .start()
        .await?;
    let database = fleet::prepare(&postgres).await?;
    let functions = concat!(env!("CARGO_MANIFEST_DIR"), "/functions");
    Ok(Server {
        postgres,
        database,
        programs: Programs {
            rust,
            node: PathBuf::from(functions).join("visit.cjs"),
            node_modules,
        },
        patience: Duration::from_millis(if options.quick { 300 } else { 3_000 }),
    })
}

async fn measure(
    server: &Server,
    candidates: &[&Candidate],
    scenarios: &[Scenario],
    runs: usize,
    instances: usize,
) -> Result<Vec<Cell>> {
    let style = ProgressStyle::with_template("{bar:30} {pos}/{len} {msg}");
    let all = runs * scenarios.len() * candidates.len();
    let bar =
        ProgressBar::new(all as u64).with_style(style.unwrap_or(ProgressStyle::default_bar()));
    let mut cells = Vec::new();
    for run in 1..=runs {
        for (at, scenario) in scenarios.iter().enumerate() {
            for turn in 0..candidates.len() {
                let candidate = candidates[(turn + run + at) % candidates.len()];
                bar.set_message(format!("{}: {}", scenario.names()[0], candidate.name));
                let measured = match scenario.run(server, candidate, instances).await {
                    Ok(measured) => measured,
                    // While a server is down something else may take its port. That is free
                    // again, if it was one of the processes that are gone now.
                    Err(error) => {
                        let name = scenario.names()[0];
                        bar.println(format!("{name}, {}, once more: {error}", candidate.name));
                        server.postgres.restart().await?;
                        scenario.run(server, candidate, instances).await?
                    }
                };
                cells.extend(measured.into_iter().map(|cell| Cell { run, ..cell }));
                bar.inc(1);
            }
        }
    }
    bar.finish_and_clear();
    Ok(cells)
}

/// The packages of npm, where all are there, and node is.
fn node_modules() -> Option<PathBuf> {
    tools::folders().find(|folder| folder.join("node").is_file())?;
    let packages = ["pg", "serverless-postgres", "@vercel/functions"];
    tools::folders()
        .map(|folder| folder.join("../node/node_modules"))
        .find(|modules| {
            packages
                .iter()
                .all(|package| modules.join(package).is_dir())
        })
}
