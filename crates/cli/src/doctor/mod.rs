//! `antifreeze doctor`: prints the checks of the doctor.

mod print;
mod progress;

use std::time::Duration;

use antifreeze_doctor::{Check, Options, Report, Status, Step, Verdict, examine};
use clap::Args;
use progress::Progress;
use serde_json::json;

use crate::outcome::{Failure, Outcome};
use crate::target::{Target, time};
use crate::{output, signal};

#[derive(Args)]
pub struct Arguments {
    /// Report sessions that are idle in a transaction for longer than this
    #[arg(long, default_value = "10s", value_parser = time)]
    idle_in_transaction: Duration,
    /// Report transactions that are open or prepared for longer than this
    #[arg(long, default_value = "60s", value_parser = time)]
    transaction: Duration,
    /// Report transaction IDs that are older than this number of transactions
    #[arg(long, default_value_t = 1_000_000_000, value_name = "COUNT")]
    transaction_age: u64,
    /// Report replication slots that hold more WAL than this number of megabytes
    #[arg(long, default_value_t = 5120, value_name = "MEGABYTES")]
    retained_wal: u64,
}

pub async fn run(target: &Target, arguments: Arguments, json: bool) -> Result<Outcome, Failure> {
    let routes = target.routes("doctor")?;
    let mut options = Options::default();
    options.idle_in_transaction = arguments.idle_in_transaction;
    options.transaction = arguments.transaction;
    options.transaction_age = arguments.transaction_age;
    options.retained_wal = arguments.retained_wal << 20;
    options.files = target.files().clone();
    let progress = Progress::new(json, target.wait());
    let mut on_check = |check: &Check| progress.add(check);
    let examined = tokio::select! {
        report = examine(&routes, &options, &mut on_check) => Some(report),
        () = progress.show() => None,
        () = signal::stop() => None,
    };
    let interrupted = examined.is_none();
    let report = examined.unwrap_or_else(|| progress.report());
    progress.clear();
    let verdict = match interrupted {
        true => Verdict::Failed,
        false => report.verdict(),
    };
    if json {
        let document = json!({ "verdict": verdict, "checks": report.checks });
        output::print_json(&document);
    } else {
        let head = head(&report, verdict, interrupted);
        output::print(&print::page(&head, &report, output::width()));
    }
    Ok(match verdict {
        Verdict::Ok => Outcome::Success,
        Verdict::Findings => Outcome::Findings,
        _ => Outcome::Failed,
    })
}

/// Returns the verdict in one line.
fn head(report: &Report, verdict: Verdict, interrupted: bool) -> String {
    let has = |status| move |check: &&Check| check.status == status;
    let findings = report.checks.iter().filter(has(Status::Finding)).count();
    let counted = match findings {
        0 => "no findings".to_owned(),
        1 => "1 finding".to_owned(),
        many => format!("{many} findings"),
    };
    let is_hidden = |check: &Check| check.step == Step::Visibility;
    let failed = report.checks.iter().find(has(Status::Failed));
    match (verdict, failed) {
        _ if interrupted => format!("interrupted; {counted} so far"),
        (Verdict::Ok, _) if report.checks.iter().any(is_hidden) => {
            "no findings; some sessions are not visible".to_owned()
        }
        (Verdict::Failed, Some(check)) if findings == 0 => {
            format!("failed at {}", check.step.name())
        }
        (Verdict::Failed, Some(check)) => format!("failed at {}; {counted}", check.step.name()),
        _ => counted,
    }
}
