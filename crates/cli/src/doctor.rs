//! `antifreeze doctor`.

use std::time::Duration;

use antifreeze_doctor::{Check, Mark, Options, Step, Verdict, examine};
use clap::Args;
use serde_json::json;

use crate::outcome::{Failure, Outcome};
use crate::paint;
use crate::reach::{Reach, time};

#[derive(Args)]
pub struct Arguments {
    /// A session that idles in a transaction for longer is a finding
    #[arg(long, default_value = "10s", value_parser = time)]
    idle_in_transaction: Duration,
    /// A transaction that is open for longer is a finding
    #[arg(long, default_value = "60s", value_parser = time)]
    transaction: Duration,
}

pub async fn run(reach: &Reach, arguments: Arguments, json: bool) -> Result<Outcome, Failure> {
    let ways = reach.ways("doctor")?;
    let mut options = Options::default();
    options.idle_in_transaction = arguments.idle_in_transaction;
    options.transaction = arguments.transaction;
    let mut told = |check: &Check| {
        if !json {
            show(check);
        }
    };
    let report = examine(&ways, &options, &mut told).await;
    let verdict = report.verdict();
    if json {
        let document = json!({ "verdict": verdict, "checks": report.checks });
        paint::document(&document);
    } else {
        let count = |mark| {
            report
                .checks
                .iter()
                .filter(|check| check.mark == mark)
                .count()
        };
        let hidden = report
            .checks
            .iter()
            .any(|check| check.step == Step::Visibility);
        paint::print(&match (count(Mark::Finding), verdict) {
            (0, Verdict::Well) if hidden => "nothing was found; not all could be seen".to_owned(),
            (0, Verdict::Well) => "all is well".to_owned(),
            (findings, Verdict::Failed) => {
                format!("not all could be looked at; findings so far: {findings}")
            }
            (findings, _) => format!("findings: {findings}"),
        });
    }
    Ok(match verdict {
        Verdict::Well => Outcome::Well,
        Verdict::Findings => Outcome::Findings,
        _ => Outcome::Failed,
    })
}

fn show(check: &Check) {
    let sign = paint::marked(check.mark, check.mark.sign());
    let name = paint::bold(&format!("{:<14}", check.step.name()));
    paint::print(&format!("{sign} {name} {}", check.text));
    if let Some(remedy) = &check.remedy {
        paint::print(&format!("{:17}-> {remedy}", ""));
    }
}
