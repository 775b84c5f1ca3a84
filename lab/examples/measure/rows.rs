//! Large results: wide rows and many rows.

use serde_json::Value;

use crate::Result;
use crate::count::Workers;
use crate::report::Report;
use crate::servers::{Servers, Watch};
use crate::subjects::{BARE, FAST, LAYER, Statement};
use crate::warm::{counts, places, ratio_rows, ratios_json, samples};
use crate::worker::Regime;

pub async fn run(report: &mut Report, quick: bool) -> Result<()> {
    let servers = Servers::start_postgres().await?;
    servers.postgres.execute(&Statement::tables()).await?;
    // Otherwise the first to read them would.
    servers.postgres.execute("vacuum (freeze, analyze)").await?;
    let workers = Workers {
        url: servers.postgres.url(),
        full: None,
    };
    let postmaster = Watch::start(&servers.postgres).await?.postmaster();
    let (rounds, batch) = if quick { ("3", "2") } else { ("40", "10") };
    let mut times: Vec<Value> = Vec::new();
    for (place, core) in places(report, postmaster) {
        let mut columns = Vec::new();
        for statement in [Statement::Wide, Statement::Many] {
            let work = [
                "time",
                "--statement",
                statement.word(),
                "--rounds",
                rounds,
                "--batch",
                batch,
                "--regime",
                Regime::CurrentThread.name(),
            ];
            let samples = samples(&workers, core, &work)?;
            times.extend(ratios_json(place, statement.word(), &samples));
            columns.push((statement.text(), samples));
        }
        report.table(
            &format!(
                "Large results, client and server {place}; ratio to the bare statement \
                 (quartiles), after its median:"
            ),
            &["", columns[0].0, columns[1].0],
            &ratio_rows(&columns),
        );
    }
    report.note(
        "`wide`: 250 rows of 20 texts of 200 bytes, a megabyte; `many`: 50,000 rows of an integer.",
    );
    report.set("rows_times", times.into());
    let batches = if quick { (1, 3) } else { (5, 25) };
    for statement in [Statement::Wide, Statement::Many] {
        let names = [BARE, LAYER, FAST, "sqlx"];
        let counted = counts(report, &workers, statement, &names, batches)?;
        report.set(&format!("rows_counts_{}", statement.word()), counted);
    }
    Ok(())
}
