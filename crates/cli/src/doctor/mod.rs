//! `antifreeze doctor`: prints the checks of the doctor.

use std::time::Duration;

use antifreeze_doctor::{Check, Options, Status, Step, Verdict, examine};
use clap::Args;
use serde_json::json;

use crate::outcome::{Failure, Outcome};
use crate::output;
use crate::target::{Target, time};

#[derive(Args)]
pub struct Arguments {
    /// Report sessions that are idle in a transaction for longer than this
    #[arg(long, default_value = "10s", value_parser = time)]
    idle_in_transaction: Duration,
    /// Report transactions that are open for longer than this
    #[arg(long, default_value = "60s", value_parser = time)]
    transaction: Duration,
}

pub async fn run(target: &Target, arguments: Arguments, json: bool) -> Result<Outcome, Failure> {
    let routes = target.routes("doctor")?;
    let mut options = Options::default();
    options.idle_in_transaction = arguments.idle_in_transaction;
    options.transaction = arguments.transaction;
    let mut on_check = |check: &Check| {
        if !json {
            show(check);
        }
    };
    let report = examine(&routes, &options, &mut on_check).await;
    let verdict = report.verdict();
    if json {
        let document = json!({ "verdict": verdict, "checks": report.checks });
        output::print_json(&document);
    } else {
        let findings = report
            .checks
            .iter()
            .filter(|check| check.status == Status::Finding)
            .count();
        let hidden = report
            .checks
            .iter()
            .any(|check| check.step == Step::Visibility);
        output::print(&match verdict {
            Verdict::Ok if hidden => "no findings; some sessions are not visible".to_owned(),
            Verdict::Ok => "no findings".to_owned(),
            Verdict::Failed => format!("failed; findings so far: {findings}"),
            _ => format!("findings: {findings}"),
        });
    }
    Ok(match verdict {
        Verdict::Ok => Outcome::Success,
        Verdict::Findings => Outcome::Findings,
        _ => Outcome::Failed,
    })
}

fn show(check: &Check) {
    let symbol = output::colored(check.status, check.status.symbol());
    let name = output::bold(&format!("{:<14}", check.step.name()));
    output::print(&format!("{symbol} {name} {}", check.text));
    if let Some(remedy) = &check.remedy {
        output::print(&format!("{:17}-> {remedy}", ""));
    }
}
