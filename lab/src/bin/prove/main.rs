//! `cargo run -p lab -- prove URL`: asks a deployed function for each ending, and looks at the
//! server from outside. docs/prove.md.

mod function;
mod report;
mod server;
mod table;

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use clap::Parser;
use lab::{Error, OrSay, Result};

use function::Function;
use report::{Ending, Report, Seen};
use server::Server;

/// Asks a deployed function (the folder prove/) for each ending, and shows what it leaves on the
/// server. The token is read from PROVE_TOKEN.
#[derive(Parser)]
#[command(name = "lab prove", version)]
struct Arguments {
    /// The function with the layer
    url: String,
    /// The same function with WITHOUT_LAYER=1, to compare
    #[arg(long, value_name = "URL")]
    without: Option<String>,
    /// The database of the function, past any pooler; DATABASE_URL unless given
    #[arg(long, value_name = "URL")]
    database: Option<String>,
    /// When the server is looked at again after a response
    #[arg(long, value_name = "SECONDS", default_value_t = 5.0, value_parser = seconds)]
    wait: f64,
    /// Where the report goes as JSON; - is the standard output, and the table goes to stderr
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

fn seconds(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(seconds) if (0.0..=600.0).contains(&seconds) => Ok(seconds),
        _ => Err("expected seconds between 0 and 600".to_owned()),
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    match run(Arguments::parse()).await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            lab::exit_code(Err(error.into()));
            ExitCode::from(2)
        }
    }
}

/// Returns whether the function has left nothing open.
async fn run(arguments: Arguments) -> Result<bool> {
    let token = std::env::var("PROVE_TOKEN").unwrap_or_default();
    if token.is_empty() {
        return Err(Error::new(
            "PROVE_TOKEN is not set: set it to the token that the function was deployed with",
        ));
    }
    let with = Function::find(&arguments.url, &token).await?;
    let without = match &arguments.without {
        Some(url) => Some(Function::find(url, &token).await?),
        None => None,
    };
    let server = Server::connect(arguments.database.as_deref()).await?;
    for function in [Some(&with), without.as_ref()].into_iter().flatten() {
        server.is_that_of(&function.description).await?;
    }
    server.prepare(&with, without.as_ref()).await?;
    let wait = Duration::from_secs_f64(arguments.wait);
    let last = AtomicU64::new(0);
    let observed = tokio::select! {
        observed = observe(&server, &with, without.as_ref(), wait, &last) => observed,
        _ = tokio::signal::ctrl_c() => Err(Error::new("interrupted")),
    };
    if observed.is_err() {
        for function in [Some(&with), without.as_ref()].into_iter().flatten() {
            // What the ending under way has left.
            let tag = last.load(Ordering::Relaxed);
            let _ = server.end(&function.description, tag).await;
        }
    }
    let tidied = server.tidy_up().await;
    let endings = observed?;
    tidied?;
    let report = Report {
        wait,
        server: server.version.clone(),
        with: with.description,
        without: without.map(|function| function.description),
        endings,
    };
    write(&report, arguments.json)?;
    Ok(report.left_open().is_empty())
}

async fn observe(
    server: &Server,
    with: &Function,
    without: Option<&Function>,
    wait: Duration,
    last: &AtomicU64,
) -> Result<Vec<Ending>> {
    let mut endings = Vec::new();
    for (name, does) in with.description.endings() {
        eprintln!("{name}: {does}");
        let compared = match without {
            Some(function) => Some(one(server, function, &name, wait, last).await?),
            None => None,
        };
        endings.push(Ending {
            with: one(server, with, &name, wait, last).await?,
            without: compared,
            name,
            does,
        });
    }
    Ok(endings)
}

/// One ending: the response, the server then and later, and a migration.
async fn one(
    server: &Server,
    function: &Function,
    ending: &str,
    wait: Duration,
    last: &AtomicU64,
) -> Result<Seen> {
    let tag = antifreeze::internal::random_number();
    last.store(tag, Ordering::Relaxed);
    let described = &function.description;
    let rows = server.rows().await?;
    let answer = function.end(ending, tag).await?;
    let at_once = server.look(described, tag).await?;
    tokio::time::sleep(wait).await;
    let later = server.look(described, tag).await?;
    let alter_table = server.alter_table().await?;
    let seen = Seen {
        is_reached: server.rows().await? > rows && answer.error.is_none(),
        answer,
        at_once,
        later,
        alter_table,
    };
    if seen.is_open() {
        server.end(described, tag).await?;
    }
    Ok(seen)
}

fn write(report: &Report, json: Option<PathBuf>) -> Result<()> {
    let table = table::written(report);
    let Some(path) = json else {
        print!("{table}");
        return Ok(());
    };
    let text = format!("{:#}\n", report.json());
    if path.as_os_str() == "-" {
        eprint!("{table}");
        let written = std::io::stdout().write_all(text.as_bytes());
        return written.or_say(|| "cannot write the report");
    }
    print!("{table}");
    std::fs::write(&path, text).or_say(|| format!("cannot write {}", path.display()))
}
