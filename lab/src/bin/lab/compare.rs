//! What other libraries leave behind, as a table.

use comfy_table::{Table, presets};
use indicatif::{ProgressBar, ProgressStyle};
use lab::Result;
use lab::cargo::build;
use lab::compare::{DIESEL, ENDINGS, LIBRARIES, Moment, cases, left_behind};
use lab::postgres::Postgres;

use crate::step::Step;

const MOMENTS: [(Moment, &str); 3] = [
    (Moment::Returned, "when the handler has returned"),
    (Moment::Response, "when the response has left"),
    (
        Moment::Next,
        "when the runtime asks for the next event, as Lambda does it",
    ),
];

pub async fn run(runs: usize, next: bool) -> Result<()> {
    let moments = if next { &MOMENTS[2..] } else { &MOMENTS };
    let functions = {
        let _step = Step::new("building the functions");
        let libraries = ["-p", "lab", "--bin", "libraries", "--features", "functions"];
        let diesel = ["-p", "drivers", "--bin", "compared"];
        [
            (&LIBRARIES[..], build(&libraries).await?),
            (&DIESEL[..], build(&diesel).await?),
        ]
    };
    let libraries: Vec<_> = functions.iter().flat_map(|(those, _)| *those).collect();
    let postgres = Postgres::start().await?;
    let style = ProgressStyle::with_template("{bar:40} {pos}/{len} {msg}");
    let each = functions
        .iter()
        .map(|(those, _)| cases(those, Moment::Next).count());
    let all = moments.len() * each.sum::<usize>();
    let bar =
        ProgressBar::new(all as u64).with_style(style.unwrap_or(ProgressStyle::default_bar()));
    let mut tables = Vec::new();
    for &(moment, name) in moments {
        let mut stuck = Vec::new();
        for (those, function) in &functions {
            for case in cases(those, moment) {
                bar.set_message(format!("{}: {}", case.library, case.ending));
                stuck.push((case, left_behind(&postgres, function, case, runs).await?));
                bar.inc(1);
            }
        }
        let mut table = Table::new();
        table.load_preset(presets::ASCII_MARKDOWN);
        table
            .set_header(std::iter::once("ending").chain(libraries.iter().map(|library| **library)));
        for ending in ENDINGS {
            let cells = libraries.iter().map(|library| {
                let those = stuck
                    .iter()
                    .filter(|(case, _)| case.library == **library && case.ending == ending);
                let (stuck, of) = those.fold((0, 0), |(stuck, of), (_, left)| {
                    (stuck + left.stuck, of + left.runs)
                });
                format!("{stuck} of {of}")
            });
            table.add_row(std::iter::once(ending.to_owned()).chain(cells));
        }
        tables.push((name, table));
    }
    bar.finish_and_clear();
    println!(
        "How often a session was busy, in a transaction, or had an advisory lock, while its\n\
         process was frozen: {runs} times each on a current-thread and on a multi-thread runtime, PostgreSQL {}.\n",
        postgres.installation().version()
    );
    for (name, table) in tables {
        println!("Frozen {name}:\n\n{table}\n");
    }
    Ok(())
}
