//! What a driver costs behind antifreeze, beside the same driver alone, in one run.
//!
//! ```sh
//! cargo run --release -p drivers --example measure_drivers
//! cargo run --release -p drivers --example measure_drivers -- --quick
//! ```
//!
//! Each driver is used as its own documentation shows it: alone with its pool; behind antifreeze
//! sqlx and SeaORM with a pool, Diesel and diesel-async with a connection for each use. Times
//! behind antifreeze are those of whole invocations. They are medians over rounds in which every
//! candidate has its turn, as ratios within a round.

#[path = "../../../lab/examples/measure/report.rs"]
#[allow(
    dead_code,
    reason = "these figures have no JSON and no rows of other pages"
)]
mod report;
mod subjects;

use std::process::ExitCode;
use std::time::Duration;

use lab::postgres::Postgres;
use lab::relay::Relay;
use lab::statistics::Spread;

use crate::report::Report;
use crate::subjects::{Driver, Subjects, Work};

type BoxError = Box<dyn std::error::Error + Send + Sync>;
type Result<T, E = BoxError> = std::result::Result<T, E>;

/// The round trips that a link adds, in milliseconds; the first is none.
const LINKS: [u64; 3] = [0, 1, 20];

/// The candidates of a driver: alone, and behind antifreeze.
const PLACES: [bool; 2] = [false, true];

#[tokio::main(worker_threads = 2)]
async fn main() -> ExitCode {
    let quick = std::env::args().any(|argument| argument == "--quick");
    lab::exit_code(measure(quick).await)
}

async fn measure(quick: bool) -> Result<()> {
    let mut report = Report::new("other-drivers.md", quick);
    let postgres = Postgres::start().await?;
    report.about(&postgres);
    let database = postgres.fresh_database().await?;
    database
        .execute("create unlogged table copied (a int)")
        .await?;
    let relay = Relay::start(postgres.address()).await?;
    let mut links = Vec::new();
    for milliseconds in LINKS {
        let url = match milliseconds {
            0 => database.url.clone(),
            _ => relay.url(&database.url),
        };
        let url = format!("{url}?sslmode=disable");
        let rows = if quick { 10_000 } else { 1_000_000 };
        links.push((milliseconds, Subjects::new(url, rows)?));
    }
    for work in Work::ALL {
        let mut cells = Vec::new();
        for (milliseconds, subjects) in &links {
            relay.delay(Duration::from_millis(*milliseconds));
            let rounds = if quick { 2 } else { work.rounds(*milliseconds) };
            cells.push(times(&database, subjects, work, rounds, work.batch(*milliseconds)).await?);
        }
        let drivers = work.drivers();
        let rows = drivers.iter().enumerate().map(|(at, driver)| {
            let cells = cells.iter().map(|link| link[at].clone());
            [driver.name().to_owned()]
                .into_iter()
                .chain(cells)
                .collect()
        });
        report.table(
            &format!("drivers {}", work.name()),
            work.title(),
            &["", "local", "1 ms away", "20 ms away"],
            &rows.collect::<Vec<_>>(),
        )?;
    }
    report.finish(None)
}

/// Returns for each driver its time alone, and the ratio of its time behind antifreeze.
async fn times(
    database: &lab::postgres::Database,
    subjects: &Subjects,
    work: Work,
    rounds: usize,
    batch: u32,
) -> Result<Vec<String>> {
    let drivers = work.drivers();
    let mut candidates: Vec<(Driver, bool)> = Vec::new();
    for driver in drivers {
        candidates.extend(PLACES.map(|behind| (*driver, behind)));
    }
    let mut samples = vec![Vec::new(); candidates.len()];
    // The first round is not counted: in it the pools connect.
    for round in 0..=rounds {
        let mut order: Vec<usize> = (0..candidates.len()).collect();
        // Forwards and backwards in turn: none always follows the same other.
        if round % 2 == 1 {
            order.reverse();
        }
        for at in order {
            let (driver, behind) = candidates[at];
            if work == Work::Copy {
                database.execute("truncate copied").await?;
            }
            let mut took = Duration::ZERO;
            for _ in 0..batch {
                took += subjects.time(driver, behind, work).await?;
            }
            if round > 0 {
                samples[at].push(took.as_secs_f64() * 1000.0 / f64::from(batch));
            }
        }
    }
    let cells = samples.chunks(2).map(|pair| {
        let [alone, behind] = pair else {
            return String::new();
        };
        let (median, ratio) = (Spread::of(alone), Spread::of_ratios(behind, alone));
        let cell = median.zip(ratio);
        cell.map_or_else(String::new, |(median, ratio)| {
            format!("{}, {}", milliseconds(median.median), ratio.ratio())
        })
    });
    Ok(cells.collect())
}

fn milliseconds(time: f64) -> String {
    match time {
        0.0..1.0 => format!("{:.0} µs", time * 1000.0),
        1.0..100.0 => format!("{time:.1} ms"),
        _ => format!("{time:.0} ms"),
    }
}
