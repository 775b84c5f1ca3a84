//! Large results: wide rows and many rows.

use serde_json::Value;

use crate::report::Report;
use crate::servers::{Servers, Watch};
use crate::subjects::{BARE, BEHIND, FAST, LAYER, Statement};
use crate::warm::{counts, places, ratio_rows, ratios_json, samples};
use crate::worker::{Regime, Task};
use crate::workers::{Job, Workers, word};
use crate::{Options, Result};

/// The pools hand on what the driver reads: one of them is enough.
const NAMES: [&str; 5] = [BARE, LAYER, FAST, "sqlx", BEHIND];

pub async fn run(report: &mut Report, options: &Options) -> Result<()> {
    let servers = Servers::start_postgres().await?;
    servers.postgres.execute(&Statement::tables()).await?;
    report.about(&servers.postgres);
    // Otherwise the first to read them would.
    servers.postgres.execute("vacuum (freeze, analyze)").await?;
    let workers = Workers {
        url: format!("{}?sslmode=disable", servers.postgres.url()),
        full: None,
    };
    if !options.counts {
        times(report, &servers, &workers, options).await?;
    }
    let batches = if options.quick { (1, 3) } else { (5, 25) };
    for statement in [Statement::Wide, Statement::Many] {
        let counted = counts(report, &workers, statement, &NAMES, batches)?;
        report.set(&format!("rows_counts_{}", word(statement)), counted);
    }
    Ok(())
}

async fn times(
    report: &mut Report,
    servers: &Servers,
    workers: &Workers,
    options: &Options,
) -> Result<()> {
    let postmaster = Watch::start(&servers.postgres).await?.postmaster();
    let (rounds, batch) = if options.quick { (3, 2) } else { (40, 10) };
    let mut times: Vec<Value> = Vec::new();
    for (place, core) in places(report, postmaster) {
        let mut columns = Vec::new();
        for statement in [Statement::Wide, Statement::Many] {
            let job = Job {
                task: Task::Time,
                statement,
                regime: Regime::CurrentThread,
                names: &NAMES,
                rounds,
                batch,
            };
            let samples = samples(workers, core, job)?;
            times.extend(ratios_json(place, &word(statement), &samples));
            columns.push((statement.text(), samples));
        }
        report.table(
            &format!("rows times {place}"),
            &format!(
                "Large results, client and server {place}; ratio to the bare statement \
                 (quartiles), after its median:"
            ),
            &["", columns[0].0, columns[1].0],
            &ratio_rows(&columns),
        )?;
    }
    report.note(
        "`wide`: 250 rows of 20 texts of 200 bytes, a megabyte; `many`: 10,000 rows of an integer.",
    );
    report.set("rows_times", times.into());
    Ok(())
}
