//! Many frozen processes of a function before a small server: docs/limits.md.

use std::time::Duration;

use lab::fleet::{self, Burst, Fleet, LOG_LINE_PREFIX, ROLE};
use lab::postgres::Postgres;
use serde_json::json;

use crate::report::Report;
use crate::{Options, Result};

const INSTANCES: usize = 150;

/// What the server has, and what is left of it for roles that are no superusers.
const CONNECTIONS: i64 = 25;
const SLOTS: i64 = CONNECTIONS - 3;

/// What Lambda grants.
const DEADLINE: Duration = Duration::from_secs(60);

pub async fn run(report: &mut Report, options: &Options) -> Result<()> {
    let mut arguments = vec!["-p", "lab", "--features", "functions", "--bin", "visit"];
    if !cfg!(debug_assertions) {
        arguments.push("--release");
    }
    let function = lab::cargo::build(&arguments).await?;
    let postgres = Postgres::builder()
        .setting("max_connections", CONNECTIONS)
        .setting("log_line_prefix", LOG_LINE_PREFIX)
        .start()
        .await?;
    report.about(&postgres);
    let database = fleet::prepare(&postgres).await?;
    let url = database.url_for(ROLE);
    let fleet = Fleet::start(INSTANCES, &function, &database, &url, DEADLINE).await?;
    fleet.seen();
    let logged = postgres.log().len();
    let mut bursts: Vec<Burst> = Vec::new();
    let (mut rows, mut all) = (Vec::new(), Vec::new());
    for at in 1..=3 {
        let before = fleet::refused(&postgres.log()[logged..]).0;
        let burst = fleet.burst(INSTANCES).await?;
        let refused = fleet::refused(&postgres.log()[logged..]).0 - before;
        let took = match options.counts {
            true => "-".to_owned(),
            false => format!("{:.2} s", burst.elapsed.as_secs_f64()),
        };
        rows.push(vec![
            format!("burst {at}"),
            format!("{} of {INSTANCES}", burst.served),
            took,
            refused.to_string(),
        ]);
        all.push(json!({
            "served": burst.served,
            "seconds": burst.elapsed.as_secs_f64(),
            "refused": refused,
        }));
        bursts.push(burst);
    }
    let idle = format!("select 1 from pg_stat_activity where usename = '{ROLE}'");
    let kept = database.query(&idle).await?.len();
    let seen = fleet.seen();
    let refused = fleet::refused(&postgres.log()[logged..]);
    report.table(
        "fleet",
        &format!("{INSTANCES} frozen processes on {SLOTS} slots:"),
        &["", "served", "over after", "refused connects"],
        &rows,
    )?;
    report.note(&format!(
        "{} refused connects in all; another client was refused for {} ms at most.",
        refused.0,
        seen.shut_out.as_millis()
    ));
    if !options.counts {
        let row = fleet::row(&bursts, &seen, SLOTS, kept, refused);
        report.row("limits.md", "three bursts", &row)?;
    }
    report.set(
        "fleet",
        json!({
            "bursts": all,
            "refused": refused.0,
            "other_client_refused_for_ms": seen.shut_out.as_millis() as u64,
            "kept": kept,
        }),
    );
    Ok(())
}
